"""Routers decide which teachers are asked. One function and one line in `ROUTERS` each.

A router sees the prompts' ids and languages, never the answers; it must be deterministic.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa

from arbitrage.identity import digest
from arbitrage.records import ROUTES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from arbitrage.components import Components, Teacher


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


def routes_of(
    prompts: pa.Table, components: Components
) -> tuple[dict[str, tuple[int, str]], pa.Table]:
    """Per teacher (rows, digest of the ids that it is asked); and the ROUTES table."""
    ids = prompts["prompt_id"].to_pylist()
    router = ROUTERS[components.router.name]
    teachers = router(prompts["language"].to_pylist(), components.teachers)
    asked: dict[str, list[str]] = {}
    for key, owners in zip(ids, teachers, strict=True):
        for owner in owners:
            asked.setdefault(owner, []).append(key)
    table = pa.table([pa.array(ids), pa.array(teachers, pa.list_(pa.string()))], ROUTES)
    return {o: (len(keys), digest("".join(keys).encode())) for o, keys in asked.items()}, table
