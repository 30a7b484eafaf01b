"""The style of models' answers, from their files, for games that name the questions.

Each answer is counted once and its text forgotten. Knows no judgements.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

from arbitrage.winrate.answer_files import Places, holds_answers, read_answers
from arbitrage.winrate.recorded_files import files_in
from arbitrage.winrate.recorded_questions import Scope, read_questions
from arbitrage.winrate.style import features

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from arbitrage.stats.outcomes import Outcomes

TOKENS = 4
"""The column after those of `Features`: tokens as the file counts them, nan where it does not."""


class Styled(NamedTuple):
    """Of one file: where the answers are, and their features with tokens, (n, 5)."""

    places: Places
    counts: NDArray[np.float64]


class Styles(dict[str, list[Styled]]):
    """By model, as many as it has files."""

    def of(self, model: str, question: str, language: str) -> NDArray[np.float64]:
        """Features and tokens of an answer, all nan where it is not known."""
        for file in self.get(model, ()):
            number = file.places.find(question, "", language)
            if number is None:  # what names a question is its text with some tools
                number = file.places.find("", "", language, question)
            if number is not None:
                counts: NDArray[np.float64] = file.counts[number]
                return counts
        return np.full(TOKENS + 1, math.nan)

    def of_games(
        self, outcomes: Outcomes, prompts: Sequence[tuple[str, str]]
    ) -> NDArray[np.float64]:
        """Features of both answers of each game, (n, 8); the length in tokens where both tell.

        `prompts` are question and language by the numbers that `outcomes.prompt` holds.
        """
        one = self._sides(outcomes, outcomes.first, prompts)
        other = self._sides(outcomes, outcomes.second, prompts)
        both = ~np.isnan(one[:, TOKENS] + other[:, TOKENS])
        for side in (one, other):
            side[both, 0] = side[both, TOKENS]
        return np.hstack([one[:, :TOKENS], other[:, :TOKENS]])

    def _sides(
        self, outcomes: Outcomes, models: NDArray[np.int64], prompts: Sequence[tuple[str, str]]
    ) -> NDArray[np.float64]:
        """Looks each answer up once, however many games it is in."""
        keys = models * len(prompts) + outcomes.prompt
        codes, unique = pd.factorize(keys)
        found = np.array(
            [
                self.of(outcomes.models[key // len(prompts)], *prompts[key % len(prompts)])
                for key in map(int, unique)
            ]
        )
        counts: NDArray[np.float64] = found[codes]
        return counts


def read_styles(answers: Sequence[Path], questions: Sequence[Path] = ()) -> Styles:
    """Reads files of answers; see `answer_files.read_answers` for what it raises."""
    styles = Styles()
    known = read_questions(questions if answers else ())
    for path, is_named in files_in(answers) if answers else ():
        if not is_named and not holds_answers(path):
            continue
        found = read_answers(path, language=_language(known.of(path)))
        counts = [
            [*features(text), math.nan if tokens is None else tokens]
            for text, tokens in zip(found.texts, found.tokens, strict=True)
        ]
        styles.setdefault(found.model, []).append(Styled(found.places, np.array(counts, float)))
    return styles


def _language(scope: Scope) -> Callable[[str], str]:
    return lambda key: scope.about(key).language
