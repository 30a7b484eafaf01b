"""From the files of an evaluation to games: verdicts and scores, with what was asked and answered.

Reads shard by shard and keeps ids and numbers, no texts. A game without a verdict is a game all the
same, and why it has none is counted. Invariant: a verdict counts only for the answers that it was
said of; where there are others now there is none.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa

from arbitrage.errors import StoreError
from arbitrage.stats.outcomes import Outcomes
from arbitrage.winrate.games import SCORES, STRONG, digest_of
from arbitrage.winrate.style import NAMES, differences, features

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from arbitrage.components import Arbiter
    from arbitrage.plan import ShardState
    from arbitrage.store import Store
    from arbitrage.winrate.config import WinrateConfig
    from arbitrage.winrate.contest import Contest, Judge, Pair
    from arbitrage.winrate.planner import ContestPlanner

VERDICTS = ["prompt_id", "game", "answer_a", "answer_b", "verdict", "error"]
STALE = "the answer is another one now than was judged"
UNKNOWN = ""
"""The category of a question that has none."""


@dataclass
class _Questions:
    """What is known of the prompts of all shards, by their number over all shards."""

    keys: list[str] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)
    categories: list[str] = field(default_factory=list)

    def add(self, shard: pa.Table, category: str | None) -> pd.Index[str]:
        """Takes in a shard; gives the index that finds its rows by prompt id."""
        ids = shard["prompt_id"].to_pylist()
        own = shard["user_id"].to_pylist()
        self.keys += [mine or key for mine, key in zip(own, ids, strict=True)]
        self.languages += shard["language"].to_pylist()
        self.categories += [_category(extra, category) for extra in shard["extra"].to_pylist()]
        found: pd.Index[str] = pd.Index(ids)
        return found


def _category(extra: str | None, column: str | None) -> str:
    value = json.loads(extra).get(column) if extra and column else None
    return UNKNOWN if value is None or isinstance(value, dict | list) else str(value)


def _styles_of(texts: list[str | None]) -> NDArray[np.float64]:
    """What the style of each answer is (n, styles); nan where there is none."""
    unknown = [np.nan] * len(NAMES)
    return np.array([unknown if t is None else features(t) for t in texts], float).reshape(
        len(texts), len(NAMES)
    )


def _is_stale(
    table: pa.Table, both: Sequence[_Answers], places: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Which verdicts are about other answers than there are now."""
    second_shown = table["game"].to_numpy() == 1
    first, second = (one.named[places] for one in both)
    shown = [np.array(table[name].to_pylist(), object) for name in ("answer_a", "answer_b")]
    now = np.where(second_shown, second, first), np.where(second_shown, first, second)
    stale: NDArray[np.bool_] = (shown[0] != now[0]) | (shown[1] != now[1])
    return stale


class _Answers(NamedTuple):
    """One model's answers to a shard: the file's digest, and by the shard's rows whether it was
    asked, what names the text, and what its style is (n, styles)."""

    digest: str
    asked: NDArray[np.bool_]
    named: NDArray[np.object_]
    style: NDArray[np.float64]


class _Games(NamedTuple):
    """Games of one file, as columns of `Outcomes`."""

    first: int
    second: int
    judge: int
    prompt: NDArray[np.int64]
    score: NDArray[np.float64]
    weight: NDArray[np.float64]
    position: NDArray[np.int64]
    style: NDArray[np.float64]


class Gathered(NamedTuple):
    """All games. `failures`: (judge, models, reason, games) without a verdict; `unplayed`: files of
    games that there are not yet."""

    outcomes: Outcomes
    failures: tuple[tuple[str, str, str, int], ...]
    unplayed: int


