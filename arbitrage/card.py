"""The Arbiter's card: how far its scores can be trusted, language by language.

Made from labelled pairs, of which one answer is known to be better. Pure: knows no engine and no
file but the card itself, which is JSON. Invariant, per language: pairs = judged + over the window +
the sum of errors; a pair that could not be judged is neither right nor wrong.

    python -c "from arbitrage.card import Card; print(Card.read('card.json').languages_below(0.7))"
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pydantic import TypeAdapter, ValidationError

from arbitrage.errors import ConfigError
from arbitrage.measures import (
    Estimate,
    Share,
    Slope,
    mean_of,
    pearson,
    share,
    slope,
    spearman,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

VERSION = 1
LEAST = 0.7
"""Languages of a lower accuracy are named, unless the caller has another threshold."""
REASONS = 10
OTHERS = "other reasons"


class Outcome(NamedTuple):
    """What became of one labelled pair: scores and lengths in characters of both completions.

    Where a score is None, `error` says why, and `over_window` whether the text was too long.
    """

    language: str
    category: str | None
    chosen: float | None
    rejected: float | None
    chosen_chars: int
    rejected_chars: int
    error: str | None = None
    over_window: bool = False


@dataclass(frozen=True)
class Result:
    """The Arbiter on the pairs of one language, or on all.

    `accuracy`: the chosen completion scores above the rejected one; a tie is a miss. `margin`: mean
    of the chosen one's score minus the rejected one's.

    Length: differences of scores (chosen minus rejected) against those of log(1 + characters), by
    Pearson, by rank, and as `slope`, in points of score per unit of log length. As the differences
    are all taken in one direction, the line's intercept holds what being better is worth, and the
    slope what length alone is. `longest_wins`: the longer completion scores higher, of pairs whose
    lengths differ; `longest_labelled`: it is the better one.
    """

    pairs: int
    judged: int
    accuracy: Share
    ties: int
    over_window: int
    errors: dict[str, int]
    margin: float | None
    correlation: float | None
    rank_correlation: float | None
    longest_wins: Share
    longest_labelled: Share
    slope: Slope | None


@dataclass(frozen=True)
class Macro:
    """Means over languages, each counting the same; `languages` of them have judged pairs."""

    languages: int
    accuracy: Estimate
    longest_wins: Estimate
    longest_labelled: Estimate


@dataclass(frozen=True)
class Attack:
    """One kind of text that tries to move a judge, put at the start or end of the rejected answers.

    `passes`: the attacked rejected completion scores above the chosen one; `without`: it does so
    as it was, on the same pairs; `moved`: mean change of its score. `unjudged` pairs are in none.
    """

    kind: str
    place: str
    passes: Share
    without: Share
    moved: float | None
    unjudged: int


class Trial(NamedTuple):
    """One attacked pair: the three scores, None where there is none."""

    kind: str
    place: str
    chosen: float | None
    rejected: float | None
    attacked: float | None


@dataclass(frozen=True)
class Subject:
    """Who was asked: the Arbiter's name, fingerprint and model, and the versions that it ran on."""

    name: str
    fingerprint: str
    model: str | None
    revision: str | None
    made_with: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """What it was asked: `digest` names the pairs that were used, in any order; rows = used +
    the sum of refused."""

    digest: str
    files: tuple[str, ...]
    rows: int
    used: int
    refused: dict[str, int]


@dataclass(frozen=True)
class Card:
    """What is known of an Arbiter. `overall` takes all pairs together, `macro` every language the
    same; `categories` has the accuracy by the pairs' own category, where they have one."""

    version: int
    arbitrage: str
    arbiter: Subject
    pairs: Evidence
    least: float
    overall: Result
    macro: Macro
    languages: dict[str, Result]
    categories: dict[str, Share]
    attacks: tuple[Attack, ...] = ()

    @property
    def accuracy(self) -> dict[str, float]:
        """By language; those of which no pair could be judged are not in it."""
        found = {code: result.accuracy.value for code, result in self.languages.items()}
        return {code: value for code, value in found.items() if value is not None}

    def languages_below(self, threshold: float) -> tuple[str, ...]:
        """Languages whose accuracy, as measured, is under a threshold."""
        return tuple(code for code, value in self.accuracy.items() if value < threshold)

    def languages_in_doubt(self, threshold: float) -> tuple[str, ...]:
        """Languages whose interval holds the threshold: more pairs would tell."""
        return tuple(
            code
            for code, result in self.languages.items()
            if result.accuracy.is_doubtful(threshold)
        )

    def slopes(self) -> dict[str, float]:
        """By language the points of score per unit of log(1 + characters); languages with too few
        pairs to tell are not in it."""
        return {
            code: result.slope.value
            for code, result in self.languages.items()
            if result.slope is not None
        }

    def as_json(self) -> str:
        """What `read` reads."""
        return json.dumps(asdict(self), indent=1, allow_nan=False) + "\n"

    @staticmethod
    def read(path: Path | str) -> Card:
        """A card from its file. Raises ConfigError with one sentence."""
        try:
            card = _CARD.validate_json(Path(path).read_bytes())
        except OSError as error:
            raise ConfigError(
                f"the card {path} cannot be read: {error.strerror}; `arbitrage arbiter check` "
                "writes one"
            ) from error
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"])) or "its text"
            raise ConfigError(
                f"{path} is no card of an Arbiter: {place}: {first['msg']}"
            ) from error
        if card.version != VERSION:
            raise ConfigError(
                f"the card {path} has version {card.version}, this package reads {VERSION}; make "
                "it again with `arbitrage arbiter check`"
            )
        return card


