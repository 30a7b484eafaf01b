"""What a sweep of merges can be told, and how it is read: a grid of merges, and who evaluates them.

    sweep: runs/merges
    merge: {base: models/base, models: {germanic: models/germanic, romance: models/romance}}
    grid:
      - {method: linear}
      - {method: [ties, dare_ties], density: [0.2, 0.5], models.germanic.weight: [0.5, 1]}
    evaluate: {run: run.yaml, as: {engine: transformers, sampling: {temperature: 0}}}

Relative paths start at the config file's own folder. What a grid makes, `points` says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from arbitrage.blocks import Block, incidental
from arbitrage.config import Name
from arbitrage.configfile import anchor, anchor_served, raw_config, validated
from arbitrage.errors import ConfigError
from arbitrage.files import has_scheme
from arbitrage.merging.loading import anchor_models

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


class EvaluateConfig(Block):
    """Who says how good the merges are: a run whose Arbiter scores them, or an evaluation whose
    judges compare them."""

    model_config = ConfigDict(populate_by_name=True)

    run: str | None = Field(None, min_length=1, description="a run's config; merges answer in it")
    winrate: str | None = Field(None, min_length=1, description="or an evaluation's config")
    served: dict[str, Any] = Field(
        alias="as", description="a teacher's block without `model:`, for every merge"
    )
    beside: dict[Name, str] | None = Field(
        None, description="models that are evaluated as they are; none: those of `merge:`"
    )

    @field_validator("served")
    @classmethod
    def _without_a_model(cls, value: dict[str, Any]) -> dict[str, Any]:
        if "model" in value:
            raise ValueError("drop `model:`; it is each merge in turn")
        return value

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.run is None) == (self.winrate is None):
            raise ValueError("give either `run:` or `winrate:`, the config that evaluates")
        return self


class SweepConfig(Block):
    """One sweep: what all merges share, what varies, and the evaluation."""

    sweep: str = incidental(..., min_length=1, description="a folder; each merge has one in it")
    merge: dict[str, Any] = Field({}, description="a merge's config, as far as all share it")
    grid: tuple[dict[str, Any], ...] = Field(
        min_length=1, description="each a product of its lists; keys are those of a merge, dotted"
    )
    evaluate: EvaluateConfig
    keep: int | Literal["all"] = incidental(
        "all", description="so many of the best keep their folders once all are evaluated"
    )

    @field_validator("sweep")
    @classmethod
    def _is_a_folder(cls, value: str) -> str:
        if has_scheme(value):
            raise ValueError(f"{value} is no folder; merges are written to a disk of this machine")
        return value

    @field_validator("keep")
    @classmethod
    def _some(cls, value: int | Literal["all"]) -> int | Literal["all"]:
        if value != "all" and value < 1:
            raise ValueError(f"should be `all`, or how many of the best to keep (it is {value})")
        return value


class Loaded(NamedTuple):
    """A sweep's config, and the file's name, for sentences."""

    config: SweepConfig
    where: str


def load_sweep(path: Path, overrides: Iterable[str] = ()) -> Loaded:
    """Reads a sweep's config file, applies `a.b=value` overrides, and validates it.

    Raises ConfigError, one sentence per mistake, each with the place in the file.
    """
    raw, _ = raw_config(path, overrides, "")
    if "method" in raw and "grid" not in raw:
        raise ConfigError(f"{path} describes one merge; `arbitrage merge {path} -o DIR` makes it")
    folder = path.resolve().parent
    if not has_scheme(str(raw.get("sweep"))):
        anchor(raw, "sweep", folder)
    if isinstance(raw.get("merge"), dict):
        anchor_models(raw["merge"], folder)
    for entry in raw["grid"] if isinstance(raw.get("grid"), list) else []:
        _anchor_entry(entry, folder)
    _anchor_evaluation(raw.get("evaluate"), folder)
    return Loaded(validated(SweepConfig, raw, str(path)), str(path))


def _anchor_entry(entry: Any, folder: Path) -> None:
    """The same for the values of a grid's entry that are paths, or whole blocks of models."""
    for key, value in entry.items() if isinstance(entry, dict) else ():
        if key in ("base", "models"):
            for one in value if isinstance(value, list) else [value]:
                anchor_models({key: one}, folder)
        if key == "base" or str(key).endswith(".model"):
            values = {str(n): one for n, one in enumerate(value if isinstance(value, list) else [])}
            values = values or {"": value}
            for name in values:
                anchor(values, name, folder, only_if_there=True)
            entry[key] = [*values.values()] if isinstance(value, list) else values[""]


def _anchor_evaluation(block: Any, folder: Path) -> None:
    if not isinstance(block, dict):
        return
    for key in ("run", "winrate"):
        anchor(block, key, folder)
    beside = block.get("beside")
    for name in beside if isinstance(beside, dict) else ():
        anchor(beside, name, folder, only_if_there=True)
    anchor_served(block.get("as"), folder)
