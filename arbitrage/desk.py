"""What a replica works with: the store, what is to be made, and the engine that it has loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arbitrage.components import Components
    from arbitrage.config import RunConfig
    from arbitrage.engines import Generator, Scorer
    from arbitrage.prompts import PromptSet, Shard
    from arbitrage.store import Store
    from arbitrage.winrate.config import WinrateConfig


@dataclass
class Desk:
    """One replica's. Once `halted`, tasks begin nothing new."""

    store: Store
    config: RunConfig | WinrateConfig
    components: Components
    engine: Generator | Scorer | None = None
    prompt_set: PromptSet | None = None
    token: str | None = None
    unread: Iterator[Shard] | None = field(default=None, init=False)
    halted: bool = field(default=False, init=False)

    @property
    def run(self) -> RunConfig:
        """The config, for the stages that only a run has."""
        return cast("RunConfig", self.config)
