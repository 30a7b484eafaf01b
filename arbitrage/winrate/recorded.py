"""Reads judgements that other tools recorded, or one's own, as games for the statistics.

Whole folders are read; what in them holds no judgements is passed over and said. Nothing is dropped
in silence: copies, games that were retried, games of a model with itself and missing verdicts are
counted in `Recorded`. Knows the forms by their table alone, and no statistics.

    arbitrage judgements data/arena-hard-v0.1/model_judgment/gpt-4-1106-preview
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd

from arbitrage.errors import InputError
from arbitrage.stats.outcomes import Outcomes, outcomes_of
from arbitrage.winrate.recorded_files import files_in, is_list, place, rows
from arbitrage.winrate.recorded_forms import (
    BATTLES,
    V2,
    Context,
    Form,
    Game,
    form_of,
    known_forms,
    unfolded,
)
from arbitrage.winrate.recorded_questions import Questions, code_of, read_questions
from arbitrage.winrate.recorded_styles import Styles, read_styles
from arbitrage.winrate.style import NAMES, differences

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from arbitrage.winrate.choices import AnalysisConfig

SHOWN = 3
"""So many names stand in a remark."""


class Failure(NamedTuple):
    """So many games without a verdict, and why."""

    judge: str
    model: str
    reason: str
    games: int


@dataclass(frozen=True)
class Recorded:
    """What files of judgements hold. `baseline`: whom all games are against, none where there is no
    such model. `rule`: what the tool that wrote them does with a missing verdict, as
    `AnalysisConfig.missing` names it."""

    outcomes: Outcomes
    baseline: str
    remarks: list[str]
    failures: list[tuple[str, str, str, int]]
    files: list[Path]
    rule: Literal["game", "prompt"] = "game"


@dataclass
class _Columns:
    """The games as columns; names are kept once."""

    names: dict[str, str] = field(default_factory=dict)
    numbers: dict[Any, int] = field(default_factory=dict)
    columns: dict[str, list[Any]] = field(default_factory=dict)
    prompts: list[tuple[str, str]] = field(default_factory=list)
    styled: dict[int, list[float]] = field(default_factory=dict)
    itself: Counter[str] = field(default_factory=Counter)
    others: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        names = ("first", "second", "judge", "language", "category", "prompt", "question")
        for name in (*names, "score", "weight", "position", "file", "reason"):
            self.columns[name] = []

    def name(self, text: str) -> str:
        """One and the same object for equal texts."""
        return self.names.setdefault(text, text)

    def prompt(self, question: str, language: str) -> int:
        """The number of what was asked in a language."""
        key = (question, language)
        number = self.numbers.setdefault(key, len(self.prompts))
        if number == len(self.prompts):
            self.prompts.append((self.name(question), self.name(language)))
        return number

    def add(self, game: Game, file: int, strong_weight: float) -> None:
        """Takes in a game."""
        columns = self.columns
        if game.styles:
            self.styled[len(columns["score"])] = [*game.styles[0], *game.styles[1]]
        columns["first"].append(self.name(game.model))
        columns["second"].append(self.name(game.opponent))
        columns["judge"].append(self.name(game.judge))
        columns["language"].append(self.name(game.language))
        columns["category"].append(self.name(game.category))
        columns["prompt"].append(self.prompt(game.question, game.language))
        columns["question"].append(self.name(game.question))
        columns["score"].append(game.score)
        weight = (game.copies or strong_weight) if game.strong else 1.0
        columns["weight"].append(weight)
        columns["position"].append(game.position)
        columns["file"].append(file)
        columns["reason"].append(self.name(game.reason))


def read_recorded(
    paths: Sequence[Path],
    choices: AnalysisConfig,
    *,
    answers: Sequence[Path] = (),
    questions: Sequence[Path] = (),
    baseline: str = "",
    category: str = "",
) -> Recorded:
    """Reads files, folders (deeply) and patterns. `answers` are files of the models' answers, for
    their style; `questions` tell language and category where judgements do not; `baseline` names
    the model that all are compared with where the files do not, or several are; of a `category`
    alone, if one is named.

    Raises InputError for a path that leads nowhere, a broken row, a file named itself that holds no
    judgements, and where there are none at all.
    """
    known, styles = read_questions(questions), read_styles(answers, questions)
    gathered, remarks = _Columns(), []
    forms: set[Form] = set()
    read: list[Path] = []
    others: list[Path] = []
    for path, is_named in files_in(paths):
        form = _form_in(path, is_named=is_named)
        if form is None:
            others.append(path)
            continue
        forms.add(form)
        for game in _games(path, form, known, baseline):
            if category and game.category != category:
                gathered.others.add(game.category)
            elif game.model == game.opponent:
                gathered.itself[game.model] += 1
            else:
                gathered.add(game, len(read), choices.strong_weight)
        read.append(path)
    if not read:
        raise InputError(f"{_some(paths)} holds no judgements; known forms are: {known_forms()}")
    if questions and not known.any_of(question for question, _ in gathered.prompts):
        remarks.append("none of the questions is in the files of questions, by id or by text")
    if others:
        remarks.append(
            f"{len(others)} files hold no judgements and were passed over ({_some(others)})"
        )
    declared = all(form.declares for form in forms)
    games, told = _finished(gathered, styles, baseline, declared=declared)
    names = {form.name for form in forms}
    if BATTLES in names:
        told.append(
            "battles record a strong win as three rows: they are one game of weight 3 here, "
            "whatever the strong weight"
        )
    rule: Literal["game", "prompt"] = "prompt" if names == {V2} else "game"
    return Recorded(**games, remarks=[*remarks, *told], files=read, rule=rule)


def _form_in(path: Path, *, is_named: bool) -> Form | None:
    """The form of a file's first row. Raises InputError for a file named itself that has none."""
    try:
        first = next(iter(rows(path)), None)
    except InputError as error:
        # Settings and metadata stand beside them, which are one object or no objects at all.
        is_whole = isinstance(error.__cause__, ValueError) and not is_list(path)
        if is_named or path.suffix != ".json" or not (is_whole or error.__cause__ is None):
            raise
        return None
    form = form_of(first[1]) if first else None
    if form is None and is_named:
        what = f"the fields {', '.join(map(repr, [*first[1]][:9]))}" if first else "no rows"
        raise InputError(f"{path} has {what}, which is no form of judgements; {known_forms()}")
    return form


