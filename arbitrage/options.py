"""The options of each engine, each field once, with its bounds and meaning beside it.

A new engine is a block here, one line in `OPTIONS`, and what `arbitrage.engines` says.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from arbitrage.blocks import Block, incidental


class FakeOptions(Block):
    """The public fake engine: deterministic, instant, and able to misbehave on request."""

    skill: float | dict[str, float] = Field(
        0.5, description="mean quality of an answer, 0..1; or one per language, with `default`"
    )
    words: int = Field(12, ge=0, le=10_000, description="length of an answer")
    voice: str = Field("", description="makes two otherwise equal fakes differ")
    truncate: float = Field(0.0, ge=0, le=1, description="share of answers that are cut off")
    empty: float = Field(0.0, ge=0, le=1, description="share of answers without text")
    fail: float = Field(0.0, ge=0, le=1, description="share of prompts that fail for good")
    lie: Literal["no", "drop", "nan"] = Field(
        "no", description="break the contract: one completion too few, or a score that is no number"
    )
    delay_s: float = incidental(0.0, ge=0)
    load_s: float = incidental(0.0, ge=0)
    hang_after: int | None = incidental(None, ge=0, description="requests until it never answers")
    crash_after: int | None = incidental(None, ge=0, description="requests until the process dies")
    crash_once: str | None = incidental(
        None, description="a file that the crash leaves behind; while it exists there is no other"
    )


class TransformersOptions(Block):
    """Hugging Face transformers, on any machine."""

    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    max_length: int | None = Field(
        None, ge=8, description="window in tokens; none: the model's own. Longer input is an error"
    )
    device: str = incidental("auto", description="auto takes the accelerator that the slot holds")


OPTIONS: dict[str, type[Block]] = {"fake": FakeOptions, "transformers": TransformersOptions}
"""Engine name to its options; `arbitrage.engines.ENGINES` has the same keys."""
