"""What a reader of win rates must know of how they came about, in sentences."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arbitrage.errors import StoreError
from arbitrage.files import has_scheme
from arbitrage.prompts import MEMO
from arbitrage.store import Store
from arbitrage.winrate.config import FromRun
from arbitrage.winrate.contest import Adopted

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from arbitrage.winrate.contest import Contest
    from arbitrage.winrate.gathering import Gathered


def caveats_of(found: Gathered, contest: Contest, store: Store) -> list[str]:
    """What is not complete, which questions take no part or are of before, and judges that have a
    stake in what they judge. Raises StoreError where `store` cannot be read."""
    told = [*_of_questions(store)]
    if found.unplayed:
        told.append(
            f"{found.unplayed:,} shards of games are not judged yet; the same command goes on"
        )
    for entrant in contest.entrants:
        if isinstance(entrant, Adopted) and isinstance(entrant.source, FromRun):
            told += _own_judges(entrant.name, entrant.source, contest)
    return told


def _of_questions(store: Store) -> Iterator[str]:
    """Rows that are no questions, and questions that are in no source any more."""
    sources: Sequence[dict[str, Any]] = [*(store.read_json(MEMO) or {}).values()]
    if not sources:
        return
    reasons: Counter[str] = Counter()
    for source in sources:
        reasons.update(source["refused"])
    refused, rows = reasons.total(), sum(source["rows"] for source in sources)
    if refused:
        ordered = sorted(reasons.items(), key=lambda item: (-item[1], item[0]))
        why = ", ".join(f"{reason} {count:,}" for reason, count in ordered if count)
        takes = "was refused and takes" if refused == 1 else "were refused and take"
        twice = "; the same text in two languages counts once, in the first"
        yield (
            f"{refused:,} of {rows:,} rows of the questions {takes} no part ({why})"
            f"{twice if reasons['duplicate'] else ''}"
        )
    footers = store.footers(store.files_in("prompts")).values()
    old = sum(one["rows"] for one in footers) - sum(source["accepted"] for source in sources)
    if old > 0:
        are = "question is of sources as they were before, and counts"
        are = are if old == 1 else "questions are of sources as they were before, and count"
        yield f"{old:,} {are} too; for the present ones alone give `evaluation:` a new folder"


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
