"""Which rows of a table match a pattern, which are the best, and which nobody beats.

Pure, and the same rules as in `templates/leaderboard.js`. A direction is 1 where more is better, -1
where less is, 0 where neither is.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from arbitrage.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    Point = tuple[float | None, float | None]

REGULAR = "re:"


def matcher(pattern: str) -> Callable[[Iterable[str]], bool]:
    """Whether any of some texts matches: `re:` and a regular expression that is found in it, a
    pattern with `*` or `?` that is all of it, or a part of it. The case of letters does not count.

    Raises UsageError for a regular expression that is none.
    """
    if pattern.startswith(REGULAR):
        return _any_found(_compiled(pattern.removeprefix(REGULAR)))
    if "*" in pattern or "?" in pattern:
        # Not fnmatch: to it brackets are a sign too, and names of models have them.
        told = "".join({"*": ".*", "?": "."}.get(sign, re.escape(sign)) for sign in pattern)
        return _any_found(re.compile(rf"\A{told}\Z", re.IGNORECASE | re.DOTALL))
    part = pattern.strip().lower()
    return lambda texts: not part or any(part in text.lower() for text in texts)


def _any_found(expression: re.Pattern[str]) -> Callable[[Iterable[str]], bool]:
    return lambda texts: any(expression.search(text) for text in texts)


def _compiled(expression: str) -> re.Pattern[str]:
    try:
        return re.compile(expression, re.IGNORECASE)
    except re.error as error:
        raise UsageError(f"{expression!r} is no regular expression: {error}") from error


def front(points: Sequence[Point], directions: tuple[int, int]) -> list[bool]:
    """Per point: whether it is on the Pareto front, that is, known in both and no other is at least
    as good in both and better in one. Nobody is where an axis has no direction."""
    if 0 in directions:
        return [False] * len(points)
    turned = {
        place: (x * directions[0], y * directions[1])
        for place, (x, y) in enumerate(points)
        if x is not None and y is not None and not math.isnan(x + y)
    }
    found = [False] * len(points)
    best_y, best_x = -math.inf, math.nan
    # From the best x on: what is left must have a better y than all before, or be a twin.
    for place, (x, y) in sorted(turned.items(), key=lambda item: (-item[1][0], -item[1][1])):
        if y > best_y or (y == best_y and x == best_x):
            found[place] = True
            best_y, best_x = y, x
    return found


def ranked(values: Sequence[float | str | None], direction: int) -> list[int]:
    """The places of some values, best first, unknown ones last, equal ones as they stood. Text goes
    by the alphabet."""
    known = [place for place, value in enumerate(values) if value is not None]
    unknown = [place for place, value in enumerate(values) if value is None]
    if any(isinstance(values[place], str) for place in known):
        return sorted(known, key=lambda place: str(values[place]).lower()) + unknown
    sign = 1 if direction < 0 else -1
    return sorted(known, key=lambda place: sign * float(values[place] or 0.0)) + unknown
