"""How fast a server is asked: the window of requests in flight, and the waits before a retry.

Pure: knows no clock, network or event loop; times are passed in, in seconds of one clock.
"""

from __future__ import annotations

import math
import statistics
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

START = 8
SHORTEST_ROUND = 8
INFLATION = 5.0
"""How much slower than at its best a server may become before it is asked less at once. Batching
makes it slower as the window grows and yet does more in all, so this is far above one."""
FORGETTING = 1.05
"""Per round: the best pace of long ago is no measure for ever."""
FINEST_S = 1e-4
"""Differences below this are noise."""
GIVE_WAY, SLOW_DOWN = 0.5, 0.75
JITTER = 0.5


class Window:
    """Additive increase, multiplicative decrease of the requests in flight, from 1 to `cap`.

    Until the first decrease it grows by one per answer, from then on by one per round; a round is
    as many answers as the window is wide. Requests that were sent before the last decrease say
    nothing about the window as it is now, so one storm decreases it once.
    """

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._width = float(min(cap, START))
        self._started = False
        self._cut_s = -math.inf
        self._paces: list[float] = []
        self._best = math.inf

    @property
    def width(self) -> int:
        """Requests that may be in flight now."""
        return int(self._width)

    def answered(self, sent_s: float, now_s: float, pace_s: float, in_flight: int) -> None:
        """An answer came. `pace_s` is what it took per unit of work; `in_flight` counts it too."""
        if sent_s < self._cut_s:
            return
        if in_flight >= self.width:  # else nothing shows that the server could bear more
            step = 1 / self._width if self._started else 1.0
            self._width = min(float(self._cap), self._width + step)
        self._paces.append(pace_s)
        if len(self._paces) >= max(SHORTEST_ROUND, self.width):
            self._end_round(now_s)

    def _end_round(self, now_s: float) -> None:
        pace = statistics.median(self._paces)
        self._paces.clear()
        if pace > INFLATION * self._best:
            self._cut(now_s, SLOW_DOWN)
        self._best = max(FINEST_S, min(pace, self._best * FORGETTING))

    def overloaded(self, sent_s: float, now_s: float) -> None:
        """The server refused for want of capacity, or did not answer in time."""
        if sent_s >= self._cut_s:
            self._cut(now_s, GIVE_WAY)

    def _cut(self, now_s: float, share: float) -> None:
        self._width = max(1.0, self._width * share)
        self._started = True
        self._cut_s = now_s
        self._paces.clear()


def backoff_s(attempt: int, first_s: float, most_s: float, chance: float) -> float:
    """The wait after the `attempt`-th failure (1, 2, ...); `chance` in 0..1 takes off up to half,
    so that requests which failed together do not come back together."""
    whole = min(most_s, first_s * 2.0 ** min(attempt - 1, 64))
    return whole * (1 - JITTER * chance)


def retry_after_s(header: str | None, now: datetime, most_s: float) -> float:
    """What a Retry-After header (seconds or an HTTP date) asks for, at most `most_s`; else 0."""
    text = (header or "").strip()
    try:
        asked = float(text)
    except ValueError:
        asked = _seconds_until(text, now)
    return 0.0 if math.isnan(asked) else min(max(asked, 0.0), most_s)


def _seconds_until(text: str, now: datetime) -> float:
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return 0.0
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now.timestamp()
