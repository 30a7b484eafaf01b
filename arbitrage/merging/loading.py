"""From a YAML file to a valid `MergeConfig`: as `configfile` for runs.

Relative paths start at the config file's own folder; a model that is no folder there is one of the
hub.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from arbitrage.configfile import anchor, raw_config, validated
from arbitrage.errors import ConfigError
from arbitrage.merging.config import BASE, MergeConfig

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path


def load_merge(path: Path, overrides: Iterable[str] = ()) -> MergeConfig:
    """Reads a merge's config file, applies `a.b=value` overrides, and validates it.

    Raises ConfigError, one sentence per mistake, each with the place in the file.
    """
    raw, _ = raw_config(path, overrides, "")
    for key, command in (("teachers", "run"), ("evaluation", "winrate"), ("sweep", "merge sweep")):
        if key in raw:
            raise ConfigError(f"{path} is no merge; `arbitrage {command} {path}` takes it")
    anchor_models(raw, path.resolve().parent)
    return validated(MergeConfig, raw, str(path))


def anchor_models(raw: dict[str, Any], folder: Path) -> None:
    """Makes the paths of models absolute, whether they stand alone or in a block."""
    models = raw.get("models")
    for block, keys in ((raw, [BASE]), (models, list(models) if isinstance(models, dict) else [])):
        for key in keys:
            if not isinstance(block, dict):
                continue
            anchor(block, key, folder, only_if_there=True)
            anchor(block.get(key), "model", folder, only_if_there=True)
