"""What a merge can be told, each field once, with its bounds and meaning beside it.

    method: ties
    base: models/base
    models:
      germanic: {model: models/germanic, weight: 0.6, density: 0.5}
      romance: {model: models/romance, weight: [0, 0.5, 1]}     # first layer, middle, last
    weight: {"*.mlp.*": 0.3, "*": 1}                            # of models that say none

Unknown keys are errors that name the nearest known one; so is what the method makes no use of.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from arbitrage.blocks import Block, incidental
from arbitrage.config import Name
from arbitrage.merging.methods import METHODS

Number = Annotated[float, Field(strict=True)]
"""No text and no yes or no."""

Curve = Number | tuple[Number, ...]
"""One value, or several that are spread evenly over the layers, with straight lines between."""

Setting = Curve | dict[str, Curve]
"""A curve, or curves by pattern of tensor names (* and ?); the first pattern that fits counts."""

MethodName = Literal["linear", "slerp", "task_arithmetic", "ties", "dare_linear", "dare_ties"]
Precision = Literal["float32", "float16", "bfloat16"]
BASE = "base"
PATTERNED = frozenset({"weight", "density", "t"})
"""What may be told by patterns."""

UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}
LARGEST = 1e30
"""Of a weight or scale; float32 ends at 3e38."""

SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?B?)", re.IGNORECASE)


def _bytes(value: Any) -> Any:
    """A size such as 4GB in bytes."""
    told = SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if told is None or told[2].upper() not in UNITS:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise ValueError("should be a size such as 4GB, 500MB or 100KB")
    return int(float(told[1]) * UNITS[told[2].upper()])


def curves(setting: Setting) -> dict[str, Curve]:
    """A setting by pattern; one without patterns is for all."""
    return setting if isinstance(setting, dict) else {"*": setting}


def numbers(setting: Setting) -> list[float]:
    """All values that a setting names."""
    found: list[float] = []
    for curve in curves(setting).values():
        found += curve if isinstance(curve, tuple) else [curve]
    return found


def _checked(setting: Setting, low: float, high: float, what: str) -> Setting:
    """The setting itself. Raises ValueError where it is empty or a value is out of bounds."""
    if not curves(setting) or any(curve == () for curve in curves(setting).values()):
        raise ValueError(f"{what} is empty; give a number, a list of them, or patterns with them")
    wrong = [value for value in numbers(setting) if not low <= value <= high]
    if wrong:
        raise ValueError(f"{what} should be between {low:g} and {high:g} (it is {wrong[0]:g})")
    return setting


class _Shares(Block):
    """What is checked the same for all models and for one."""

    def identity(self) -> dict[str, Any]:
        """As that of a block, but that the order of patterns counts."""
        found = super().identity()
        for name in PATTERNED & found.keys():
            if isinstance(found[name], dict):
                found[name] = {"patterns": [[*pair] for pair in found[name].items()]}
        return found

    @field_validator("weight", check_fields=False)
    @classmethod
    def _finite(cls, value: Setting | None) -> Setting | None:
        return value if value is None else _checked(value, -LARGEST, LARGEST, "a weight")

    @field_validator("density", check_fields=False)
    @classmethod
    def _share(cls, value: Setting | None) -> Setting | None:
        return value if value is None else _checked(value, 0, 1, "a density")


class MergedModel(_Shares):
    """One of the models that are merged."""

    model: str = Field(min_length=1, description="a folder, or a model of the hub that is cached")
    revision: str | None = Field(None, description="of a model of the hub")
    weight: Setting | None = Field(None, description="how much it counts; none: as all do")
    density: Setting | None = Field(None, description="the share of its task vector that is kept")


def _short(value: Any) -> Any:
    """`germanic: path` is short for `germanic: {model: path}`."""
    return {"model": value} if isinstance(value, str) else value


class MergeConfig(_Shares):
    """One merge."""

    method: MethodName
    base: Annotated[MergedModel, BeforeValidator(_short)] | None = Field(
        None, description="what the models were trained from; needed for all but linear and slerp"
    )
    models: dict[Name, Annotated[MergedModel, BeforeValidator(_short)]] = Field(min_length=1)
    weight: Setting = Field(1.0, description="how much a model counts that says no weight")
    density: Setting = Field(1.0, description="the share of a task vector that is kept")
    t: Setting = Field(0.5, description="slerp: 0 is the first model, 1 the second")
    scale: Number = Field(
        1.0, ge=-LARGEST, le=LARGEST, description="of the merged task vector, before it is added"
    )
    normalize: bool | None = Field(None, description="divide by the sum of weights; none: as usual")
    seed: int = Field(0, ge=0, strict=True, description="of what DARE drops")
    dtype: Precision | None = Field(None, description="of the result; none: each tensor's own")
    like: str | None = Field(
        None, description="whose config, tokenizer and vocabulary; none: the first model's"
    )
    vocabulary: Literal["same", "shared"] = Field(
        "same", description="shared: tokens that all have are merged, the rest is that of `like`"
    )
    accept: tuple[str, ...] = incidental((), description="keys of config.json that may differ")
    shard_size: Annotated[int, BeforeValidator(_bytes)] = Field(4 * 10**9, ge=1)
    threads: int = incidental(2, ge=1, le=256, strict=True)

    @field_validator("t")
    @classmethod
    def _between(cls, value: Setting) -> Setting:
        return _checked(value, 0, 1, "t")

    @model_validator(mode="after")
    def _suits_the_method(self) -> Self:
        method = METHODS[self.method]
        if self.base is None and method.needs_base:
            raise ValueError(f"{self.method} needs `base:`, what the models were trained from")
        if self.base is not None and not method.needs_base:
            raise ValueError(f"base: {self.method} makes no use of one; drop it, or list it as one")
        if method.models is not None and len(self.models) != method.models:
            raise ValueError(f"{self.method} merges {method.models} models, not {len(self.models)}")
        if BASE in self.models:
            raise ValueError("models: `base` is the name of the base; call that model otherwise")
        self._refuse_unused(method.settings)
        if self.like is not None and self.like not in self.names:
            raise ValueError(f"like: there is no {self.like!r}; there are {', '.join(self.names)}")
        return self

    def _refuse_unused(self, used: frozenset[str]) -> None:
        """A setting that changes nothing is a mistake."""
        for name in ("weight", "density", "t", "scale", "normalize", "seed"):
            default = type(self).model_fields[name].default
            if name not in used and getattr(self, name) != default:
                raise ValueError(f"{name!r} means nothing to {self.method}; drop it")
        for key, model in self.models.items():
            for name in ("weight", "density"):
                if name not in used and getattr(model, name) is not None:
                    raise ValueError(f"models.{key}: {name!r} means nothing to {self.method}")
        if self.base is not None and (self.base.weight, self.base.density) != (None, None):
            raise ValueError("base: a base has neither weight nor density; they are of the models")

    @property
    def names(self) -> list[str]:
        """Of all models, the base last."""
        return [*self.models, *([BASE] if self.base else [])]

    @property
    def carrier(self) -> str:
        """The model whose config, tokenizer and vocabulary the result has."""
        return self.like or next(iter(self.models))

    @property
    def is_normalized(self) -> bool:
        """Whether weights are divided by their sum."""
        usual = METHODS[self.method].normalize
        return usual if self.normalize is None else self.normalize

    def all_models(self) -> dict[str, MergedModel]:
        """By name, the base last."""
        return {**self.models, **({BASE: self.base} if self.base else {})}
