"""When a run must be over: a span from now, or a time of day. Knows no clock: now is a value."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from arbitrage.errors import UsageError

_SPAN = re.compile(r"(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m(?:in)?)?(?:(\d+)s)?", re.IGNORECASE)
_CLOCK = re.compile(r"\d{1,2}:\d{2}")


def seconds_until(text: str, now: datetime) -> float:
    """Seconds from `now`, which has a time zone, to what `text` says: 90s, 10m, 1h30m, 2d, the next
    06:00, or a date and time such as 2030-01-31T06:00. Raises UsageError."""
    span = _SPAN.fullmatch(text.strip())
    if span and any(span.groups()):
        days, hours, minutes, seconds = (int(part or 0) for part in span.groups())
        return timedelta(days, seconds, minutes=minutes, hours=hours).total_seconds()
    try:
        if _CLOCK.fullmatch(text):
            at = datetime.strptime(text, "%H:%M").time()
            then = now.replace(hour=at.hour, minute=at.minute, second=0, microsecond=0)
            then += timedelta(days=then <= now)
        else:
            then = datetime.fromisoformat(text)
            then = then if then.tzinfo else then.replace(tzinfo=now.tzinfo)
    except ValueError:
        raise UsageError(
            f"--stop-before {text!r} is no time; say how long from now (90s, 10m, 1h30m) or when "
            "(06:00, 2030-01-31T06:00)"
        ) from None
    if then <= now:
        raise UsageError(f"--stop-before {text} is past already")
    return (then - now).total_seconds()
