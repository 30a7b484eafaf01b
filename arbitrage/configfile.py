"""From a YAML file to a valid `RunConfig`: strict reading, overrides, paths, and clear refusals.

Relative paths in a config start at the config file's own folder, so that a scheduled job may be
started from anywhere. A key written twice is an error, not a silent last word.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import yaml
from pydantic import ValidationError

from arbitrage.blocks import Block
from arbitrage.config import RunConfig
from arbitrage.errors import ConfigError
from arbitrage.files import has_scheme

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


Config = TypeVar("Config", bound=Block)
_UNION_PART = re.compile(r"\[key\]|(tuple|dict|list|literal)\[.*\]|str|int|float")
"""What pydantic adds to a place: which branch of a union it tried."""


class Loaded(NamedTuple):
    """A config, and the text that it was written as."""

    config: RunConfig
    text: str


class _UniqueKeys(yaml.SafeLoader):
    """YAML without repeated keys, where `no` is Norwegian and only true and false are not text."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            key = str(key_node.value)
            if key in seen and key != "<<":
                line = key_node.start_mark.line + 1
                raise ConfigError(f"line {line}: the key {key!r} stands twice in one block")
            seen.add(key)
        return super().construct_mapping(node, deep)


_BOOL = "tag:yaml.org,2002:bool"
_UniqueKeys.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in known if tag != _BOOL]
    for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_UniqueKeys.add_implicit_resolver(
    _BOOL, re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def load(
    path: Path, overrides: Iterable[str] = (), teachers: Mapping[str, Any] | None = None
) -> Loaded:
    """Reads a run's config file, applies `a.b=value` overrides, and validates it. `teachers` are
    further ones by name, whose paths are absolute.

    Raises ConfigError, one sentence per mistake, each with the place in the file.
    """
    raw, text = raw_config(path, overrides, "prompts")
    if "evaluation" in raw:
        raise ConfigError(f"{path} describes an evaluation; `arbitrage winrate {path}` runs it")
    _anchor_paths(raw, path.resolve().parent)
    add(raw, "teachers", teachers)
    return Loaded(validated(RunConfig, raw, str(path)), text)


def add(raw: dict[str, Any], key: str, more: Mapping[str, Any] | None) -> None:
    """Adds entries to a block of a raw config; leaves wrong shapes to the validation."""
    block = raw.get(key) or {}
    if more and isinstance(block, dict):
        raw[key] = {**block, **more}


def raw_config(path: Path, overrides: Iterable[str], sources: str) -> tuple[dict[str, Any], str]:
    """What a config file says, with overrides, before it is validated; and its text. `sources` is
    the key that may be short for one source. Raises ConfigError."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        hint = "; `arbitrage init` writes one" if sources == "prompts" else ""
        raise ConfigError(f"there is no config file {path}{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} cannot be read: {error}") from error
    raw = _parse(text, str(path))
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} is no config: it must be a mapping of keys")
    _open_short(raw, sources)
    for override in overrides:
        _apply(raw, override)
        _open_short(raw, sources)
    return raw, text


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


def _open_short(raw: dict[str, Any], key: str) -> None:
    """`prompts: path` is short for one source."""
    if isinstance(raw.get(key), str):
        raw[key] = {"sources": [{"path": raw[key]}]}


def _anchor_paths(raw: dict[str, Any], folder: Path) -> None:
    """Makes the paths in a raw config absolute; leaves wrong shapes to the validation."""
    if not has_scheme(str(raw.get("run"))):
        anchor(raw, "run", folder)
    anchor_sources(raw.get("prompts"), "prompts", folder)
    pools = (raw.get("teachers"), raw.get("arbiters"))
    served = [one for pool in pools if isinstance(pool, dict) for one in pool.values()]
    anchor(raw.get("trust"), "card", folder)
    anchor(raw.get("routing"), "file", folder)
    for block in [*served, raw.get("fuser"), raw.get("arbiter")]:
        anchor_served(block, folder)


def anchor_sources(block: Any, key: str, folder: Path) -> None:
    """Makes the paths of a prompt set absolute; `key` is where it stands."""
    sources = block.get("sources") if isinstance(block, dict) else None
    for number, source in enumerate(sources if isinstance(sources, list) else []):
        if not isinstance(source, dict):
            continue
        if "folder" in source:
            raise ConfigError(
                f"{key}.sources.{number}: 'folder' is no key to set; it is where the config lies"
            )
        anchor(source, "path", folder)
        anchor(source, "dataset", folder, only_if_there=True)
        source["folder"] = str(folder)


def anchor_served(block: Any, folder: Path) -> None:
    """Makes the paths of a model behind an engine absolute."""
    anchor(block, "model", folder, only_if_there=True)
    if isinstance(block, dict):
        anchor(block.get("options"), "crash_once", folder)
        anchor(block.get("options"), "lora", folder)
        anchor(block.get("resources"), "python", folder, through_links=False)


def anchor(
    block: Any,
    key: str,
    folder: Path,
    *,
    only_if_there: bool = False,
    through_links: bool = True,
) -> None:
    """Makes one path absolute, if it is one. A virtual environment's Python is a link; followed, it
    leads out of that environment."""
    if not isinstance(block, dict) or not isinstance(block.get(key), str) or not block[key]:
        return
    try:
        place = folder / Path(block[key]).expanduser()
    except RuntimeError as error:
        raise ConfigError(f"{key}: {block[key]} begins in a home that nobody here has") from error
    says_path = block[key].startswith((".", "/", "~"))
    if not only_if_there or says_path or place.is_dir():
        block[key] = str(place.resolve()) if place.exists() and through_links else _normal(place)


def _normal(place: Path) -> str:
    """Without `..`, but keeping glob characters and names that do not exist yet."""
    parts: list[str] = []
    for part in place.parts:
        if part == ".." and len(parts) > 1:
            parts.pop()
        elif part != ".":
            parts.append(part)
    return str(Path(*parts))


def validated(kind: type[Config], raw: dict[str, Any], where: str) -> Config:
    """A config of a kind. Raises ConfigError, one sentence per mistake."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        lines = [_sentence(item) for item in error.errors() if item["type"] != "too_short"]
        lines = lines or [_sentence(item) for item in error.errors()]
        lines = list({line.split(":", 1)[0]: line for line in reversed(lines)}.values())[::-1]
        raise ConfigError(f"{where}: " + "\n  ".join(lines)) from error


def _sentence(item: Any) -> str:
    place = ".".join(part for part in map(str, item["loc"]) if not _UNION_PART.fullmatch(part))
    message = item["msg"].removeprefix("Value error, ")
    if item["type"] == "missing":
        return f"{place} is missing"
    if item["type"] in ("model_type", "dict_type"):
        message = "should be a block of keys"
    if item["type"] not in ("value_error", "missing"):
        message = f"{message} (it is {item['input']!r:.60})"
    return f"{place}: {message}" if place else message
