"""Every teacher that covers the prompt's language: the router `all`, to compare others to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arbitrage.routers.protocol import Asked, Decision, Pool, Seen

if TYPE_CHECKING:
    from arbitrage.choices import RoutingConfig


class Everyone:
    """Asks all who cover the language."""

    rounds = 1
    lag = 0

    def __init__(self, config: RoutingConfig, pool: Pool) -> None:
        del config
        self._pool = pool

    def route(
        self, asked: Asked, round: int, state: dict[str, Any] | None, seen: Seen | None
    ) -> Decision:
        """All who cover the language; no state."""
        del round, state, seen
        return Decision(self._pool.covering(asked.languages), {})