def _games(path: Path, form: Form, known: Questions, baseline: str) -> Iterator[Game]:
    """The games of a file, with language and category."""
    scope = known.of(path)
    found = _rows_of(path, form, baseline)
    for game in _joined(found) if form.name == BATTLES else found:
        about = scope.about(game.question)
        language = code_of(game.language) if game.language else about.language
        yield game._replace(language=language, category=game.category or about.category)


def _rows_of(path: Path, form: Form, baseline: str) -> Iterator[Game]:
    for number, row in rows(path):
        where = place(path, number)
        if not form.knows(row):
            raise InputError(
                f"{where} is not of the form of the rows before it, {form.name} ({form.looks})"
            )
        yield from form.games(row, Context(where, baseline))


def _joined(games: Iterator[Game]) -> Iterator[Game]:
    """Battles: the copies of strong wins stand one after the other and become one game."""
    for _, alike in itertools.groupby(games, key=lambda game: game[:7]):
        kept = sorted(alike, key=lambda game: str(game.score))
        for _, copies in itertools.groupby(kept, key=lambda game: str(game.score)):
            yield from unfolded(list(copies))


def _finished(
    gathered: _Columns, styles: Styles, told: str, *, declared: bool
) -> tuple[dict[str, Any], list[str]]:
    """Outcomes, baseline and failures, and what to say of what was left out."""
    columns = dict(gathered.columns)
    files, reasons = np.array(columns.pop("file"), int), columns.pop("reason")
    if not files.size and gathered.others:
        raise InputError(f"no game is of that category; there are {_some(sorted(gathered.others))}")
    if not files.size:
        raise InputError("the files hold no games between two models; nothing can be compared")
    outcomes = outcomes_of(columns)
    keep, remarks = _kept(outcomes, files)
    style = _styles(outcomes, gathered, styles)
    kept = outcomes.where(keep)
    if style is not None and not np.isnan(style[keep]).all():
        kept = Outcomes(**{**vars(kept), "styles": NAMES, "style": style[keep]})
    elif styles:
        remarks.append("no game has both of its answers in the files of answers")
    if gathered.itself:
        what = ", ".join(f"{name} {n:,}" for name, n in gathered.itself.items())
        remarks.append(f"games of a model with itself are left out: {what}")
    baseline, said = _baseline(kept, told, declared=declared)
    failures = _failures(kept, np.array(reasons, object)[keep])
    return {"outcomes": kept, "baseline": baseline, "failures": failures}, [*remarks, *said]


