"""What a task has finished so far, beside the file that it makes.

    candidates/<teacher>-<fp>/.journal-00000.<key>      while 00000.<key>.parquet is being made

One line per finished item, appended every few seconds: a checksum and JSON. A line that a kill has
torn, or that is about other inputs (`basis`), does not match its checksum and is passed over, so
two writers that know nothing of each other do no harm. A task that finishes fast has no journal.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from arbitrage.store import JOURNAL
from arbitrage.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Sequence

    from arbitrage.plan import Task
    from arbitrage.store import Listing, Store

CHECK_HEX = 8


def journal_of(output: str) -> str:
    """Where the journal of a file is."""
    folder, _, name = output.rpartition("/")
    return f"{folder}/{JOURNAL}{name.removesuffix('.parquet')}"


def basis_of(task: Task) -> str:
    """What the journal of a task is about: its inputs; making a file again is another matter."""
    return f"{task.key}/again" if task.output in task.inputs else task.key


def sweep(store: Store, listing: Listing, spared: Collection[str] = ()) -> int:
    """Removes the journals of files that are there: their writers died before they could do it.
    Spares those of files that are being made again. Only for the holder of the lock; gives their
    number."""
    done = {journal_of(path) for path in listing.files - set(spared)} & listing.journals
    for path in done:
        store.remove(path)
    return len(done)


class Journal:
    """Reads what earlier attempts have left, and adds to it.

    `found` maps finished items to their results as plain data. `trial` names the items of the last
    attempt to find out which of them kills the engine, those that did not finish in it; `tried`
    counts how often an item was in one by itself, `alone` only where the engine was known to work.
    `deadly` are those that were found out. `spent` is what finished and unfinished items have
    cost beyond what their results tell.
    """

    def __init__(self, store: Store, output: str, basis: str) -> None:
        self.path = journal_of(output)
        self._store = store
        self._seed = zlib.crc32(basis.encode())
        self._lines: list[bytes] = []
        self._is_there = False
        self.found: dict[str, Any] = {}
        self.tried: Counter[str] = Counter()
        self.alone: Counter[str] = Counter()
        self.deadly: set[str] = set()
        self.trial: list[str] = []
        self.spent = Usage()
        self.torn = 0

    def read(self) -> None:
        """Takes in what is there. Blocks; raises StoreError."""
        data = self._store.appended(self.path)
        self._is_there = bool(data)
        for told in self._sound(data):
            if "done" in told:
                key, value = told["done"]
                self.found[key] = value
            elif "trial" in told:
                self.trial = told["trial"]
                self._count(told["works"])
            elif "deadly" in told:
                self.deadly.add(told["deadly"])
            else:
                self.spent = self.spent.plus(Usage(**told["spent"]))
        self.trial = [key for key in self.trial if key not in self.found]

    def _sound(self, data: bytes) -> Iterator[dict[str, Any]]:
        for line in data.splitlines():
            check, _, text = line.partition(b" ")
            if check == self._check(text):
                yield json.loads(text)
            else:
                self.torn += bool(line)

    def _check(self, text: bytes) -> bytes:
        return b"%0*x" % (CHECK_HEX, zlib.crc32(text, self._seed))

    def _add(self, told: dict[str, Any]) -> None:
        text = json.dumps(told, separators=(",", ":")).encode()
        self._lines.append(self._check(text) + b" " + text)

    def add(self, key: str, value: Any) -> None:
        """Notes a finished item; `value` is plain data."""
        self._add({"done": [key, value]})

    def _count(self, works: bool) -> None:
        if len(self.trial) == 1:
            self.tried.update(self.trial)
            self.alone.update(self.trial if works else ())

    def note_trial(self, keys: Sequence[str], *, works: bool) -> None:
        """Notes that these are about to be done by themselves: one of them may end the process.
        `works`: whether the engine was seen to do others."""
        self.trial = list(keys)
        self._add({"trial": self.trial, "works": works})
        self._count(works)

    def note_deadly(self, key: str) -> None:
        """Notes that an item was given up because it kills its engine."""
        self.deadly.add(key)
        self._add({"deadly": key})

    def note_spent(self, usage: Usage) -> None:
        """Notes what was spent besides."""
        self._add({"spent": asdict(usage)})

    def flush(self) -> None:
        """Puts what was noted on the disk; it stays noted where that fails. Blocks; StoreError."""
        if not self._lines:
            return
        lines = self._lines
        # An earlier writer's last line may be torn: so ours begin on one of their own.
        self._store.append(self.path, b"\n".join([b"", *lines, b""]))
        self._lines = self._lines[len(lines) :]
        self._is_there = True

    def remove(self) -> None:
        """Forgets all of it, once the file is there. Blocks."""
        if self._is_there:
            self._store.remove(self.path)
