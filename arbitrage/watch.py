"""Says, purely, which replicas have stopped producing. Knows no Ray and no clock.

A replica is watched while it has something to do. Its pulse, a count that every token moves, must
move within the replica's limit; a process that is frozen tells no pulse at all, which is the same.
"""

from __future__ import annotations

from dataclasses import dataclass

ASKED = 10
"""So many times within its limit a replica is asked: of a thousand, few have to be at a time."""


@dataclass
class _Seen:
    pulse: int
    since_s: float
    limit_s: float
    asked_s: float


class Watch:
    """Times are seconds of any one clock."""

    def __init__(self) -> None:
        self._seen: dict[str, _Seen] = {}

    def begin(self, name: str, limit_s: float, now_s: float) -> None:
        """A replica has something to do; nothing changes where it is watched already."""
        self._seen.setdefault(name, _Seen(-1, now_s, limit_s, now_s))

    def end(self, name: str) -> None:
        """It has nothing to do, or is no more."""
        self._seen.pop(name, None)

    def due(self, now_s: float) -> list[str]:
        """Those to ask for their pulse now; they count as asked."""
        due = [n for n, one in self._seen.items() if now_s - one.asked_s >= one.limit_s / ASKED]
        for name in due:
            self._seen[name].asked_s = now_s
        return due

    def heard(self, name: str, pulse: int, now_s: float) -> None:
        """It has told its pulse."""
        seen = self._seen.get(name)
        if seen is not None and pulse != seen.pulse:
            seen.pulse, seen.since_s = pulse, now_s

    def hanging(self, now_s: float) -> list[str]:
        """Those whose pulse has stood still for too long."""
        return [n for n, seen in self._seen.items() if now_s - seen.since_s > seen.limit_s]
