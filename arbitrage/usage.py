"""What work costs: requests, tokens and money, added up without counting anything twice.

A task's usage is what its file's footer says under `spent`. Most tokens come with the completions
that an engine gives back; an engine that has spent others (a judge's, or those of an answer that is
of no use) notes them, and they count for the task that it was asked by.
"""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PER = 1_000_000
"""Prices are for so many tokens."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What some work has spent.

    `requests` counts completions that a teacher was asked for and candidates that the Arbiter was
    given, those that came to nothing too. Tokens are those that the engine tells: a prompt's count
    for each of its completions, and a local reward model's are not told. `cost` is in the currency
    of the configured prices; `untold` counts answers whose tokens a server did not tell.
    """

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost: float = 0.0
    untold: int = 0

    @property
    def tokens(self) -> int:
        """Of prompts and completions together."""
        return self.prompt_tokens + self.completion_tokens

    def plus(self, other: Usage) -> Usage:
        """The sum."""
        return Usage(
            self.requests + other.requests,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
            self.cost + other.cost,
            self.untold + other.untold,
        )

    def minus(self, other: Usage) -> Usage:
        """The difference."""
        return Usage(
            self.requests - other.requests,
            self.prompt_tokens - other.prompt_tokens,
            self.completion_tokens - other.completion_tokens,
            self.cost - other.cost,
            self.untold - other.untold,
        )

    def priced(self, price: tuple[float, float] | None) -> Usage:
        """The same with its cost, at a price per million tokens of prompt and of completion."""
        if price is None:
            return self
        money = self.prompt_tokens * price[0] + self.completion_tokens * price[1]
        return replace(self, cost=money / PER)

    def measured(self) -> dict[str, float]:
        """By the names that `budget:` has for it."""
        return {"requests": self.requests, "tokens": self.tokens, "money": self.cost}


def total_of(usages: Iterable[Usage]) -> Usage:
    """The sum of all."""
    total = Usage()
    for usage in usages:
        total = total.plus(usage)
    return total


class Meter:
    """Adds up what is noted while it is open."""

    def __init__(self) -> None:
        self.total = Usage()

    def add(self, usage: Usage) -> None:
        """Counts it in."""
        self.total = self.total.plus(usage)


_METER: ContextVar[Meter | None] = ContextVar("meter", default=None)


@contextlib.contextmanager
def metered() -> Iterator[Meter]:
    """Collects what engines note in this block and in the asyncio tasks that start in it.

    Two blocks open at the same time in two asyncio tasks know nothing of each other, so tasks in
    flight on one engine are told apart.
    """
    meter = Meter()
    token = _METER.set(meter)
    try:
        yield meter
    finally:
        _METER.reset(token)


def note(usage: Usage) -> None:
    """For engines: something was spent that no completion tells of."""
    if (meter := _METER.get()) is not None:
        meter.add(usage)
