"""What the diary tells of the last call of `run`: what it gave up, and how fast each role is.

Pure: events in. Times are the driver's own, so its clock and that of who looks are never compared.
Events that are not whole are passed over.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass
class Call:
    """The last call so far. `rows` and `since` are by (stage, owner): rows that were made, and when
    the first task began; `last` is the last event of the diary."""

    last: dict[str, Any] | None = None
    ended: bool = False
    set_aside: dict[str, str] = field(default_factory=dict)
    rows: Counter[tuple[str, str]] = field(default_factory=Counter)
    since: dict[tuple[str, str], float] = field(default_factory=dict)

    def rows_per_s(self, stage: str, owner: str) -> float | None:
        """Of all replicas together, from the role's first task to the last event; none where it has
        made nothing."""
        rows, since = self.rows[stage, owner], self.since.get((stage, owner))
        if not rows or since is None or self.last is None or self.last["time"] <= since:
            return None
        return float(rows / (self.last["time"] - since))


def last_call(events: Iterable[Any]) -> Call:
    """What happened since the last `run_started`."""
    call = Call()
    for event in events:
        if not _is_whole(event):
            continue
        if event["event"] == "run_started":
            call = Call()
        call.last = event
        call.ended = event["event"] == "run_ended"
        if event["event"] == "set_aside":
            call.set_aside[str(event.get("role"))] = str(event.get("reason"))
        elif event["event"] == "task_done":
            _add(call, event)
    return call


def _add(call: Call, event: dict[str, Any]) -> None:
    rows, seconds = event.get("rows"), event.get("seconds")
    if not isinstance(rows, int) or not isinstance(seconds, int | float):
        return
    key = (str(event.get("stage")), str(event.get("owner")))
    call.rows[key] += rows
    begun = float(event["time"]) - seconds
    call.since[key] = min(begun, call.since.get(key, begun))


def _is_whole(event: Any) -> bool:
    """Whether a line of the diary holds what all events have."""
    return (
        isinstance(event, dict)
        and isinstance(event.get("event"), str)
        and isinstance(event.get("time"), int | float)
    )
