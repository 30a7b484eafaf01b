"""What win rates say in words and in which order they stand, for whoever shows them.

Pure: results in, sentences and values out. Names are in the sentences as they are: whoever shows
them makes them harmless. A rate is `sure` where its 95 % interval does not hold one half.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import TYPE_CHECKING, Literal

from arbitrage.winrate.results import CATEGORY, EVERYONE, LANGUAGE, LANGUAGES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arbitrage.winrate.results import Agreement, Effect, Estimate, Results, Row

Side = Literal["above", "level", "below", "unknown"]
EVEN = 0.5
RETRY = "`arbitrage winrate CONFIG --retry-failed` asks again"
NOTHING = "There is no verdict, so nothing can be said of any model."
SHOWN_FAILURES = 3
FAVORED = {
    "position": "the answer shown first",
    "length": "a longer answer",
    "headers": "an answer with more headers",
    "lists": "an answer with more list items",
    "bold": "an answer with more bold text",
}
"""Whom an effect favors; all but the first by one standard deviation."""


def side(estimate: Estimate | None, even: float = EVEN) -> Side:
    """Where an estimate surely is; `level`: not told apart, `unknown`: it has no interval."""
    if estimate is None or not (math.isfinite(estimate.low) and math.isfinite(estimate.high)):
        return "unknown"
    if estimate.low > even:
        return "above"
    return "below" if estimate.high < even else "level"


def ranked(results: Results, judge: str | None = None) -> list[Row]:
    """The row of each model that has one against the usual opponent, the highest rate first."""
    rows = (results.row(model, results.opponent, judge=judge) for model in results.models)
    found = [row for row in rows if row is not None]
    return sorted(found, key=lambda row: (_last_if_nan(-row.rate.value), row.model))


def _last_if_nan(value: float) -> float:
    return math.inf if math.isnan(value) else value


def percent(value: float, digits: int = 1) -> str:
    """A share in hundredths, as part of a sentence."""
    return f"{100 * value:.{digits}f} %" if math.isfinite(value) else "an unknown share"


def opponent_of(results: Results) -> str:
    """Whom everyone is compared with, as part of a sentence."""
    return results.baseline or "all others"


def headline(results: Results) -> list[str]:
    """One to three sentences: who wins against whom, by how much, and whether that is sure."""
    rows = [row for row in ranked(results) if math.isfinite(row.rate.value)]
    if not rows:
        return [NOTHING]
    told = [_best(results, rows[0])]
    if len(rows) > 1:
        told.append(_others(results, rows[1:]))
        told += _first_two(results, *rows[:2])
    return told


def _best(results: Results, row: Row) -> str:
    against = opponent_of(results)
    rate = f"{percent(row.rate.value)} of the games against {against}{_within(row.rate)}"
    where = side(row.rate)
    if where == "above":
        return f"{row.model} wins {rate}{_surely(results, row)}."
    if results.baseline and where == "below":
        return f"No model is ahead of {against}: the best, {row.model}, wins {rate}."
    if where == "unknown":
        return f"{row.model} wins {rate}; without an interval nobody knows whether that is chance."
    if results.baseline:
        return f"No model is surely ahead of {against}: {row.model} wins {rate}."
    return f"No model is surely ahead of the others: {row.model} wins {rate}."


def _within(estimate: Estimate) -> str:
    if side(estimate) == "unknown":
        return ""
    return f" (95 % interval {100 * estimate.low:.1f} to {100 * estimate.high:.1f})"


def _surely(results: Results, row: Row) -> str:
    """In how many languages it is ahead too."""
    found = [
        results.row(row.model, row.against, LANGUAGE, code, row.judge) for code in results.languages
    ]
    known = [one for one in found if one is not None]
    if len(known) < 2:
        return ""
    sides = [side(one.rate) for one in known]
    told = f", in {sides.count('above')} of {len(known)} languages surely"
    behind = sides.count("below")
    return f"{told}, and surely loses in {behind}" if behind else told


def _others(results: Results, rows: Sequence[Row]) -> str:
    sides = [side(row.rate) for row in rows]
    words: dict[Side, str] = {
        "above": "surely ahead",
        "below": "surely behind",
        "level": "not told apart",
        "unknown": "without an interval",
    }
    told = [f"{sides.count(key)} {word}" for key, word in words.items() if sides.count(key)]
    whom = opponent_of(results)
    if len(rows) == 1:
        word = words[sides[0]]
        preposition = {"above": "of", "below": "", "level": "from", "unknown": "against"}[sides[0]]
        links = f"{word} {preposition} {whom}".replace("  ", " ")
        return f"The other model, {rows[0].model}, is {links} ({percent(rows[0].rate.value)})."
    return f"Of the other {len(rows)} models, compared with {whom}: {', '.join(told)}."


def _first_two(results: Results, best: Row, second: Row) -> list[str]:
    """Whether the best one is better than the next."""
    met = results.row(best.model, second.model, judge=best.judge)
    if met is not None and math.isfinite(met.rate.value):
        rate = f"{percent(met.rate.value)} of their games{_within(met.rate)}"
        sure = "" if side(met.rate) in ("above", "below") else ", which does not tell them apart"
        return [f"{best.model} against the next, {second.model}: {rate}{sure}."]
    if "unknown" in (side(best.rate), side(second.rate)) or second.rate.high < best.rate.low:
        return []
    return [
        f"The intervals of {best.model} and {second.model} overlap: this alone does not tell which "
        "of them is better."
    ]


def missing(results: Results) -> int:
    """Games without a verdict."""
    if results.failures:
        return sum(games for *_, games in results.failures)
    rows = ranked(results)
    games = sum(row.missing for row in rows)
    return games if results.baseline else games // 2


def failures(results: Results) -> str:
    """How many verdicts are missing, whose, and why; empty where none is."""
    total = missing(results)
    if not total:
        return ""
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for judge, _, reason, games in results.failures:
        counts[judge, reason] += games
    largest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    told = [
        f"{games:,} of {judge} ({reason})" for (judge, reason), games in largest[:SHOWN_FAILURES]
    ]
    rest = sum(games for _, games in largest[SHOWN_FAILURES:])
    told += [f"{rest:,} for other reasons"] if rest else []
    head = "1 verdict is missing" if total == 1 else f"{total:,} verdicts are missing"
    why = f": {', '.join(told)}" if told else ""
    return f"{head}{why}; {RETRY if results.can_retry else 'they count nowhere'}."


def agreed(one: Agreement) -> str:
    """One sentence on how far two judges agree."""
    kappa = f", kappa {one.kappa.value:.2f}" if math.isfinite(one.kappa.value) else ""
    pairs = "pair" if one.pairs == 1 else "pairs"
    return (
        f"{one.first} and {one.second} name the same winner for {percent(one.same.value)} of "
        f"{one.pairs:,} {pairs} of answers{_within(one.same)}{kappa}."
    )


def biases(results: Results) -> list[str]:
    """One sentence for each judge on what else than quality moves its verdicts; one on all of them
    together only where there is none on any judge."""
    judges = dict.fromkeys(one.judge for one in results.effects)
    if any(judges):
        judges.pop(EVERYONE, None)
    return [
        _biased(judge, [one for one in results.effects if one.judge == judge]) for judge in judges
    ]


def _biased(judge: str, effects: Sequence[Effect]) -> str:
    ordered = sorted(effects, key=lambda one: one.name != "position")
    told = [_moved(one) for one in ordered if math.isfinite(one.size.value)]
    by_one = any(one.name != "position" for one in effects)
    tail = "; longer and more are by one standard deviation" if by_one and told else ""
    who = label_of(judge)
    if not told:
        return f"{who}: what else than quality moves its verdicts is not known."
    return f"{who} moves an even game from 50 % to {', '.join(told)}{tail}."


def _moved(one: Effect) -> str:
    """To which share an even game goes, for whom, and whether that may be chance."""
    value, low, high = (logistic(size) for size in one.size)
    where = side(one.size, 0.0)
    chance = ", maybe by chance" if where == "level" else ""
    within = "" if where == "unknown" else f" ({100 * low:.1f} to {100 * high:.1f}{chance})"
    whom = FAVORED.get(one.name, f"an answer with more {one.name}")
    return f"{percent(value)}{within} for {whom}"


def logistic(size: float) -> float:
    """The share of log-odds; nan stays nan."""
    return 1 / (1 + math.exp(-max(size, -700.0))) if math.isfinite(size) else math.nan


def share(part: float, of: float) -> float:
    """A part of something; nan of nothing."""
    return part / of if of else math.nan


def scope_rows(results: Results, row: Row, scope: str) -> dict[str, Row]:
    """A model's rows by language or by category, as far as there are any."""
    names = {LANGUAGE: results.languages, CATEGORY: results.categories}[scope]
    found = ((of, results.row(row.model, row.against, scope, of, row.judge)) for of in names)
    return {of: one for of, one in found if one is not None}


def averaged(results: Results, row: Row) -> Row:
    """The row of the mean over the languages, where there is one, else of all games."""
    return results.row(row.model, row.against, LANGUAGES, judge=row.judge) or row


def seen_by(results: Results) -> str:
    """Whose verdicts the figures are of."""
    if len(results.judges) == 1:
        return f"judge: {results.judges[0]}"
    return f"judges, taken together: {', '.join(results.judges)}"


def label_of(judge: str) -> str:
    """A judge's name; all of them together have none."""
    return judge or "all judges"
