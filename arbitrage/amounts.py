"""Amounts as a person reads them: counts, bytes, money and times in a few characters.

Pure; knows nothing of who shows them. An amount that is not known is `UNKNOWN`.
"""

from __future__ import annotations

UNKNOWN = "?"


def count(number: float | None) -> str:
    """1.2 M, 340 k, 57."""
    if number is None:
        return UNKNOWN
    for unit, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if number >= size * (10 if unit == "k" else 1):
            few = number < 999.5 * size
            return f"{number / size:.3g} {unit}" if few else f"{number / size:.0f} {unit}"
    return f"{number:,.0f}"


def size(number: int | None) -> str:
    """1.2 GB, 340 kB, 57 B."""
    if number is None:
        return UNKNOWN
    for unit, unit_bytes in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= unit_bytes:
            many = number >= 100 * unit_bytes
            told = f"{number / unit_bytes:.0f}" if many else f"{number / unit_bytes:.2g}"
            return f"{told} {unit}"
    return f"{number} B"


def span(seconds: float | None) -> str:
    """3 d 4 h, 3 h 20 min, 5 min, 12 s, 0.3 s."""
    if seconds is None:
        return UNKNOWN
    if seconds < 10:
        return f"{seconds:.1f} s" if seconds else "0 s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes:02d} min"
    days, hours = divmod(hours, 24)
    return f"{days} d {hours} h"
