"""Whether what a merge is told fits its models: patterns that fit nothing, weights that cancel.

Pure over names of tensors and the config; folders are compared by their place. Whatever would merge
nothing, divide by nothing, or count one model twice is a reason.
"""

from __future__ import annotations

import difflib
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import NamedTuple

from arbitrage.merging.checkpoint import Checkpoint
from arbitrage.merging.config import BASE, MergeConfig, Setting
from arbitrage.merging.likeness import merged_tensors
from arbitrage.merging.methods import METHODS
from arbitrage.merging.reasons import Finding, Reason, counted, joined, kind_of, kinds
from arbitrage.merging.schedule import depths, unfit, values_of

WORD = re.compile(r"[^.*?\[\]]+")
MANY_VECTORS = 2.0
"""So many at once seldom make a model that still answers."""
NOTHING = 1e-6
"""A sum of weights is nothing from this part of their size on: what is left is rounding."""


class Told(NamedTuple):
    """A setting, where it stands in the config, whom it is about, and its values by tensor."""

    place: str
    setting: Setting
    models: tuple[str, ...]
    values: dict[str, float]


def fitting(config: MergeConfig, checkpoints: Mapping[str, Checkpoint]) -> Iterator[Finding]:
    """Patterns, weights and densities against the tensors that are merged."""
    carrier = checkpoints[config.carrier]
    depth_of = depths(carrier.tensors)
    places = {name: depth_of[name] for name in merged_tensors(carrier)}
    used = METHODS[config.method].settings
    told = {
        name: settings(config, name, places) for name in ("weight", "density", "t") if name in used
    }
    for one in (one for several in told.values() for one in several):
        yield from _patterns(one, list(places))
    if "weight" in told:
        yield from _weights(config, told["weight"], list(places))
    yield from _densities(told.get("density", []))
    if config.scale == 0:
        yield "scale is 0, so that the result is the base"


def settings(config: MergeConfig, name: str, places: Mapping[str, float | None]) -> list[Told]:
    """What is told of weight, density or t: by each model, and for those that say nothing."""
    own = {key: getattr(model, name, None) for key, model in config.models.items()}
    silent = tuple(key for key, setting in own.items() if setting is None)
    found = [
        Told(f"models.{key}.{name}", told, (key,), values_of(told, places))
        for key, told in own.items()
        if told is not None
    ]
    default = getattr(config, name)
    if silent or default != type(config).model_fields[name].default:
        found.append(Told(name, default, silent, values_of(default, places)))
    return found


def _patterns(told: Told, names: list[str]) -> Iterator[Finding]:
    """Patterns that fit nothing, tensors that nothing fits, settings that nobody takes."""
    if not told.models:
        yield Reason(
            "settings", told.place, "every model has its own, so that this changes nothing; drop it"
        )
        return
    if not isinstance(told.setting, dict):
        return
    for pattern in unfit(told.setting, names):
        yield Reason("settings", f"{told.place}: {pattern}", _unfit(pattern, names))
    left = [name for name in names if name not in told.values]
    if left:
        yield Reason(
            "settings",
            told.place,
            f"no pattern fits {counted(len(left), 'tensor')} ({kinds(left)}); end it with "
            '`"*": VALUE` for all others',
        )


def _unfit(pattern: str, names: list[str]) -> str:
    """Why a pattern is never the first that fits, with the word that is perhaps meant."""
    if any(fnmatchcase(name, pattern) for name in names):
        return "another pattern before it fits all that it fits; write it first, or drop it"
    known = sorted({kind_of(name) for name in names})
    words = sorted({word for name in known for word in WORD.findall(name)})
    for word in WORD.findall(pattern):
        near = difflib.get_close_matches(word, words, n=1)
        if near and near != [word]:
            return f"this pattern fits no tensor; did you mean {near[0]!r} for {word!r}?"
    named = f"tensors are named as {known[0]}" if known else "there is nothing to merge"
    return f"this pattern fits no tensor; {named}"


def _weights(config: MergeConfig, told: list[Told], names: list[str]) -> Iterator[Finding]:
    """Weights that come to nothing."""
    values = {model: one.values for one in told for model in one.models}
    listed_values = [values[model] for model in config.models]
    nothing, cancelled = _sums(listed_values, names)
    yield from _whole_vectors(config, listed_values, names)
    for model, found in values.items():
        if found and not any(found.values()) and len(nothing) < len(names):
            yield f"{model} counts nowhere, as its weight is 0"
    if nothing and (config.is_normalized or not METHODS[config.method].needs_base):
        yield Reason(
            "weights",
            joined([*config.models]),
            f"all are 0 for {counted(len(nothing), 'tensor')} ({kinds(nothing)}); give a weight to "
            "at least one model",
        )
    elif nothing:
        yield f"all weights of {kinds(nothing)} are 0, so that the base's numbers stay"
    if cancelled and config.is_normalized:
        yield Reason(
            "weights",
            joined([*config.models]),
            f"they add up to 0 for {counted(len(cancelled), 'tensor')} ({kinds(cancelled)}), and "
            "are divided by that sum; change them, or set `normalize: false`",
        )


def _whole_vectors(
    config: MergeConfig, values: list[dict[str, float]], names: list[str]
) -> Iterator[Finding]:
    """Task vectors that are added whole, where an average is likely meant."""
    if config.is_normalized or not METHODS[config.method].needs_base or len(values) < 2:
        return
    sums = [abs(config.scale * sum(one[name] for one in values if name in one)) for name in names]
    if sums and (most := max(sums)) > MANY_VECTORS:
        yield (
            f"weights and scale add up to {most:g}: so many whole task vectors are added to the "
            "base; `normalize: true` makes it an average of them"
        )


def _sums(values: list[dict[str, float]], names: list[str]) -> tuple[list[str], list[str]]:
    """Tensors whose weights are all 0, and those whose weights cancel."""
    nothing: list[str] = []
    cancelled: list[str] = []
    for name in names:
        found = [one[name] for one in values if name in one]
        size = sum(map(abs, found))
        if len(found) == len(values) and abs(sum(found)) <= NOTHING * size:
            (cancelled if size else nothing).append(name)
    return nothing, cancelled


def _densities(told: list[Told]) -> Iterator[Finding]:
    """Densities that keep nothing."""
    for one in told:
        found = [name for name, value in one.values.items() if value == 0]
        if found and one.models:
            yield Reason(
                "settings",
                one.place,
                f"a density of 0 keeps nothing of {counted(len(found), 'tensor')} "
                f"({kinds(found)}); drop the model, or give it a weight of 0 there",
            )


def distinctness(config: MergeConfig, checkpoints: Mapping[str, Checkpoint]) -> Iterator[Finding]:
    """Folders that are listed twice."""
    found: dict[str, list[str]] = defaultdict(list)
    for name, checkpoint in checkpoints.items():
        found[str(checkpoint.folder.resolve())].append(name)
    for folder, who in found.items():
        models = [name for name in who if name != BASE]
        if len(models) > 1:
            yield Reason(
                "models", joined(models), f"all are {folder}; list a model once, with more weight"
            )
        if BASE in who and models and config.base is not None:
            yield Reason(
                "models",
                joined(models),
                f"it is the base's folder ({folder}), so that there is nothing that it learned; "
                "list what was trained from the base",
            )
