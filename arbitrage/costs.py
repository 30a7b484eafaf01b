"""What each teacher and Arbiter of a run has cost: requests, tokens, hours of its replicas, money.

Requests, tokens and the money of an endpoint's prices are what the files say. Hours are those in
which a replica had work in flight, as the diary tells: loading is not in them, nor is what a killed
driver could not write down. Money counts them by `resources.price_per_hour`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from arbitrage.components import Teacher
from arbitrage.demand import demand_of
from arbitrage.speeds import speeds
from arbitrage.usage import Usage, total_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from arbitrage.components import Arbiter, Components
    from arbitrage.store import Store

HOUR_S = 3600.0
OTHERS = "no longer in the config"


@dataclass(frozen=True)
class Cost:
    """What one role has cost so far.

    `stage` is generate or score. `busy_s`: seconds in which its replicas had work in flight, added
    up over them, and `timed` the requests that these were for, fewer than all where the diary has
    holes. A replica holds `gpus` and `cpus`. `hourly` is the money of a replica's hour, if known.
    """

    name: str
    stage: str
    usage: Usage = field(default_factory=Usage)
    busy_s: float = 0.0
    timed: int = 0
    gpus: float = 0.0
    cpus: float = 0.0
    hourly: float | None = None

    @property
    def gpu_hours(self) -> float:
        """Accelerators times hours."""
        return self.busy_s / HOUR_S * self.gpus

    @property
    def cpu_hours(self) -> float:
        """Processor cores times hours, beside accelerators too."""
        return self.busy_s / HOUR_S * self.cpus

    @property
    def money(self) -> float:
        """Of the endpoint's prices and of the hours."""
        return self.usage.cost + self.busy_s / HOUR_S * (self.hourly or 0.0)

    @property
    def requests_per_s(self) -> float | None:
        """Of one replica at work."""
        return self.timed / self.busy_s if self.busy_s else None

    @property
    def tokens_per_s(self) -> float | None:
        """Completion tokens of one replica at work."""
        rate = self.requests_per_s
        each = self.usage.completion_tokens / self.usage.requests if self.usage.requests else 0.0
        return rate * each if rate is not None and each else None

    def as_dict(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.name,
            "stage": self.stage,
            "requests": self.usage.requests,
            "prompt_tokens": self.usage.prompt_tokens,
            "completion_tokens": self.usage.completion_tokens,
            "gpu_hours": self.gpu_hours,
            "cpu_hours": self.cpu_hours,
            "money": self.money,
            "requests_per_s": self.requests_per_s,
            "tokens_per_s": self.tokens_per_s,
        }


def costs_of(store: Store, components: Components, usages: Mapping[str, Usage]) -> list[Cost]:
    """One for each teacher and Arbiter of the config, in its order; and, where there is any, one
    (of no stage) for all that the config has no longer. `usages` is what `spending.paid` tells."""
    told = speeds(store.events(), {part.fingerprint: part.name for part in components.served})
    found = []
    for part in components.served:
        mine = [usage for owner, usage in usages.items() if components.owner(owner) is part]
        speed = told[part.fingerprint]
        found.append(_cost(part, mine, speed.busy_s, speed.requests))
    others = total_of(u for owner, u in sorted(usages.items()) if components.owner(owner) is None)
    return [*found, Cost(OTHERS, "", others)] if others.requests else found


def _cost(part: Teacher | Arbiter, spent: Iterable[Usage], busy_s: float, timed: int) -> Cost:
    demand = demand_of(part.config)
    return Cost(
        part.name,
        "generate" if isinstance(part, Teacher) else "score",
        total_of(spent),
        busy_s,
        timed,
        demand.gpus,
        demand.cpus,
        part.config.resources.price_per_hour,
    )


def unit_of(costs: Iterable[Cost]) -> str:
    """By what costs are compared: money where all that worked have some, else GPU hours, else the
    tokens of completions, else requests."""
    worked = [cost for cost in costs if cost.usage.requests]
    measures = {
        "money": all(cost.money for cost in worked),
        "gpu_hours": all(cost.gpu_hours for cost in worked),
        "completion_tokens": any(cost.usage.completion_tokens for cost in worked),
    }
    return next((name for name, known in measures.items() if known), "requests")


def amount_of(cost: Cost, unit: str) -> float:
    """What a role has cost in a unit of `unit_of`."""
    return float(cost.as_dict()[unit])