class _Gatherer:
    """Goes through the shards."""

    def __init__(self, planner: ContestPlanner, store: Store, config: WinrateConfig) -> None:
        self._planner = planner
        self._contest: Contest = planner.contest
        self._store = store
        self._config = config
        self._questions = _Questions()
        self._places = {one.fingerprint: n for n, one in enumerate(self._contest.entrants)}
        self._found: list[_Games] = []
        self._failures: Counter[tuple[str, str, str]] = Counter()
        self._unplayed = 0

    def take_in(self, shard: ShardState) -> None:
        """All games of a shard that there are."""
        start = len(self._questions.keys)
        columns = ["prompt_id", "user_id", "language", "extra"]
        table = self._store.read(shard.path, columns).table
        rows = self._questions.add(table, self._config.questions.category)
        answers = self._answers(shard, rows)
        for pair in self._contest.pairs:
            if {one.fingerprint for one in pair} <= answers.keys():
                both = tuple(answers[one.fingerprint] for one in pair)
                self._take_verdicts(shard, pair, both, rows, start)
                self._take_scores(shard, pair, both, rows, start)
            else:
                self._unplayed += len(self._contest.judges) + len(self._contest.arbiters)

    def _answers(self, shard: ShardState, rows: pd.Index[str]) -> dict[str, _Answers]:
        """By fingerprint; without those who have not answered yet."""
        found = {}
        for entrant in self._contest.entrants:
            task = self._planner.answer_task(shard, entrant)
            if not self._planner.is_there(task):
                continue
            content = self._store.read(task.output, ["prompt_id", "completion"])
            places = self._rows_in(rows, content.table, task.output)
            texts = content.table["completion"].to_pylist()
            asked = np.zeros(len(rows), dtype=bool)
            asked[places] = True
            named = np.full(len(rows), None, object)
            named[places] = [digest_of(text) for text in texts]
            style = np.full((len(rows), len(NAMES)), np.nan)
            style[places] = _styles_of(texts)
            found[entrant.fingerprint] = _Answers(content.digest, asked, named, style)
        return found

    def _rows_in(self, rows: pd.Index[str], table: pa.Table, path: str) -> NDArray[np.int64]:
        """The shard's rows that a file is about. Raises StoreError for one of no shard's."""
        places = np.asarray(rows.get_indexer(pd.Index(table["prompt_id"].to_pylist())), np.int64)
        if (places < 0).any():
            raise StoreError(
                f"{self._store.address(path)} is about prompts that are not in its shard; it was "
                "copied in by hand: remove it"
            )
        return places

    def _take_verdicts(
        self,
        shard: ShardState,
        pair: Pair,
        both: Sequence[_Answers],
        rows: pd.Index[str],
        start: int,
    ) -> None:
        for number, judge in enumerate(self._contest.judges):
            task = self._planner.judge_task(shard, judge, pair)
            if not self._planner.is_there(task):
                self._unplayed += 1
                continue
            table = self._store.read(task.output, VERDICTS).table
            places = self._rows_in(rows, table, task.output)
            stale = _is_stale(table, both, places)
            errors = np.array(table["error"].to_pylist(), object)
            self._note_failures(judge, pair, np.where(stale, STALE, errors).tolist())
            games = self._verdicts(table, pair, both, places, start, number)
            games.score[stale] = np.nan
            self._found.append(games)

    def _verdicts(
        self,
        table: pa.Table,
        pair: Pair,
        both: Sequence[_Answers],
        places: NDArray[np.int64],
        start: int,
        judge: int,
    ) -> _Games:
        second_shown = table["game"].to_numpy() == 1
        verdicts = table["verdict"].to_pylist()
        shown = np.array([np.nan if one is None else SCORES[one] for one in verdicts], float)
        strong = np.array([one in STRONG for one in verdicts], dtype=bool)
        return _Games(
            self._places[pair.first.fingerprint],
            self._places[pair.second.fingerprint],
            judge,
            places + start,
            np.where(second_shown, 1 - shown, shown),
            np.where(strong, self._config.analysis.strong_weight, 1.0),
            np.where(second_shown, -1, 1),
            differences(both[0].style[places], both[1].style[places])[1],
        )

    def _take_scores(
        self,
        shard: ShardState,
        pair: Pair,
        both: Sequence[_Answers],
        rows: pd.Index[str],
        start: int,
    ) -> None:
        """An Arbiter's game is one: it sees no order."""
        for number, arbiter in enumerate(self._contest.arbiters, len(self._contest.judges)):
            tasks = [self._planner.score_task(shard, arbiter.fingerprint, one) for one in pair]
            if not all(map(self._planner.is_there, tasks)):
                self._unplayed += 1
                continue
            scores = [
                self._scores(t.output, a.digest, rows) for t, a in zip(tasks, both, strict=True)
            ]
            places = np.flatnonzero(both[0].asked & both[1].asked)
            gap = (scores[0] - scores[1])[places]
            self._note_failures(arbiter, pair, [None if g == g else "no score" for g in gap])
            score, weight = self._won(arbiter, gap)
            self._found.append(
                _Games(
                    self._places[pair.first.fingerprint],
                    self._places[pair.second.fingerprint],
                    number,
                    places + start,
                    score,
                    weight,
                    np.zeros(len(places), np.int64),
                    differences(both[0].style[places], both[1].style[places])[1],
                )
            )

    def _scores(self, path: str, digest: str, rows: pd.Index[str]) -> NDArray[np.float64]:
        """By the shard's rows; nan too where other answers were scored than there are now."""
        content = self._store.read(path, ["prompt_id", "score"])
        found = np.full(len(rows), np.nan)
        if content.footer.get("candidates") == digest:
            found[self._rows_in(rows, content.table, path)] = content.table["score"].to_numpy()
        return found

    def _won(
        self, arbiter: Arbiter, gap: NDArray[np.float64]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Score and weight of games by the difference of two scores."""
        config = self._config.arbiters[arbiter.name]
        won = (np.sign(gap) + 1) / 2
        score = np.where(np.abs(gap) <= config.margin, 0.5, won)
        score[np.isnan(gap)] = np.nan
        far = np.abs(gap) >= (np.inf if config.strong is None else config.strong)
        strong = far & (score != 0.5)
        return score, np.where(strong, self._config.analysis.strong_weight, 1.0)

    def _note_failures(self, judge: Judge | Arbiter, pair: Pair, errors: list[str | None]) -> None:
        names = " / ".join(sorted(one.name for one in pair))
        for error, count in Counter(error for error in errors if error is not None).items():
            self._failures[judge.name, names, error.split(":")[0].split(";")[0]] += count

    def done(self) -> Gathered:
        """All that was taken in."""
        questions, contest = self._questions, self._contest
        language, languages = pd.factorize(np.array(questions.languages, object))
        category, categories = pd.factorize(np.array(questions.categories, object))
        question, _ = pd.factorize(np.array(questions.keys, object))
        prompt = _joined([one.prompt for one in self._found], np.int64)
        sizes = [len(one.prompt) for one in self._found]
        told: dict[str, Any] = {
            name: np.repeat(np.array([getattr(one, name) for one in self._found], np.int64), sizes)
            for name in ("first", "second", "judge")
        }
        for name, kind in (("score", np.float64), ("weight", np.float64), ("position", np.int64)):
            told[name] = _joined([getattr(one, name) for one in self._found], kind)
        style = [one.style for one in self._found]
        outcomes = Outcomes(
            models=tuple(one.name for one in contest.entrants),
            judges=(*(j.name for j in contest.judges), *(a.name for a in contest.arbiters)),
            languages=tuple(languages),
            categories=tuple(categories),
            language=language.astype(np.int64)[prompt],
            category=category.astype(np.int64)[prompt],
            question=question.astype(np.int64)[prompt],
            prompt=prompt,
            styles=NAMES,
            style=np.concatenate(style) if style else np.zeros((0, len(NAMES))),
            **told,
        )
        failures = tuple((*key, count) for key, count in sorted(self._failures.items()))
        return Gathered(outcomes, failures, self._unplayed)


def _joined(parts: list[Any], kind: Any) -> NDArray[Any]:
    return np.concatenate(parts) if parts else np.zeros(0, kind)


def gathered(planner: ContestPlanner, store: Store, config: WinrateConfig) -> Gathered:
    """All games that there are. Raises StoreError for files that cannot be read."""
    gatherer = _Gatherer(planner, store, config)
    for number in sorted(planner.shards):
        gatherer.take_in(planner.shards[number])
    return gatherer.done()
