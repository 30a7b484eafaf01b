"""From a YAML file to a valid `WinrateConfig`: as `configfile` for runs.

Relative paths start at the config file's own folder.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from arbitrage.configfile import (
    add,
    anchor,
    anchor_served,
    anchor_sources,
    raw_config,
    validated,
)
from arbitrage.errors import ConfigError
from arbitrage.files import has_scheme
from arbitrage.winrate.config import WinrateConfig

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path


class Loaded(NamedTuple):
    """A config, and the text that it was written as."""

    config: WinrateConfig
    text: str


def load_winrate(
    path: Path, overrides: Iterable[str] = (), models: Mapping[str, Any] | None = None
) -> Loaded:
    """Reads an evaluation's config file, applies `a.b=value` overrides, and validates it. `models`
    are further ones by name, whose paths are absolute.

    Raises ConfigError, one sentence per mistake, each with the place in the file.
    """
    raw, text = raw_config(path, overrides, "questions")
    if "teachers" in raw and "evaluation" not in raw:
        raise ConfigError(f"{path} describes a run; `arbitrage run {path}` makes it")
    _anchor_paths(raw, path.resolve().parent)
    add(raw, "models", models)
    return Loaded(validated(WinrateConfig, raw, str(path)), text)


def _anchor_paths(raw: dict[str, Any], folder: Path) -> None:
    if not has_scheme(str(raw.get("evaluation"))):
        anchor(raw, "evaluation", folder)
    anchor_sources(raw.get("questions"), "questions", folder)
    for block in _blocks(raw, "models"):
        anchor(block, "answers", folder)
        if isinstance(block, dict) and not has_scheme(str(block.get("run"))):
            anchor(block, "run", folder)
        anchor_served(block, folder)
    for key in ("judges", "arbiters"):
        for block in _blocks(raw, key):
            anchor(block, "template", folder)
            anchor_served(block, folder)


def _blocks(raw: dict[str, Any], key: str) -> list[Any]:
    pool = raw.get(key)
    return list(pool.values()) if isinstance(pool, dict) else []
