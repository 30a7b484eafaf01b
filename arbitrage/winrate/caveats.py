"""What a reader of win rates must know of how they came about, in sentences."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from arbitrage.errors import StoreError
from arbitrage.files import has_scheme
from arbitrage.store import Store
from arbitrage.winrate.config import FromRun
from arbitrage.winrate.contest import Adopted

if TYPE_CHECKING:
    from arbitrage.winrate.contest import Contest
    from arbitrage.winrate.gathering import Gathered


def caveats_of(found: Gathered, contest: Contest) -> list[str]:
    """What is not complete, and judges that have a stake in what they judge."""
    told = []
    if found.unplayed:
        told.append(
            f"{found.unplayed:,} shards of games are not judged yet; the same command goes on"
        )
    for entrant in contest.entrants:
        if isinstance(entrant, Adopted) and isinstance(entrant.source, FromRun):
            told += _own_judges(entrant.name, entrant.source, contest)
    return told


def _own_judges(name: str, source: FromRun, contest: Contest) -> list[str]:
    """An Arbiter that has chosen the data prefers it by construction."""
    if source.teacher is not None:
        return []
    store = Store(source.run if has_scheme(source.run) else Path(source.run))
    try:
        papers = store.read_json("run.json") or {}
    except StoreError:
        return []  # it was read before, and what it held is adopted
    chose = {
        print_
        for part, print_ in papers.get("fingerprints", {}).items()
        if part.startswith("scores/")
    }
    return [
        f"Arbiter {arbiter.name!r} has chosen what {name!r} says, so its verdict on that flatters; "
        "let another judge confirm it"
        for arbiter in contest.arbiters
        if arbiter.fingerprint in chose
    ]
