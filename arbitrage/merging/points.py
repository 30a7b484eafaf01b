"""The points of a grid: each a merge's config, a fingerprint of what it makes, and a short name.

An entry of a grid is the product of its lists; a value that is a list itself, such as a gradient
over layers, stands in a list. Of what all points share, a point takes what its method makes use of;
what the entry itself says must be of use. A name tells what varies among the points of a method,
and only names: a folder is found by the fingerprint, in which models are their content. Reads no
file; who knows the content of a model is given.
"""

from __future__ import annotations

import copy
import difflib
import itertools
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arbitrage.configfile import validated
from arbitrage.errors import ConfigError
from arbitrage.identity import canonical, fingerprint
from arbitrage.merging.config import BASE, MergeConfig, MergedModel, Setting, curves
from arbitrage.merging.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from arbitrage.merging.sweep_config import SweepConfig

MOST = 1000
"""Points of a grid; more are a mistake."""
NAME_LENGTH = 56
"""Of a point, so that what is put behind it fits into a teacher's name."""
SHARED = ("weight", "density", "t", "scale", "normalize", "seed")
"""Settings that some methods make no use of."""
HANDLED = frozenset({"method", "models", "base", "like", *SHARED})
SHORT = re.compile(r"[A-Za-z0-9._-]{1,16}")
Said = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One merge of a sweep. `said` is what its entry of the grid says, dotted, and `varied` the
    part of it that tells it from others of its method."""

    name: str
    fingerprint: str
    config: MergeConfig
    said: Said
    varied: Said

    @property
    def label(self) -> str:
        """What its folder is called where it has none yet."""
        return f"{self.name}-{self.fingerprint}"


def points_of(
    sweep: SweepConfig, where: str, content: Callable[[str, MergedModel], str]
) -> tuple[Point, ...]:
    """All points of a sweep, equal ones once, in the order of the grid. `content` names what a
    model is, given what the merge calls it. Raises ConfigError, a sentence per mistake."""
    configs = _configs(sweep, where)
    found: dict[str, tuple[MergeConfig, Said]] = {}
    for config, said in configs:
        found.setdefault(fingerprint(identity_of(config, content)), (config, said))
    varied = _varied([(config.method, said) for config, said in found.values()])
    orders = _orders(varied)
    names: dict[str, str] = {}
    for (print_, (config, _)), told in zip(found.items(), varied, strict=True):
        name = "-".join([config.method, *(f"{_key(k)}{_value(k, v, orders)}" for k, v in told)])
        if len(name) > NAME_LENGTH or name in names.values():
            name = f"{config.method}-{print_[:8]}"
        names[print_] = name
    return tuple(
        Point(names[print_], print_, config, said, dict(told))
        for (print_, (config, said)), told in zip(found.items(), varied, strict=True)
    )


def identity_of(config: MergeConfig, content: Callable[[str, MergedModel], str]) -> dict[str, Any]:
    """What a merge makes, as plain data: models by content and in order, settings of use only.

    DARE draws by a model's name, so there the names count.
    """
    method = METHODS[config.method]
    told = {key: value for key, value in config.identity().items() if key not in HANDLED}
    models = []
    for name, model in config.models.items():
        one: dict[str, Any] = {"content": content(name, model)}
        for key in sorted(method.settings & {"weight", "density"}):
            own = getattr(model, key)
            one[key] = _ordered(getattr(config, key) if own is None else own)
        if method.sparsify == "random":
            one["name"] = name
        models.append(one)
    told |= {"method": config.method, "models": models}
    told["carrier"] = config.names.index(config.carrier)
    if config.base is not None:
        told["base"] = content(BASE, config.base)
    for key in sorted(method.settings & {"t", "scale", "seed"}):
        value = getattr(config, key)
        told[key] = _ordered(value) if key == "t" else value
    if "normalize" in method.settings:
        told["normalize"] = config.is_normalized
    return told


def _ordered(setting: Setting) -> list[Any]:
    """A setting whose patterns keep their order, in which the first that fits counts."""
    return [
        [pattern, list(map(float, curve)) if isinstance(curve, tuple) else float(curve)]
        for pattern, curve in curves(setting).items()
    ]


def _configs(sweep: SweepConfig, where: str) -> list[tuple[MergeConfig, Said]]:
    """Every point's config. Raises ConfigError with all mistakes of all entries."""
    found: list[tuple[MergeConfig, Said]] = []
    mistakes: dict[str, None] = {}
    used: set[str] = set()
    for number, entry in enumerate(sweep.grid, 1):
        place = f"grid {number}"
        wrong = _wrong_keys(entry, sweep.merge)
        mistakes |= dict.fromkeys(f"{place}: {one}" for one in wrong)
        for said in () if wrong else _expanded(entry):
            raw = _raw(sweep.merge, said)
            used |= set(raw)
            try:
                config = validated(MergeConfig, raw, place)
            except ConfigError as error:
                mistakes[str(error)] = None
                continue
            found.append((config, {"method": config.method, **said}))
            if len(found) > MOST:
                raise ConfigError(f"{where}: the grid makes more than {MOST:,} points; shorten it")
    if not mistakes:
        unused = [key for key in sweep.merge if key not in used | {BASE}]
        mistakes = {f"merge: no method of the grid makes use of {key!r}": None for key in unused}
    if mistakes:
        raise ConfigError(f"{where}: " + "\n  ".join(mistakes))
    return found


