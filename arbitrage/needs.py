"""What the replicas of each role need, as the config says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arbitrage.demand import demand_of
from arbitrage.options import EngineOptions
from arbitrage.placement import Slots
from arbitrage.plan import CLERK, READER

if TYPE_CHECKING:
    from collections.abc import Hashable

    from arbitrage.components import Components
    from arbitrage.config import Served

SILENT_S = 60.0
"""The reader and the clerk have no engine: of them it is enough that their process answers."""


class Needs:
    """Looks up roles by their owner; the reader and the clerk need nothing."""

    def __init__(self, components: Components, clerks: int = 1) -> None:
        self._clerks = clerks
        self._components = components
        served = components.served
        self._configs: dict[str, Served] = {part.fingerprint: part.config for part in served}
        self._names = {part.fingerprint: part.name for part in served}
        self._demands = {owner: demand_of(config) for owner, config in self._configs.items()}

    @property
    def owners(self) -> list[str]:
        """The roles that have an engine: teachers, then the Arbiters."""
        return list(self._configs)

    @property
    def elsewhere(self) -> bool:
        """Whether any role's replicas run in another Python environment."""
        return any(config.resources.python for config in self._configs.values())

    def name(self, owner: str) -> str:
        """A role as its user calls it."""
        return self._names[owner]

    def config(self, owner: str) -> Served | None:
        """A role's config; none for the reader and the clerk."""
        return None if owner in (READER, CLERK) else self._configs[owner]

    def demand(self, owner: str) -> Slots:
        """What one replica of a role takes."""
        return self._demands.get(owner, Slots())

    def most(self, owner: str) -> int:
        """How many replicas of a role there may be."""
        config = self.config(owner)
        if config is None:
            return self._clerks if owner == CLERK else 1
        return config.resources.replicas

    def least(self, owner: str) -> int:
        """How many replicas of a role come before other roles grow."""
        config = self.config(owner)
        return 1 if config is None else config.resources.min_replicas

    def load_s(self, owner: str) -> float:
        """How long a replica may take to load."""
        config = self.config(owner)
        return SILENT_S if config is None else config.resources.load_timeout_s

    def hang_s(self, owner: str) -> float:
        """How long a replica at work may produce nothing: a server's own limits come first."""
        config = self.config(owner)
        if config is None:
            return SILENT_S
        slowest_s = config.options.slowest_s if isinstance(config.options, EngineOptions) else 0.0
        return max(config.resources.hang_s, 2 * slowest_s)

    def kind(self, owner: str) -> Hashable:
        """What two roles have in common if a process can serve one after the other."""
        config = self.config(owner)
        if config is None:
            return owner
        return config.engine, config.resources.python, self.demand(owner)
