"""Scores one candidate. A failure is never a score: it is null, with the reason beside it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

from arbitrage.errors import ItemError, OverWindowError

if TYPE_CHECKING:
    from arbitrage.engines import Scorer
    from arbitrage.records import Prompt


class Verdict(NamedTuple):
    """A score, or why there is none; neither where the Arbiter is not asked in the language.

    `over_window`: the text was too long for the model.
    """

    score: float | None
    error: str | None
    over_window: bool = False


NOT_ASKED = Verdict(None, None)
NO_COMPLETION = Verdict(None, "there is no completion to score")


async def judge(scorer: Scorer, prompt: Prompt, completion: str | None) -> Verdict:
    """The Arbiter's verdict on one candidate; a number that is not finite is an error."""
    if completion is None:
        return NO_COMPLETION
    try:
        score = await scorer.score(prompt, completion)
    except ItemError as error:
        told = str(error) or "the Arbiter refused the candidate"
        return Verdict(None, told, isinstance(error, OverWindowError))
    if not math.isfinite(score):
        return Verdict(None, f"the Arbiter gave {score}, which is no score")
    return Verdict(score, None)
