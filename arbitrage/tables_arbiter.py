"""Turns an Arbiter's card, and the comparison of two, into what a terminal shows; prints nothing.

Fits 80 columns; `--json` has all digits.
"""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from arbitrage.tables import harmless, plain_table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from rich.console import RenderableType

    from arbitrage.assay import Assayed
    from arbitrage.card import Attack, Card, Result
    from arbitrage.compare import Comparison, Disagreement
    from arbitrage.measures import Estimate

BELOW, DOUBTFUL = "<", "?"
SHOWN_ERRORS = 5
WIDTH = 80
CODE_WIDTH = 6
LEGEND = (
    "accuracy: pairs whose chosen completion scores higher, %, with the 95 % interval (a tie is a "
    "miss). With length: rank correlation of score and length differences; longest: share of "
    "pairs in which the longer completion scores higher / is the chosen one, %; slope: points of "
    "score per unit of log length, with its standard error."
)
ATTACK_LEGEND = (
    "share of attacked pairs in which the rejected completion scores above the chosen one, %, and "
    "without the added text; `neutral` texts try nothing"
)
COMPARED = (
    "differ: prompts of which the two would pick another candidate, %; agree: mean rank "
    "correlation of their scores within the prompt, of those prompts (ranked) on which both give "
    "different scores; length: the same of each with the length"
)


def of_card(card: Card, examples: Mapping[str, str] | None = None) -> Group:
    """The whole card; `examples` of rows that were no pairs, by reason."""
    who = f"{card.arbiter.name} ({card.arbiter.fingerprint}) on {card.pairs.used:,} labelled pairs"
    parts: list[RenderableType] = [harmless(who, "bold"), _languages(card)]
    parts.append(_wrapped(LEGEND, "dim"))
    parts += _verdict(card)
    if card.categories:
        told = (f"{name} {_percent(own.value)}" for name, own in card.categories.items())
        parts.append(_wrapped(f"accuracy by category, %: {', '.join(told)}"))
    parts += _unjudged(card.overall)
    for reason, count in card.pairs.refused.items():
        example = (examples or {}).get(reason, "")
        parts.append(_wrapped(f"rows that are no pairs: {reason} {count:,} ({example})"))
    if card.attacks:
        parts += [Text(), _attacks(card.attacks), _wrapped(ATTACK_LEGEND, "dim")]
    return Group(*parts)


def _wrapped(text: str, style: str = "") -> Text:
    return harmless(textwrap.fill(text, WIDTH), style)


def _languages(card: Card) -> Table:
    right = ["pairs", "accuracy", "ties", "margin", "with\nlength", "longest", "slope"]
    table = plain_table(["lang"], right)
    table.columns[0].min_width, table.collapse_padding = CODE_WIDTH, True
    below = card.languages_below(card.least)
    doubtful = card.languages_in_doubt(card.least)
    for code, result in card.languages.items():
        mark = (BELOW if code in below else "") + (DOUBTFUL if code in doubtful else "")
        table.add_row(f"{code:3} {mark}", *_cells(result))
    table.add_section()
    table.add_row("all", *_cells(card.overall), style="bold")
    macro = card.macro
    longest = _two(macro.longest_wins.value, macro.longest_labelled.value)
    own = (f"{macro.languages} lang.", _interval(macro.accuracy), "", "", "", longest, "")
    table.add_row("mean", *own, style="bold")
    return table


def _cells(result: Result) -> list[str]:
    line = result.slope
    return [
        f"{result.judged:,}",
        _interval(result.accuracy),
        f"{result.ties:,}",
        _points(result.margin),
        _signed(result.rank_correlation, 2),
        _two(result.longest_wins.value, result.longest_labelled.value),
        "-" if line is None else f"{_points(line.value)} ({_points(line.error)[1:]})",
    ]


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}"


def _two(one: float | None, other: float | None) -> str:
    return f"{_percent(one, 0)} / {_percent(other, 0)}"


def _signed(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:+.{digits}f}"


def _points(value: float | None) -> str:
    """Scores have any scale."""
    return _signed(value, 2) if value is None or abs(value) < 100 else f"{value:+.3g}"


