"""What can be chosen about how games become win rates; changing it judges nothing anew."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from arbitrage.blocks import Block

Control = Literal["length", "markdown", "position"]


class AnalysisConfig(Block):
    """From games to win rates. The defaults are Arena-Hard's, but for its errors."""

    strong_weight: float = Field(3.0, gt=0, description="copies that A>>B and B>>A count for")
    flips: Literal["keep", "tie", "abstain"] = Field(
        "keep",
        description="a verdict that follows the position in both orders: counts as it is, as one "
        "tie, or not at all",
    )
    missing: Literal["game", "prompt"] = Field(
        "game", description="a game without a verdict: only it is missing, or its twin is left out"
    )
    control: tuple[Control, ...] = Field(
        ("length", "markdown", "position"), description="what the controlled win rate is free of"
    )
    ridge: float = Field(
        1e-4, ge=0, description="prior on strengths, per squared log-odds; keeps them finite"
    )
    resamples: int = Field(1000, ge=0, le=100_000, description="of the questions; 0: no intervals")
    least: int = Field(
        5, ge=1, description="questions that a language or category needs for an interval"
    )
    by: tuple[Literal["language", "category"], ...] = ("language", "category")
    seed: int = Field(0, ge=0, description="of the resamples")
