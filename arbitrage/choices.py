"""How a run chooses: who answers what, what a candidate must pass, and which of them is taken.

Each field once, with its bounds and meaning beside it, as in `config`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from arbitrage.blocks import Block


class RoutingConfig(Block):
    """Who answers what."""

    router: Literal["all"] = "all"


class GatesConfig(Block):
    """Checks that a candidate must pass to be chosen. All are recorded, enforced or not."""

    truncated: bool = Field(True, description="the engine ended the answer, not the model")
    empty: bool = Field(True, description="no text but white space")

    def enforced(self) -> tuple[str, ...]:
        """Names of the gates that keep a candidate from being chosen."""
        return tuple(name for name in type(self).model_fields if getattr(self, name))


class SelectionConfig(Block):
    """How one completion per prompt is chosen."""

    rule: Literal["best"] = "best"
