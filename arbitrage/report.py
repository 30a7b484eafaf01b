"""One HTML file that explains a run in a minute, and opens without a net.

It gathers what `account`, `verdicts`, `variety` and `samples` tell, has it rendered, and writes
nothing but that file. The first screen is made here, so that it can be read without scripts; the
scripts get plain data. Invariant: however long the texts, a page is at most `MAX_BYTES` large, as
long as its tables alone are not larger.

    arbitrage report runs/first
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arbitrage import account, page, report_matrix, report_tables, report_view, samples, shown
from arbitrage import winrate_page as winrates
from arbitrage.errors import StoreError, UsageError
from arbitrage.files import has_scheme
from arbitrage.store import Store
from arbitrage.variety import diversity_of_run
from arbitrage.verdicts import verdicts_of
from arbitrage.views import look

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arbitrage.account import Account
    from arbitrage.winrate.results import Results

NAME = "report.html"
MAX_BYTES = 10_000_000
SPARE_BYTES = 100_000
PARTS = ("report_plots", "report_samples")
"""Scripts of the page besides its own."""


@dataclass(frozen=True)
class Written:
    """Where the report is, and how large."""

    path: Path
    size: int


def write(
    place: str,
    output: Path | None = None,
    prompts: int = samples.PROMPTS,
    winrate: Results | None = None,
) -> Written:
    """Makes the report of a run, with up to so many sampled prompts, in one step.

    `winrate`: what an evaluation of its models found, shown as a section of its own.

    Raises UsageError where there is no run, or no place for the file.
    """
    target = output or _own_place(place)
    if target.is_dir():
        raise UsageError(f"{target} is a folder; name a file: -o {target / NAME}")
    text = rendered(place, prompts, winrate)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        Store(target.parent.resolve()).write_text(target.name, text)
    except (OSError, StoreError) as error:
        raise UsageError(f"{target} cannot be written: {error}; name another file: -o") from error
    return Written(target, len(text.encode("utf-8")))


def _own_place(place: str) -> Path:
    if has_scheme(place):
        raise UsageError(f"{place} is no local folder; say where to write: -o {NAME}")
    return Path(place) / NAME


def rendered(place: str, prompts: int = samples.PROMPTS, winrate: Results | None = None) -> str:
    """The page as text. Raises UsageError where there is no run."""
    view = look(place)
    found = account.of_view(view)
    diversity = diversity_of_run(*view).as_dict() if len(found.teachers) > 1 else None
    beside = len(html(found, _nothing(), diversity, winrate).encode("utf-8"))
    room = min(samples.MAX_BYTES, max(0, MAX_BYTES - SPARE_BYTES - beside))
    texts = samples.samples_of(*view, prompts=prompts, max_bytes=room).as_dict()
    return html(found, texts, diversity, winrate)


def _nothing() -> dict[str, Any]:
    extent = {"shards": 0, "prompts": 0, "of_shards": 0, "of_prompts": 0, "unseen": []}
    return {"samples": [], "extent": extent, "chars": 0, "asked_chars": 0}


def html(
    found: Account,
    texts: Mapping[str, Any],
    diversity: Mapping[str, Any] | None = None,
    winrate: Results | None = None,
) -> str:
    """The page of what was gathered; `texts` is what `Sampled.as_dict` gives."""
    head = report_view.head(found)
    matrix = report_matrix.matrix_of(found)
    return page.render(
        "report.html",
        title=f"{head['name']} \u2013 arbitrage",
        data=_data(found, matrix, texts)
        | ({"winrate": winrates.data_of(winrate, brief=True)} if winrate else {}),
        plots=True,
        also=(*PARTS, *([winrates.PARTS] if winrate else [])),
        winrate=winrates.section(winrate) if winrate else None,
        head=head,
        verdicts=verdicts_of(found),
        tiles=report_view.tiles(found),
        matrix=matrix,
        sheets=[report_tables.teachers(found), report_tables.languages(found)],
        remarks=_remarks(found),
        extent=texts["extent"],
        has_product=bool(found.languages),
        unasked=report_matrix.UNASKED,
        curve=_curve(found),
        diversity=diversity if diversity and diversity["teachers"] else None,
        diverse=report_tables.diversity(diversity) if diversity else None,
    )


def _curve(found: Account) -> dict[str, Any]:
    """How many of the prompts the curves are of."""
    count, of = found.curve_prompts, found.ledger.selected
    return {"few": count < of, "prompts": shown.count(count), "of": shown.count(of)}


def _data(
    found: Account,
    matrix: report_matrix.Matrix,
    texts: Mapping[str, Any],
) -> dict[str, Any]:
    """What the scripts read."""
    told = found.as_dict()
    return {
        "matrix": matrix.as_dict(),
        "digits": report_view.digits_of(found),
        "teachers": found.teachers,
        "codes": matrix.codes,
        "reward": told["reward"],
        "single": told["single"],
        "drawn": told["drawn"],
        "thinned": told["thinned"],
        "spread": told["spread"],
        "lengths": told["lengths"],
        "wins": {row["language"]: _wins(row) for row in told["languages"]},
        "texts": texts,
    }


def _wins(row: dict[str, Any]) -> dict[str, float]:
    return {name: cell["won"] for name, cell in row["teachers"].items() if cell["won"]}


def _remarks(found: Account) -> list[str]:
    """What a reader has to know of the figures before believing them."""
    told = list(found.facts["remarks"])
    if found.ledger.unfinished:
        told.append(
            f"{found.ledger.unfinished:,} prompts are unfinished; the figures are of the others. "
            "`arbitrage run` goes on."
        )
    if found.cells.missing:
        told.append(
            f"{found.cells.missing:,} files of candidates are not there, or were not looked at by "
            "the gates yet."
        )
    if found.languages and not found.reward.deviation > 0 and found.reward.count > 1:
        told.append("The Arbiter gave every chosen answer the same reward; it tells nothing apart.")
    return told
