"""The incidental part of a config: what a run takes and how it is held, never what it produces.

Each field once, with its bounds and meaning beside it, as in `config`.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import field_validator, model_validator

from arbitrage.blocks import Block, incidental


class Resources(Block):
    """What one replica holds. Never part of an identity."""

    replicas: int = incidental(1, ge=1, le=10_000, description="at most so many at once")
    min_replicas: int = incidental(
        1, ge=1, le=10_000, description="so many, where they fit, before other roles grow"
    )
    cpus: float | None = incidental(None, ge=0, description="none: what the engine usually needs")
    gpus: float = incidental(0.0, ge=0)
    memory_gb: float | None = incidental(None, gt=0)
    batch_size: int | None = incidental(None, ge=1, le=65_536)
    hang_s: float = incidental(
        600.0, gt=0, description="a replica at work that makes no token for so long is replaced"
    )
    load_timeout_s: float = incidental(
        3600.0, gt=0, description="a replica that is not loaded by then is replaced"
    )
    price_per_hour: float | None = incidental(
        None, ge=0, description="money that one replica costs, in the currency of the prices"
    )
    python: str | None = incidental(
        None,
        min_length=1,
        description="a Python of another environment, for the engine's libraries",
    )

    @model_validator(mode="after")
    def _least_is_not_above_most(self) -> Self:
        if self.min_replicas > self.replicas:
            raise ValueError(
                f"min_replicas: {self.min_replicas} is more than replicas: {self.replicas}; "
                "raise `replicas` or lower `min_replicas`"
            )
        return self


class OutputConfig(Block):
    """How files are written."""

    compression: Literal["zstd", "snappy", "none"] = incidental("zstd")
    patience_s: float = incidental(
        120.0, ge=0, description="for a full disk or a failing store, before the run gives up"
    )


class ClusterConfig(Block):
    """The Ray cluster that a run starts, or joins."""

    address: str | None = incidental(
        None,
        min_length=1,
        description="local, auto or host:port; none: RAY_ADDRESS if it is set, else local",
    )
    patience_s: float = incidental(
        600.0, ge=0, description="wait so long on a joined cluster for room that is not there"
    )
    cpus: int | None = incidental(None, ge=1, description="none: all of the machine")
    gpus: int | None = incidental(None, ge=0, description="none: all of the machine")
    metrics_port: int | None = incidental(
        None,
        ge=1,
        le=65_535,
        description="where Prometheus reads a cluster of its own; none: some free port",
    )
    clerks: int = incidental(
        1, ge=1, le=1_000, description="processes that route, look for gates' facts, and select"
    )
    attempts: int = incidental(3, ge=1, le=100, description="tries per task before it is given up")
    grace_s: float = incidental(
        20.0, ge=0, description="for answers that are begun when the run is told to stop"
    )

    @property
    def of_its_own(self) -> str:
        """What is set that only a cluster of its own can have, as part of a sentence."""
        names = ("cpus", "gpus", "metrics_port")
        return " and ".join(f"`cluster.{n}`" for n in names if getattr(self, n) is not None)

    @field_validator("address")
    @classmethod
    def _no_client(cls, address: str | None) -> str | None:
        if address is not None and address.startswith("ray://"):
            raise ValueError(
                f"{address} is a Ray client's address, but the driver has to be in the cluster; "
                "start the run on one of its nodes with `address: auto`"
            )
        return address


class BudgetConfig(Block):
    """What the run directory may spend in all, this call and earlier ones, teachers and Arbiter."""

    tokens: int | None = incidental(
        None, ge=1, description="of prompts and completions, as the engines tell them"
    )
    requests: int | None = incidental(
        None, ge=1, description="completions asked for, and candidates scored"
    )
    money: float | None = incidental(None, gt=0, description="in the currency of the prices")

    def limits(self) -> dict[str, float]:
        """Those that are set, by name."""
        return self.model_dump(exclude_none=True)
