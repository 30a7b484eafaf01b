"""What a win-rate evaluation found: rows of estimates with their intervals, and what was amiss.

Plain values that go to `winrate.json` and come back equal. Shares are in [0, 1]. Knows no
statistics and no way to show them.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from arbitrage.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

FORMAT = 1
EVERYONE = ""
"""Of `against` all other models together, of `judge` all judges together."""
ALL, LANGUAGE, CATEGORY, LANGUAGES = "all", "language", "category", "languages"
"""Scopes: every game; one language; one category; the plain mean over the languages."""


class Estimate(NamedTuple):
    """A value with its 95 % interval; nan where it cannot be told."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Row:
    """One model against one other, or all others, as one judge or all of them see it.

    `scope` and `of` say on which prompts: `of` is the language's code or the category's name.
    `rate`: wins and half of the ties among all games, strong ones with their weight. `controlled`:
    the same as it would be with answers of equal style and neither shown first, none where nothing
    was controlled, or no games of known style join the models. `points`: the rate less the
    opponent's, in [-1, 1]. `gain`: the rate relative to the opponent's, less 1, nan where that has
    none. `strength`: Bradley-Terry's, in log-odds over the baseline, or over the mean of all models
    without one; none where it was not fitted. `prompts`: with a verdict. `games`: with a verdict,
    unweighted; wins, ties and losses, strong ones among them, are theirs. `missing`: games without
    a verdict. `flipped`: prompts whose verdict favours the same position in both orders; `both`:
    prompts that were judged in both.
    """

    judge: str
    model: str
    against: str
    scope: str
    of: str
    rate: Estimate
    points: Estimate
    gain: Estimate
    controlled: Estimate | None
    strength: Estimate | None
    prompts: int
    games: int
    wins: int
    ties: int
    losses: int
    strong_wins: int
    strong_losses: int
    missing: int
    flipped: int
    both: int


@dataclass(frozen=True)
class Effect:
    """What one thing besides quality does to a verdict, in log-odds per standard deviation of the
    difference, or for `position` of being shown first; by judge."""

    judge: str
    name: str
    size: Estimate


@dataclass(frozen=True)
class Agreement:
    """How far two judges say the same of a pair of answers, both orders taken together.

    `same`: share of the pairs with the same winner, or a tie for both; `kappa`: Cohen's, which is
    that beyond chance.
    """

    first: str
    second: str
    scope: str
    of: str
    same: Estimate
    kappa: Estimate
    pairs: int


@dataclass(frozen=True)
class Results:
    """All of an evaluation. `settings` are plain data: what the figures depend on. `remarks` are
    sentences that a reader must know. `failures`: (judge, model, reason, games) without a verdict.
    `made_from`: what was judged, for papers: fingerprints or names of files."""

    baseline: str
    models: tuple[str, ...]
    judges: tuple[str, ...]
    languages: tuple[str, ...]
    categories: tuple[str, ...]
    settings: dict[str, Any]
    rows: tuple[Row, ...]
    effects: tuple[Effect, ...] = ()
    agreements: tuple[Agreement, ...] = ()
    failures: tuple[tuple[str, str, str, int], ...] = ()
    remarks: tuple[str, ...] = ()
    made_from: dict[str, Any] | None = None

    def row(
        self,
        model: str,
        against: str = EVERYONE,
        scope: str = ALL,
        of: str = "",
        judge: str | None = None,
    ) -> Row | None:
        """The row of a model, if there is one; without a judge the one of all judges."""
        wanted = (self.pooled if judge is None else judge, model, against, scope, of)
        return self._by_key.get(wanted)

    @cached_property
    def _by_key(self) -> dict[tuple[str, str, str, str, str], Row]:
        """Every row; of all models against each other there are many."""
        return {_key(row): row for row in self.rows}

    @property
    def pooled(self) -> str:
        """The judge to show where one is to stand for all: the only one, else all together."""
        return self.judges[0] if len(self.judges) == 1 else EVERYONE

    @property
    def can_retry(self) -> bool:
        """Whether a judge can be asked again: recorded judgements are what they are."""
        return not self.settings.get("recorded", False)

    @property
    def opponent(self) -> str:
        """Whom everyone is compared with by default: the baseline, else all others together."""
        return self.baseline or EVERYONE

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON: nan is null."""
        told: dict[str, Any] = _plain({"format": FORMAT, **asdict(self)})
        return told

    def as_json(self) -> str:
        """The text of `winrate.json`."""
        return json.dumps(self.as_dict(), indent=1, sort_keys=True, ensure_ascii=True) + "\n"


def _key(row: Row) -> tuple[str, str, str, str, str]:
    return row.judge, row.model, row.against, row.scope, row.of


def _plain(value: Any) -> Any:
    if isinstance(value, Estimate):
        return [_plain(number) for number in value]
    if isinstance(value, dict):
        return {name: _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    if isinstance(value, float):
        return None if math.isnan(value) else value
    return value


def results_from(told: dict[str, Any]) -> Results:
    """From the plain data of `as_dict`. Raises InputError where it is something else."""
    try:
        if told["format"] != FORMAT:
            raise InputError(
                f"these win rates are of format {told['format']}, this version reads {FORMAT}; "
                "make them anew with `arbitrage winrate`"
            )
        names = ("models", "judges", "languages", "categories", "remarks")
        return Results(
            baseline=told["baseline"],
            **{name: tuple(told[name]) for name in names},
            settings=told["settings"],
            rows=tuple(Row(**_estimated(row)) for row in told["rows"]),
            effects=tuple(Effect(**_estimated(one)) for one in told["effects"]),
            agreements=tuple(Agreement(**_estimated(one)) for one in told["agreements"]),
            failures=tuple((j, m, why, n) for j, m, why, n in told["failures"]),
            made_from=told["made_from"],
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError("this is no winrate.json of `arbitrage winrate`") from error


def read_results(path: Path) -> Results:
    """From a file, or a folder that holds winrate.json. Raises InputError."""
    file = path / "winrate.json" if path.is_dir() else path
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file} cannot be read as win rates ({error}); `arbitrage winrate CONFIG` makes it"
        ) from error
    if not isinstance(told, dict):
        raise InputError(f"{file} holds no win rates; `arbitrage winrate CONFIG` makes them")
    return results_from(told)


def _estimated(fields: dict[str, Any]) -> dict[str, Any]:
    """Lists of three numbers are estimates again."""
    return {
        name: Estimate(*(math.nan if one is None else one for one in value))
        if isinstance(value, list)
        else value
        for name, value in fields.items()
    }
