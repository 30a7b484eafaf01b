"""The run's diary: one line of JSON per event, written by the driver alone, read by anyone.

A diary never ends a run: events that cannot be written are dropped, and the next one tells how
many. In a folder each event is written at once; on an object store they are gathered, because each
write makes an object.
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import TYPE_CHECKING, Any

from arbitrage.files import LocalFiles, patiently

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arbitrage.files import Files

DIARY = "events.jsonl"
GATHER_S = 5.0


class Diary:
    """The driver's hand in it. In another process it begins with nothing gathered."""

    def __init__(self, files: Files, patience_s: float, gather_s: float = GATHER_S) -> None:
        self._files = files
        self._patience_s = patience_s
        self._gather_s = 0.0 if isinstance(files, LocalFiles) else gather_s
        self._lines: list[str] = []
        self._dropped = 0
        self._written = time.monotonic()

    def __reduce__(self) -> tuple[type[Diary], tuple[Files, float, float]]:
        return (Diary, (self._files, self._patience_s, self._gather_s))

    def add(self, event: str, facts: dict[str, Any]) -> None:
        """Adds an event with the time, in seconds since 1970."""
        told = {"time": round(time.time(), 3), "event": event, **facts}
        if self._dropped:
            told["dropped"] = self._dropped
            self._dropped = 0
        self._lines.append(json.dumps(told))
        if time.monotonic() - self._written >= self._gather_s:
            self.flush()

    def flush(self) -> None:
        """Writes what was gathered; what cannot be written is dropped and counted."""
        lines, self._lines = self._lines, []
        if not lines:
            return
        try:
            patiently(lambda: self._write("\n".join(lines).encode() + b"\n"), self._patience_s)
        except OSError:
            earlier = sum(json.loads(line).get("dropped", 0) for line in lines)
            self._dropped += len(lines) + earlier
        self._written = time.monotonic()

    def _write(self, data: bytes) -> None:
        """After a line that a kill has torn, on a line of its own."""
        torn = False
        if isinstance(self._files, LocalFiles):
            with contextlib.suppress(FileNotFoundError):
                torn = self._files.tail(DIARY, 1) not in (b"", b"\n")
        self._files.append(DIARY, b"\n" + data if torn else data, sync=False)


def parsed(diary: bytes) -> Iterator[dict[str, Any]]:
    """The events of a diary's bytes; a line that is torn is passed over."""
    for line in diary.split(b"\n"):
        with contextlib.suppress(ValueError):
            yield json.loads(line)
