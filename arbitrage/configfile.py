"""From a YAML file to a valid `RunConfig`: strict reading, overrides, paths, and clear refusals.

Relative paths in a config start at the config file's own folder, so that a scheduled job may be
started from anywhere. A key written twice is an error, not a silent last word.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml
from pydantic import ValidationError

from arbitrage.config import RunConfig
from arbitrage.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable


class Loaded(NamedTuple):
    """A config, and the text that it was written as."""

    config: RunConfig
    text: str


class _UniqueKeys(yaml.SafeLoader):
    """YAML without repeated keys."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen and key != "<<":
                line = key_node.start_mark.line + 1
                raise ConfigError(f"line {line}: the key {key!r} stands twice in one block")
            seen.add(key)
        return super().construct_mapping(node, deep)


def load(path: Path, overrides: Iterable[str] = ()) -> Loaded:
    """Reads a config file, applies `a.b=value` overrides, and validates it.

    Raises ConfigError, one sentence per mistake, each with the place in the file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"there is no config file {path}; `arbitrage init` writes one") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    raw = _parse(text, str(path))
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} is no config: it must be a mapping of keys such as `run:`")
    if isinstance(raw.get("prompts"), str):
        raw["prompts"] = {"sources": [{"path": raw["prompts"]}]}
    for override in overrides:
        _apply(raw, override)
    _anchor_paths(raw, path.resolve().parent)
    return Loaded(_validate(raw, str(path)), text)


def _parse(text: str, where: str) -> Any:
    try:
        return yaml.load(text, _UniqueKeys)  # noqa: S506 - a SafeLoader
    except ConfigError as error:
        raise ConfigError(f"{where}, {error}") from None
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"{where} is not valid YAML: {problem}") from error


def _apply(raw: dict[str, Any], override: str) -> None:
    """Sets one dotted key; list items are named by number."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"--set {override!r} should look like --set seed=1 or --set a.b=value")
    *parents, last = key.split(".")
    place: Any = raw
    for part in parents:
        place = _step_into(place, part, key)
    value = _parse(text, f"--set {key}")
    if isinstance(place, list):
        place[_index(place, last, key)] = value
    else:
        place[last] = value


def _step_into(place: Any, part: str, key: str) -> Any:
    if isinstance(place, list):
        return place[_index(place, part, key)]
    inner = place.setdefault(part, {})
    if not isinstance(inner, dict | list):
        raise ConfigError(f"--set {key}: {part!r} is a plain value and has no keys")
    return inner


def _index(items: list[Any], part: str, key: str) -> int:
    if part.isdigit() and int(part) < len(items):
        return int(part)
    raise ConfigError(f"--set {key}: {part!r} is no item number below {len(items)}")


def _anchor_paths(raw: dict[str, Any], folder: Path) -> None:
    """Makes the paths in a raw config absolute; leaves wrong shapes to the validation."""
    _anchor(raw, "run", folder)
    prompts = raw.get("prompts")
    sources = prompts.get("sources") if isinstance(prompts, dict) else None
    for source in sources if isinstance(sources, list) else []:
        _anchor(source, "path", folder)
        _anchor(source, "dataset", folder, only_if_there=True)
        if isinstance(source, dict):
            source["folder"] = str(folder)
    teachers = raw.get("teachers")
    served = list(teachers.values()) if isinstance(teachers, dict) else []
    for block in [*served, raw.get("arbiter")]:
        _anchor(block, "model", folder, only_if_there=True)
        if isinstance(block, dict):
            _anchor(block.get("options"), "crash_once", folder)


def _anchor(block: Any, key: str, folder: Path, *, only_if_there: bool = False) -> None:
    if not isinstance(block, dict) or not isinstance(block.get(key), str) or not block[key]:
        return
    place = folder / Path(block[key]).expanduser()
    says_path = block[key].startswith((".", "/", "~"))
    if not only_if_there or says_path or place.is_dir():
        block[key] = str(place.resolve()) if place.exists() else _normal(place)


def _normal(place: Path) -> str:
    """Without `..`, but keeping glob characters and names that do not exist yet."""
    parts: list[str] = []
    for part in place.parts:
        if part == ".." and len(parts) > 1:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return str(Path(*parts))


def _validate(raw: dict[str, Any], where: str) -> RunConfig:
    try:
        return RunConfig.model_validate(raw)
    except ValidationError as error:
        lines = [_sentence(item) for item in error.errors() if item["type"] != "too_short"]
        lines = lines or [_sentence(item) for item in error.errors()]
        raise ConfigError(f"{where}: " + "\n  ".join(lines)) from error


def _sentence(item: Any) -> str:
    place = ".".join(str(part) for part in item["loc"] if part != "[key]")
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"{place} is missing"
    if item["type"] not in ("value_error", "missing"):
        message = f"{message} (it is {item['input']!r:.60})"
    return f"{place}: {message}" if place else message
