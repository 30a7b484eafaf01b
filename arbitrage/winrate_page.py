"""Win rates as one HTML file that opens offline, and as a section of other pages.

The headline is made here, so that it can be read without scripts; the scripts get the rows as plain
data and draw bars, matrices and tables of them. Invariant: every number on the page is one of the
results, to eight digits. Names of models and judges are text.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from arbitrage import page
from arbitrage.languages import table
from arbitrage.tables import harmless
from arbitrage.winrate import telling
from arbitrage.winrate.results import ALL, Estimate, Row

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arbitrage.winrate.results import Results

PARTS = "winrate_parts"
"""Styles and scripts of the section, for every page that has it."""
DIGITS = 8
MOST_ROWS = 20_000
"""So many rows are 5 MB of a page."""
FIELDS = tuple(Row.__dataclass_fields__)
"""The places of a row in the data of the page."""


def write(results: Results) -> str:
    """The whole page."""
    left = len(results.rows) - len(_shown(results, brief=False))
    if left:
        told = (
            f"{left:,} rates of single pairs in one language or category are not on this page, but "
            "in winrate.json."
        )
        results = replace(results, remarks=(*results.remarks, told))
    against = f"against {results.baseline}" if results.baseline else "of all against all"
    return page.render(
        "winrate.html",
        title=_text(f"Win rates {against}"),
        data={
            "winrate": data_of(results),
            "effects": [_one(one) for one in results.effects],
            "agreements": [_one(one) for one in results.agreements],
        },
        also=(PARTS,),
        winrate=section(results),
        judged=_judged(results),
        settings=_listed(results.settings),
        made_from=_listed(results.made_from or {}),
        failures=[[_text(one) for one in told] + [games] for *told, games in results.failures],
    )


def section(results: Results) -> dict[str, Any]:
    """What the template of the section needs."""
    first, *others = map(_text, telling.headline(results))
    notices = [*results.remarks, telling.failures(results)]
    return {
        "first": first,
        "others": others,
        "by": _text(telling.seen_by(results)),
        "notices": [_text(one) for one in notices if one],
        "has_rows": bool(telling.ranked(results)),
    }


def _text(text: str) -> str:
    return harmless(text).plain


def data_of(results: Results, *, brief: bool = False) -> dict[str, Any]:
    """What the scripts of the section read; `brief`: of the usual judge and opponent alone."""
    rows = _shown(results, brief=brief)
    codes = {code: table()[code].name for code in results.languages if code in table()}
    return {
        "fields": FIELDS,
        "rows": [[_told(getattr(row, name)) for name in FIELDS] for row in rows],
        "baseline": results.baseline,
        "models": results.models,
        "judges": results.judges,
        "judge": results.pooled,
        "against": results.opponent,
        "languages": results.languages,
        "names": codes,
        "categories": results.categories,
    }


def _shown(results: Results, *, brief: bool) -> list[Row]:
    """The rows that a page carries: of very many not those of each pair in each language."""
    if brief:
        return [row for row in results.rows if _is_usual(results, row)]
    if len(results.rows) <= MOST_ROWS:
        return list(results.rows)
    return [row for row in results.rows if row.against == results.opponent or row.scope == ALL]


def _is_usual(results: Results, row: Row) -> bool:
    """Of the judge and the opponent that are shown first, and of everyone against everyone."""
    if row.judge != results.pooled:
        return False
    return row.against == results.opponent or (not results.baseline and row.scope == ALL)


def _one(found: Any) -> dict[str, Any]:
    return {name: _told(getattr(found, name)) for name in found.__dataclass_fields__}


def _told(value: Any) -> Any:
    """A value of a row: an estimate is a list of three, rounded to what a page can show."""
    if isinstance(value, Estimate):
        return [float(f"{number:.{DIGITS}g}") for number in value]
    return value


def _judged(results: Results) -> list[str]:
    """Sentences on agreement and on what else moves the verdicts."""
    agreed = [telling.agreed(one) for one in results.agreements if one.scope == ALL]
    return [_text(one) for one in [*agreed, *telling.biases(results)]]


def _listed(told: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Names and values as text, whatever they are."""
    return [
        (
            _text(str(name)),
            _text(value if isinstance(value, str) else json.dumps(page.plain(value))),
        )
        for name, value in told.items()
    ]
