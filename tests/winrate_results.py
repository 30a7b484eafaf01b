"""Builds plausible `Results` for the tests of everything that shows win rates."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from arbitrage.winrate.results import (
    ALL,
    CATEGORY,
    EVERYONE,
    LANGUAGE,
    LANGUAGES,
    Agreement,
    Effect,
    Estimate,
    Results,
    Row,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

EVIL = "<img src=https://evil.example onerror=alert(1)>|[red]\u202eevil\x1b[31m"
CODES = (
    *("ar", "cs", "de", "el", "en", "es", "fa", "fr", "he", "hi", "id", "it"),
    *("ja", "ko", "nl", "pl", "pt", "ro", "ru", "tr", "uk", "vi", "zh"),
)
TOPICS = ("coding", "creative writing", "maths")


def estimate(value: float, half: float, low: float = 0.0, high: float = 1.0) -> Estimate:
    return Estimate(value, max(low, value - half), min(high, value + half))


def make_row(
    judge: str, model: str, against: str, scope: str, of: str, rate: float, **more: Any
) -> Row:
    """A row of this rate; `games` and `half`, half its interval, may be told."""
    games = more.pop("games", 200)
    half = more.pop("half", 0.98 / math.sqrt(max(games, 1)) / 1.4)
    ties = games // 8
    wins = round(rate * games - ties / 2)
    wins = max(0, min(games - ties, wins))
    low = estimate(rate, half)
    gain = Estimate(*(one / (1 - one) - 1 if one < 1 else math.nan for one in low))
    fields: dict[str, Any] = {
        "points": Estimate(*(2 * one - 1 for one in low)),
        "gain": gain,
        "controlled": estimate(0.5 + (rate - 0.5) * 0.8, half * 1.1),
        "strength": estimate(math.log(rate / (1 - rate)), 4 * half, -99, 99),
        "prompts": games // 2,
        "games": games,
        "wins": wins,
        "ties": ties,
        "losses": games - ties - wins,
        "strong_wins": wins // 4,
        "strong_losses": (games - ties - wins) // 4,
        "missing": games // 100,
        "flipped": games // 25,
        "both": games // 2 - games // 200,
    }
    fields |= more
    return Row(judge, model, against, scope, of, low, **fields)


def rows_of(
    judge: str,
    model: str,
    against: str,
    rate: float,
    languages: Sequence[str],
    categories: Sequence[str],
    lot: random.Random,
) -> list[Row]:
    """All scopes of one model against one other."""
    told = [make_row(judge, model, against, ALL, "", rate, games=200 * max(1, len(languages)))]
    if len(languages) > 1:
        told.append(make_row(judge, model, against, LANGUAGES, "", rate - 0.004, games=2000))
    for scope, names, spread in ((LANGUAGE, languages, 0.08), (CATEGORY, categories, 0.05)):
        for name in names:
            here = min(0.98, max(0.02, rate + lot.uniform(-spread, spread)))
            told.append(make_row(judge, model, against, scope, name, here))
    return told


def make_results(
    rates: Mapping[str, float] | None = None,
    *,
    baseline: str = "gpt",
    judges: Sequence[str] = ("judge-a", "judge-b"),
    languages: Sequence[str] = CODES[:11],
    categories: Sequence[str] = TOPICS,
    **more: Any,
) -> Results:
    """Results of models with these rates against the baseline, or against all without one."""
    rates = rates or {"arbitrage": 0.706, "east-8b": 0.58, "west-8b": 0.503, "south-1b": 0.27}
    lot = random.Random(8)
    models = (*rates, *([baseline] if baseline else []))
    seen = [*judges, *([EVERYONE] if len(judges) > 1 else [])]
    rows: list[Row] = []
    for place, judge in enumerate(seen):
        for model, rate in rates.items():
            own = rate + 0.01 * (place % 2)
            rows += rows_of(judge, model, baseline, own, languages, categories, lot)
            for other in rates if not baseline else ():
                if other != model:
                    met = 1 / (1 + rates[other] * (1 - own) / (own * (1 - rates[other])))
                    rows.append(make_row(judge, model, other, ALL, "", met))
    fields: dict[str, Any] = {
        "settings": {"strong_weight": 3.0, "flips": "keep", "resamples": 1000, "seed": 0},
        "effects": tuple(
            Effect(judge, name, estimate(size, 0.08, -9, 9))
            for judge in judges
            for name, size in (("position", 0.31), ("length", 0.22), ("lists", 0.03))
        ),
        "agreements": tuple(
            Agreement(one, two, scope, of, estimate(0.78, 0.03), estimate(0.52, 0.05), 1100)
            for at, one in enumerate(judges)
            for two in judges[at + 1 :]
            for scope, of in ((ALL, ""), *((LANGUAGE, code) for code in languages))
        ),
        "failures": ((judges[0], next(iter(rates)), "no verdict in the answer", 9),
                     (judges[-1], next(iter(rates)), "timeout", 3)),
        "remarks": ("south-1b answered 40 of 100 prompts in th.",),
        "made_from": {"questions": "m-arena-hard.jsonl", "answers": {"arbitrage": "5f2c"}},
    }  # fmt: skip
    fields |= more
    return Results(
        baseline, models, tuple(judges), tuple(languages), tuple(categories),
        rows=tuple(rows), **fields,
    )  # fmt: skip


def recorded(results: Results) -> Results:
    """The same as if the judgements were others' records."""
    return replace(results, settings={**results.settings, "recorded": True})