def _interval(found: Estimate) -> str:
    if found.value is None:
        return "-"
    return f"{_percent(found.value)} [{_percent(found.low)}, {_percent(found.high)}]"


def _verdict(card: Card) -> list[Text]:
    below, doubtful = card.languages_below(card.least), card.languages_in_doubt(card.least)
    least = _percent(card.least, 0)
    told = [Text(f"no language is below {least} %")]
    if below:
        told = [_wrapped(f"below {least} % ({BELOW}): {', '.join(below)}", "bold red")]
    if doubtful:
        names = ", ".join(doubtful)
        told.append(_wrapped(f"too few pairs to be sure of {least} % ({DOUBTFUL}): {names}"))
    return told


def _unjudged(result: Result) -> list[Text]:
    told = []
    if result.over_window:
        told.append(Text(f"pairs over the model's window: {result.over_window:,}"))
    for reason, count in list(result.errors.items())[:SHOWN_ERRORS]:
        told.append(harmless(f"pairs without a score: {count:,} ({reason})", "red"))
    return told


def _attacks(attacks: Iterable[Attack]) -> Table:
    table = plain_table(["attack", "at the"], ["pairs", "passes", "without", "score"])
    for one in attacks:
        without = _percent(one.without.value)
        cells = (f"{one.passes.total:,}", _interval(one.passes), without, _signed(one.moved, 2))
        table.add_row(one.kind, one.place, *cells)
    return table


def of_work(made: Assayed, card: str, scores: str) -> Group:
    """Where the card is, and what it took."""
    kept = f"all scores are in {scores}"
    told = [f"scored now: {made.fresh:,} of {made.completions:,} completions; {kept}"]
    spent = made.spent
    if spent.tokens:
        counts = f"{spent.prompt_tokens:,} prompt tokens, {spent.completion_tokens:,} completion"
        money = f", {spent.cost:,.4f} in money" if spent.cost else ""
        told.append(f"spent so far: {counts} tokens{money}")
    return Group(Text(f"\ncard: {card}", style="bold"), *map(harmless, told))


def of_comparison(found: Comparison) -> Group:
    """Where two Arbiters disagree, by language, by teacher, and most of all."""
    a, b = found.first, found.second
    head = f"A: {a.name} ({a.fingerprint})   B: {b.name} ({b.fingerprint})"
    right = ["prompts", "differ", "ranked", "agree", "length A", "length B"]
    table = plain_table(["lang"], right)
    for code, row in found.languages.items():
        table.add_row(code, *_compared(row))
    table.add_section()
    table.add_row("all", *_compared(found.overall), style="bold")
    parts: list[RenderableType] = [harmless(head, "bold"), table, _wrapped(COMPARED, "dim")]
    parts += [Text(), _picks(found.overall)]
    if found.strongest:
        parts += [Text(), _strongest(found)]
    if found.single:
        parts.append(Text(f"prompts with fewer than two candidates of both: {found.single:,}"))
    if found.unmatched:
        parts.append(Text(f"files of scores without a counterpart, left out: {found.unmatched:,}"))
    return Group(*parts)


def _compared(row: Disagreement) -> list[str]:
    lengths = [_signed(one, 2) for one in row.length]
    agreement = (f"{row.ranked:,}", _signed(row.agreement, 2))
    return [f"{row.prompts:,}", _interval(row.differ), *agreement, *lengths]


def _picks(row: Disagreement) -> Table:
    table = plain_table(["picked from"], ["by A, %", "by B, %"])
    for name, shares in sorted(row.picks.items(), key=lambda item: (-sum(item[1]), item[0])):
        table.add_row(harmless(name), *(_percent(share) for share in shares))
    return table


def _strongest(found: Comparison) -> Table:
    table = plain_table(["strongest disagreement", "lang", "A picks", "B picks"], [])
    table.columns[0].max_width = 32
    for one in found.strongest:
        picks = (harmless(f"{name} #{sample}") for name, sample in (one.first, one.second))
        table.add_row(one.prompt_id, one.language, *picks)
    return table