def shared_base(sweep: SweepConfig) -> MergedModel | None:
    """The base that all points share, also where no method makes use of one. Raises ConfigError."""
    told = _opened(sweep.merge.get(BASE))
    return None if told is None else validated(MergedModel, told, "merge.base")


def _wrong_keys(entry: Said, merge: Said) -> list[str]:
    """What is wrong with the keys of an entry, and lists without a value."""
    told = merge.get("models")
    names = list(told) if isinstance(told, dict) else []
    known = list(MergeConfig.model_fields)
    known += [f"base.{key}" for key in ("model", "revision")]
    known += [f"models.{name}.{key}" for name in names for key in MergedModel.model_fields]
    found = []
    for key, value in entry.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
            found.append(f"unknown key {key!r}; {hint}")
        elif value == []:
            found.append(f"{key}: the list is empty; give it values, or drop it")
    return found


def _expanded(entry: Said) -> Iterator[Said]:
    """The product of an entry's lists."""
    values = [value if isinstance(value, list) else [value] for value in entry.values()]
    for some in itertools.product(*values):
        yield dict(zip(entry, some, strict=True))


def _raw(merge: Said, said: Said) -> dict[str, Any]:
    """A point's raw config: what all share as far as its method makes use of it, and its own."""
    raw = copy.deepcopy(merge)
    for key in (BASE, "models"):
        raw |= {key: _opened(raw[key])} if key in raw else {}
    method = METHODS.get(str(said.get("method", raw.get("method"))))
    if method is not None:
        unused = {key for key in SHARED if key not in method.settings}
        if not method.needs_base:
            unused.add(BASE)
        raw = {key: value for key, value in raw.items() if key not in unused}
        for model in raw.get("models", {}).values() if _is_block(raw.get("models")) else ():
            for key in unused & set(model) if _is_block(model) else ():
                del model[key]
    for key, value in said.items():
        _set(raw, key, copy.deepcopy(value))
    return raw


def _is_block(value: Any) -> bool:
    return isinstance(value, dict)


def _opened(value: Any) -> Any:
    """With `name: path` written out as `name: {model: path}`; other shapes are not touched."""
    if isinstance(value, str):
        return {"model": value}
    if not isinstance(value, dict) or isinstance(value.get("model"), str):
        return value
    return {name: {"model": one} if isinstance(one, str) else one for name, one in value.items()}


def _set(raw: dict[str, Any], key: str, value: Any) -> None:
    """Sets a key; names of models may have dots in them."""
    first, _, rest = key.partition(".")
    if not rest:
        raw[first] = value
        return
    name, _, last = rest.rpartition(".")
    place = raw.setdefault(first, {})
    if name and _is_block(place):
        place = place.setdefault(name, {})
    if _is_block(place):
        place[last] = value


def _varied(points: Sequence[tuple[str, Said]]) -> list[list[tuple[str, Any]]]:
    """Per point the keys and values that differ among the points of its method."""
    seen: dict[tuple[str, str], set[bytes]] = defaultdict(set)
    counts: dict[str, int] = defaultdict(int)
    told: dict[tuple[str, str], int] = defaultdict(int)
    for method, said in points:
        counts[method] += 1
        for key, value in said.items():
            seen[method, key].add(canonical(value))
            told[method, key] += 1
    return [
        [
            (key, value)
            for key, value in said.items()
            if len(seen[method, key]) > 1 or told[method, key] < counts[method]
        ]
        for method, said in points
    ]


def _orders(varied: Sequence[Sequence[tuple[str, Any]]]) -> Mapping[str, list[bytes]]:
    """All values of each key, in the order of the grid, for those that have no short form."""
    found: dict[str, dict[bytes, None]] = defaultdict(dict)
    for told in varied:
        for key, value in told:
            found[key][canonical(value)] = None
    return {key: list(values) for key, values in found.items()}


def _key(key: str) -> str:
    """Of a model's own settings the model's name and the setting."""
    return key.removeprefix("models.")


def _value(key: str, value: Any, orders: Mapping[str, list[bytes]]) -> str:
    """A value in a name: numbers as they are, lists of them joined, of a path the last part, what
    is longer by its place."""
    if isinstance(value, list | tuple) and all(_is_number(one) for one in value):
        told = "_".join(map(_number, value))
    elif _is_number(value):
        told = _number(value)
    elif isinstance(value, bool):
        told = "-on" if value else "-off"
    elif isinstance(value, str) and SHORT.fullmatch(last := value.rpartition("/")[2]):
        told = f"-{last}"
    else:
        told = ""
    return told or f".{orders[key].index(canonical(value)) + 1}"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _number(value: float) -> str:
    short = f"{value:g}"
    return (short if float(short) == value else repr(value)).replace("+", "")
