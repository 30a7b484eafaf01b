"""Routers decide which teachers are asked. One function and one line in `ROUTERS` each.

A router sees the prompts' ids and languages, never the answers; it must be deterministic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from arbitrage.components import Teacher


def all_covering(languages: Sequence[str], teachers: Sequence[Teacher]) -> list[list[str]]:
    """Every teacher that covers the prompt's language: per prompt, sorted fingerprints."""
    asked = {
        language: sorted(t.fingerprint for t in teachers if language in t.languages)
        for language in set(languages)
    }
    return [asked[language] for language in languages]


ROUTERS: dict[str, Callable[[Sequence[str], Sequence[Teacher]], list[list[str]]]] = {
    "all": all_covering
}
