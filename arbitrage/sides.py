"""One run as it is held beside another: its prompts' ids, and what it chose for those of both.

Reads files only, shard by shard; of a prompt it keeps some fifty bytes. Prompts are the same where
their ids are, whatever shard they are in, so two runs need not be cut alike.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

import numpy as np

from arbitrage import baselines
from arbitrage.costs import costs_of
from arbitrage.plan import quarantine_of
from arbitrage.results import Results
from arbitrage.spending import paid
from arbitrage.store import shard_number
from arbitrage.views import look

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import pyarrow as pa
    from numpy.typing import NDArray

    from arbitrage.costs import Cost

    Array = NDArray[Any]

UNFINISHED, SELECTED, QUARANTINED = range(3)
NOBODY = -1
READ = [
    *("prompt_id", "completion", "arbiter_fingerprint", "run_fingerprint"),
    *baselines.COLUMNS,
]


class Side:
    """One run. Raises UsageError where there is none.

    `ids` are those of all its prompts, sorted; `language` has the place of each one's code among
    `codes`. After `read`, of the shared prompts, (shared,) each: `state`; `judged`: whether the
    Arbiter of today gave the `reward`; `teacher`: the place of its label among `labels`; `text`: a
    hash of the completion; `reason`: the place of why it is quarantined among `reasons`; `shard`:
    its number in the product. `wins` are the parts of prompts won, by place of language and label.
    """

    def __init__(self, place: Path | str) -> None:
        self.store, self.components, self.planner, self.shards, self.config = look(place)
        self.files = sorted(self.planner.selected)
        self.ids, self.language, self.codes = self._prompts()
        self.reasons: list[str] = []
        self.wins: dict[tuple[int, str], float] = {}

    def costs(self) -> list[Cost]:
        """What its roles have cost."""
        return costs_of(self.store, self.components, paid(self.store, self.planner.listing))

    def _prompts(self) -> tuple[Array, Array, list[str]]:
        ids, language = [packed([])], [np.empty(0, np.int16)]
        known: dict[str, int] = {}
        for shard in self.shards:
            table = self.store.read(shard.path, columns=["prompt_id", "language"]).table
            ids.append(packed(table["prompt_id"].to_pylist()))
            codes = table["language"].to_pylist()
            language.append(np.array([known.setdefault(c, len(known)) for c in codes], np.int16))
        joined = np.concatenate(ids)
        order = np.argsort(joined)
        return joined[order], np.concatenate(language)[order], list(known)

    def read(self, shared: Array, codes: Array, names: Mapping[str, str]) -> Iterator[None]:
        """Takes in the product, a shard each time; `shared` are sorted ids, `codes` the place of
        the language that each is counted in, and `names` the teachers' labels by fingerprint."""
        count = len(shared)
        self.shared, self._names, self._codes = shared, names, codes
        self.labels = [*dict.fromkeys(names.values())]
        self.state = np.full(count, UNFINISHED, np.int8)
        self.judged = np.zeros(count, bool)
        self.reward = np.full(count, np.nan)
        self.teacher, self.reason = np.full((2, count), NOBODY, np.int16)
        self.text = np.zeros(count, np.uint64)
        self.shard = np.full(count, NOBODY, np.int32)
        results = Results(self.components, set(self.config.gates.enforced()))
        for path in self.files:
            self._add(path, results)
            self._add_lost(path)
            yield

    def _add(self, path: str, results: Results) -> None:
        table, place = self._shared_of(baselines.first_rows(self.store.read(path, READ).table))
        if not len(place):
            return
        self._add_wins(results, table, self._codes[place])
        told = {label: number for number, label in enumerate(self.labels)}
        prints = table["teacher_fingerprint"].to_pylist()
        self.state[place] = SELECTED
        self.reward[place] = table["reward"].to_numpy()
        self.teacher[place] = [told.get(self._names.get(one, ""), NOBODY) for one in prints]
        self.text[place] = [_hashed(text) for text in table["completion"].to_pylist()]
        self.shard[place] = shard_number(path)
        self.judged[place] = self._judged(table)

    def _add_wins(self, results: Results, table: pa.Table, codes: Array) -> None:
        won = results.add(table).won
        own = [self._names[one.fingerprint] for one in self.components.answering]
        for code in sorted(set(codes.tolist())):
            sums = won[:, codes == code].sum(axis=1).tolist()
            for name, amount in zip(own, sums, strict=True):
                self.wins[code, name] = self.wins.get((code, name), 0.0) + amount

    def _judged(self, table: pa.Table) -> list[bool]:
        """Whether rows were chosen as the config says now: they may wait to be made anew."""
        several = len(self.components.arbiters) > 1
        column = "run_fingerprint" if several else "arbiter_fingerprint"
        now = (self.components if several else self.components.arbiter).fingerprint
        return [one == now for one in table[column].to_pylist()]

    def _add_lost(self, path: str) -> None:
        if not self.store.footer(path)["quarantined"]:
            return
        lost = self.store.read(quarantine_of(path), columns=["prompt_id", "reason"]).table
        table, place = self._shared_of(lost)
        self.state[place] = QUARANTINED
        self.shard[place] = shard_number(path)
        for row, reason in zip(place.tolist(), table["reason"].to_pylist(), strict=True):
            if reason not in self.reasons:
                self.reasons.append(reason)
            self.reason[row] = self.reasons.index(reason)

    def _shared_of(self, table: pa.Table) -> tuple[pa.Table, Array]:
        """The rows of shared prompts, and the place of each among those."""
        ids = packed(table["prompt_id"].to_pylist())
        if not len(self.shared):
            return table.slice(0, 0), np.empty(0, np.int64)
        place = np.minimum(np.searchsorted(self.shared, ids), len(self.shared) - 1)
        mine = self.shared[place] == ids
        return table.filter(mine), place[mine]

    def languages_of(self, shared: Array) -> Array:
        """The place of each one's language among `codes`, of some of its prompts."""
        places: Array = self.language[np.searchsorted(self.ids, shared)]
        return places


def packed(ids: Sequence[str]) -> Array:
    """Prompt ids, 32 hexadecimal digits each, as 16 bytes each."""
    return np.frombuffer(bytes.fromhex("".join(ids)), "S16")


def unpacked(one: bytes) -> str:
    """The id again; numpy leaves out zeros at the end."""
    return one.ljust(16, b"\0").hex()


def _hashed(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


def labels_of(first: Side, second: Side) -> tuple[dict[str, str], dict[str, str]]:
    """For each side the labels of teachers by fingerprint: equal ones are of one teacher, that is,
    of one fingerprint, or of one name where that has changed. Where a name is another teacher's in
    the second run, its label there is marked."""
    labels: tuple[dict[str, str], dict[str, str]] = ({}, {})
    for teacher in first.components.answering:
        labels[0][teacher.fingerprint] = teacher.name
    again = [t for t in second.components.answering if t.fingerprint in labels[0]]
    for teacher in again:
        labels[1][teacher.fingerprint] = labels[0][teacher.fingerprint]
    taken = set(labels[1].values())
    for teacher in second.components.answering:
        name = f"{teacher.name} (second)" if teacher.name in taken else teacher.name
        labels[1].setdefault(teacher.fingerprint, name)
    for side, known in zip((first, second), labels, strict=True):
        for variant in side.components.variants:
            known[variant.fingerprint] = known[variant.role]
    return labels
