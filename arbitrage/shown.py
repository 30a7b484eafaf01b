"""Numbers as a reader sees them: thousands apart, a true minus sign, a dash for what is not known.

Pure. `templates/page.js` says the same in the browser. Invariants: nan, infinity and None are never
shown as words; a number that rounds to zero has no sign.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arbitrage.stats import Moments

MISSING = "\u2013"
MINUS = "\u2212"
PLUS_MINUS = "\u00b1"
STEPS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))


def known(value: Any) -> float | None:
    """The number, none where it is not finite or not there."""
    return float(value) if value is not None and math.isfinite(value) else None


def number(value: float | None, digits: int = 2, sign: str = "-") -> str:
    """With so many decimals; with `sign` "+" more than nothing has its sign too."""
    value = known(value)
    if value is None:
        return MISSING
    text = f"{value:,.{digits}f}"
    if not any(char in "123456789" for char in text):
        return text.lstrip("-")
    return ("+" if sign == "+" and value > 0 else "") + text.replace("-", MINUS)


def count(value: float | None) -> str:
    """A whole number."""
    return number(value, 0)


def signed(value: float | None, digits: int = 2) -> str:
    """A difference."""
    return number(value, digits, "+")


def percent(value: float | None, digits: int = 1, sign: str = "-") -> str:
    """A part of one, in hundredths."""
    value = known(value)
    return MISSING if value is None else f"{number(100 * value, digits, sign)}%"


def significant(value: float | None, digits: int = 3) -> str:
    """With so many digits that count, whatever the size."""
    value = known(value)
    if not value:
        return MISSING if value is None else "0"
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    return number(value, min(9, max(0, decimals)))


def compact(value: float | None) -> str:
    """A count in thousands, millions or more, with three digits."""
    value = known(value)
    for size, letter in STEPS if value is not None else ():
        if abs(value or 0.0) >= size:
            return f"{significant((value or 0.0) / size)}{letter}"
    return count(value)


def digits_for(half_width: float) -> int:
    """So many decimals that a width has two digits that count; three where there is none."""
    if not half_width > 0 or not math.isfinite(half_width):
        return 3
    return min(9, max(0, 1 - math.floor(math.log10(half_width))))


def interval(moments: Moments, digits: int | None = None, sign: str = "-") -> str:
    """A mean and half of its 95 % interval, where there is one."""
    half = known(moments.half_width)
    digits = digits_for(half or 0.0) if digits is None else digits
    beside = "" if half is None else f"\u00a0{PLUS_MINUS}\u00a0{number(half, digits)}"
    return f"{number(moments.mean, digits, sign)}{beside}"