def _kept(outcomes: Outcomes, files: NDArray[np.int64]) -> tuple[NDArray[np.bool_], list[str]]:
    """Which games count: of retried games the one with a verdict, of copied files one.

    A file is a copy where all that it shares with those before it has the same verdicts. Where some
    have others, it holds judgements of its own, and all count: to leave out those that agree by
    chance would draw the rate to a half.
    """
    frame = _games_by_key(outcomes).assign(file=files)
    missing, known = frame["score"].isna(), frame["position"] != 0
    retried = missing & frame["key"].isin(frame["key"][~missing & known])
    frame["turn"] = frame.groupby(["key", "file"]).cumcount()
    met = frame[~missing].duplicated(["key", "turn"]).reindex(frame.index, fill_value=False)
    same = frame.duplicated(["key", "turn", "score", "weight"])
    again = frame["file"].isin(frame["file"][met & ~same])
    copied = same & ~again & ~retried
    remarks = []
    if copied.any():
        remarks.append(f"{copied.sum():,} games stand in two files with one verdict; one counts")
    if retried.any():
        remarks.append(f"{retried.sum():,} games without a verdict were judged again; that counts")
    if (met & again).any():
        remarks.append(
            f"{(met & again).sum():,} games were judged again in another file, some with other "
            "verdicts; all count"
        )
    keep: NDArray[np.bool_] = ~(copied | retried).to_numpy(bool)
    return keep, remarks


def _games_by_key(outcomes: Outcomes) -> pd.DataFrame:
    """Score, weight and position of each game from the side of the model that was met first, and
    the number of its judge, models, prompt and order together."""
    turned = outcomes.first > outcomes.second
    sides = (outcomes.first, outcomes.second)
    told = pd.DataFrame(
        {
            "one": np.where(turned, sides[1], sides[0]),
            "other": np.where(turned, sides[0], sides[1]),
            "judge": outcomes.judge,
            "prompt": outcomes.prompt,
            "position": np.where(turned, -outcomes.position, outcomes.position),
        }
    )
    return pd.DataFrame(
        {
            "key": told.groupby([*told.columns], sort=False).ngroup(),
            "position": told["position"],
            "score": np.where(turned, 1 - outcomes.score, outcomes.score),
            "weight": outcomes.weight,
        }
    )


def _styles(outcomes: Outcomes, gathered: _Columns, styles: Styles) -> NDArray[np.float64] | None:
    """Style differences of all games: from their rows, else from the models' answers."""
    if not gathered.styled and not styles:
        return None
    found = np.full((len(outcomes), 8), math.nan)
    if gathered.styled:
        found[list(gathered.styled)] = list(gathered.styled.values())
    if styles:
        # Places of prompts count from their first game, in the order of the numbers.
        told = styles.of_games(outcomes, gathered.prompts)
        found = np.where(np.isnan(found), told, found)
    return differences(found[:, :4], found[:, 4:])[1]


def _baseline(outcomes: Outcomes, told: str, *, declared: bool) -> tuple[str, list[str]]:
    """The model that every game is against; `declared` where the files say who it is, as the second
    of a game. Raises InputError where the one that was told is in no game."""
    models = outcomes.models
    if told:
        if told not in models:
            raise InputError(
                f"no judgement is of the baseline {told!r}; there are {_some(models, 9)}"
            )
        return told, []
    seconds = [models[one] for one in np.unique(outcomes.second)]
    if len(seconds) == 1:
        return seconds[0], []
    everywhere = [
        name
        for number, name in enumerate(models)
        if ((outcomes.first == number) | (outcomes.second == number)).all()
    ]
    if len(everywhere) == 1 and not declared:
        return everywhere[0], []
    return "", [
        f"the files have no common baseline ({_some(seconds, 9)}): each model is compared with "
        "those that it met; --baseline NAME compares with one"
    ]


def _failures(outcomes: Outcomes, reasons: NDArray[np.object_]) -> list[tuple[str, str, str, int]]:
    missing = np.isnan(outcomes.score)
    judges = [outcomes.judges[one] for one in outcomes.judge[missing]]
    models = [outcomes.models[one] for one in outcomes.first[missing]]
    counts = Counter(zip(judges, models, reasons[missing], strict=True))
    return [Failure(*key, games) for key, games in sorted(counts.items())]


def _some(names: Sequence[Any], most: int = SHOWN) -> str:
    """A few names, and how many more there are."""
    told = ", ".join(map(str, names[:most]))
    return told if len(names) <= most else f"{told} and {len(names) - most} more"