_CARD = TypeAdapter(Card)


def make(
    arbiter: Subject,
    evidence: Evidence,
    outcomes: Sequence[Outcome],
    trials: Sequence[Trial] = (),
    *,
    least: float,
    package: str,
) -> Card:
    """The card that these outcomes make; languages in the order of their codes."""
    by_language = _grouped(outcomes, lambda one: one.language)
    by_category = _grouped(outcomes, lambda one: one.category)
    languages = {code: result_of(rows) for code, rows in by_language.items()}
    categories = {name: result_of(rows).accuracy for name, rows in by_category.items()}
    return Card(
        VERSION,
        package,
        arbiter,
        evidence,
        least,
        result_of(outcomes),
        _macro(list(languages.values())),
        languages,
        categories,
        attacks_of(trials),
    )


def _grouped(
    outcomes: Iterable[Outcome], name: Callable[[Outcome], str | None]
) -> dict[str, list[Outcome]]:
    found: dict[str, list[Outcome]] = defaultdict(list)
    for outcome in outcomes:
        key = name(outcome)
        if key is not None:
            found[key].append(outcome)
    return dict(sorted(found.items()))


def result_of(outcomes: Sequence[Outcome]) -> Result:
    """Everything that is told of some pairs."""
    judged = [
        (one.chosen, one.rejected, one.chosen_chars, one.rejected_chars)
        for one in outcomes
        if one.chosen is not None and one.rejected is not None
    ]
    chosen, rejected, longer, shorter = np.array(judged, np.float64).reshape(-1, 4).T
    by = chosen - rejected
    by_length = np.log1p(longer) - np.log1p(shorter)
    uneven = longer != shorter
    followed = int(((by * by_length > 0) & uneven).sum())
    labelled = int((longer > shorter).sum())
    failed = [one for one in outcomes if one.chosen is None or one.rejected is None]
    errors = Counter(one.error or "no reason was given" for one in failed if not one.over_window)
    return Result(
        len(outcomes),
        len(judged),
        share(int((chosen > rejected).sum()), len(judged)),
        int((chosen == rejected).sum()),
        sum(one.over_window for one in failed),
        _most_common(errors),
        float(by.mean()) if len(judged) else None,
        pearson(by_length, by),
        spearman(by_length, by),
        share(followed, int(uneven.sum())),
        share(labelled, int(uneven.sum())),
        slope(by_length, by),
    )


def _most_common(errors: Counter[str]) -> dict[str, int]:
    """Reasons can be as many as pairs; the rare ones are counted together."""
    kept = dict(sorted(errors.items(), key=lambda item: (-item[1], item[0]))[:REASONS])
    rest = errors.total() - sum(kept.values())
    return kept | ({OTHERS: kept.get(OTHERS, 0) + rest} if rest else {})


def _macro(languages: Sequence[Result]) -> Macro:
    return Macro(
        sum(result.judged > 0 for result in languages),
        mean_of([result.accuracy for result in languages]),
        mean_of([result.longest_wins for result in languages]),
        mean_of([result.longest_labelled for result in languages]),
    )


def attacks_of(trials: Iterable[Trial]) -> tuple[Attack, ...]:
    """What each kind of attack does at each place, in the order in which they come."""
    found: dict[tuple[str, str], list[Trial]] = defaultdict(list)
    for trial in trials:
        found[trial.kind, trial.place].append(trial)
    return tuple(_attack(kind, place, rows) for (kind, place), rows in found.items())


def _attack(kind: str, place: str, trials: Sequence[Trial]) -> Attack:
    judged = [
        (one.chosen, one.rejected, one.attacked)
        for one in trials
        if one.chosen is not None and one.rejected is not None and one.attacked is not None
    ]
    chosen, rejected, attacked = np.array(judged, np.float64).reshape(-1, 3).T
    return Attack(
        kind,
        place,
        share(int((attacked > chosen).sum()), len(judged)),
        share(int((rejected > chosen).sum()), len(judged)),
        float((attacked - rejected).mean()) if len(judged) else None,
        len(trials) - len(judged),
    )
