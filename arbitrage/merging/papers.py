"""What goes along with merged weights: config, tokenizer, manifest and model card.

Files are those of the model that the config names `like`; code of a model is taken along only where
its config asks for it. The manifest says what made the weights, and is the last thing written.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from arbitrage import __version__
from arbitrage.identity import known_digest
from arbitrage.manifest import pretty
from arbitrage.markdown import Raw, harmless_line, template
from arbitrage.merging.checkpoint import CARD, CONFIG
from arbitrage.merging.config import BASE
from arbitrage.merging.methods import METHODS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from arbitrage.merging.checkpoint import Checkpoint
    from arbitrage.merging.config import MergeConfig
    from arbitrage.merging.layout import Shard

MANIFEST, TEMPLATE = "merge.json", "mergecard.md"
PLACE = "_name_or_path"
LICENSE, LANGUAGE = "license", "language"


def write_papers(folder: Path, carrier: Checkpoint, config: MergeConfig) -> None:
    """Config, tokenizer and generation config. Raises OSError."""
    for name in carrier.papers():
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(carrier.folder / name, folder / name)
    if not (carrier.folder / CONFIG).is_file():
        return
    told = {key: value for key, value in carrier.config.items() if key != PLACE}
    (folder / CONFIG).write_text(json.dumps(_cast(told, config.dtype), indent=2) + "\n")


def _cast(told: dict[str, Any], dtype: str | None) -> dict[str, Any]:
    """A config that tells the dtype of the result, wherever it tells one."""
    if dtype is None:
        return told
    found = {
        key: _cast(value, dtype) if isinstance(value, dict) else value
        for key, value in told.items()
    }
    names = [name for name in ("dtype", "torch_dtype") if isinstance(told.get(name), str)]
    return found | dict.fromkeys(names, dtype)


def manifest_of(
    config: MergeConfig,
    checkpoints: Mapping[str, Checkpoint],
    shards: Sequence[Shard],
    identity: str,
    remarks: Sequence[str],
) -> dict[str, Any]:
    """What made the weights. `content` is a model's digest, where it was made before."""
    slots = [slot for shard in shards for slot in shard.slots]
    models = config.all_models()
    return {
        "arbitrage": __version__,
        "identity": identity,
        "method": config.method,
        "paper": METHODS[config.method].paper,
        "settings": settings_of(config),
        "models": [
            {
                "name": name,
                "model": shown(models[name].model),
                "revision": models[name].revision,
                "content": known_digest(checkpoint.folder),
            }
            for name, checkpoint in checkpoints.items()
        ],
        "like": config.carrier,
        "tensors": len(slots),
        "parameters": sum(slot.numbers for slot in slots),
        "dtypes": sorted({slot.dtype for slot in slots}),
        "files": {shard.file: len(shard.header) + shard.data for shard in shards},
        "card": front_of(checkpoints),
        "remarks": list(remarks),
    }


def settings_of(config: MergeConfig) -> dict[str, Any]:
    """What the method was told, all of it; weights and densities by model."""
    used = METHODS[config.method].settings
    found: dict[str, Any] = {}
    for name in sorted(used & {"weight", "density"}):
        every = getattr(config, name)
        found[name] = {
            key: every if getattr(model, name) is None else getattr(model, name)
            for key, model in config.models.items()
        }
    for name in sorted(used & {"t", "scale", "seed"}):
        found[name] = getattr(config, name)
    if "normalize" in used:
        found["normalize"] = config.is_normalized
    return found | {"dtype": config.dtype, "vocabulary": config.vocabulary}


def shown(model: str) -> str:
    """A model's name; of a folder its own name alone, as the manifest goes to other machines."""
    return model.rstrip("/").rpartition("/")[2] if model.startswith(("/", ".", "~")) else model


def write_manifest(folder: Path, told: Mapping[str, Any]) -> None:
    """The manifest. Raises OSError."""
    (folder / MANIFEST).write_text(pretty(told), encoding="utf-8")


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a merged model; none where the folder is none."""
    try:
        told = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return told if isinstance(told, dict) and "method" in told else None


def card_of(title: str, told: Mapping[str, Any]) -> str:
    """The model card of a merge, from its manifest. Equal licenses of all models are the result's;
    others are for a human to weigh."""
    settings = told["settings"]
    per_model = [name for name in ("weight", "density") if name in settings]
    models = [
        {**one, "told": [value_text(settings[name][one["name"]]) for name in per_model]}
        for one in told["models"]
        if one["name"] != BASE
    ]
    base = next((one for one in told["models"] if one["name"] == BASE), None)
    hub = [harmless_line(one["model"]) for one in told["models"] if "/" in one["model"]]
    front = {
        "library_name": "transformers",
        "tags": ["merge", harmless_line(told["method"])],
        **({"base_model": hub} if hub else {}),
        **told["card"],
    }
    body = template(TEMPLATE).render(
        title=title,
        version=__version__,
        models=models,
        base=base,
        per_model=per_model,
        settings=[
            (name, value_text(value))
            for name, value in settings.items()
            if name not in per_model and value is not None
        ],
        raw=Raw,
        **{key: told[key] for key in ("parameters", "tensors", "method", "paper", "like")},
        remarks=told["remarks"],
    )
    return f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---\n\n{body}\n"


def value_text(setting: Any) -> str:
    """A setting as a reader takes it."""
    if isinstance(setting, dict):
        return "; ".join(f"{pattern} {value_text(curve)}" for pattern, curve in setting.items())
    if isinstance(setting, tuple | list):
        return f"[{', '.join(f'{value:g}' for value in setting)}]"
    return f"{setting:g}" if isinstance(setting, float) else str(setting).lower()


def front_of(checkpoints: Mapping[str, Checkpoint]) -> dict[str, Any]:
    """What the cards of the models say of license and languages: the license where all say the same
    one, and the languages of any."""
    cards = [front_matter(checkpoint.folder / CARD) for checkpoint in checkpoints.values()]
    licenses = {card.get(LICENSE) if isinstance(card.get(LICENSE), str) else "" for card in cards}
    codes: set[str] = set()
    for card in cards:
        told = card.get(LANGUAGE) or []
        listed = told if isinstance(told, list) else [told]
        codes |= {code for code in listed if isinstance(code, str) and code}
    found: dict[str, Any] = {LANGUAGE: sorted(codes)} if codes else {}
    if len(licenses) == 1 and "" not in licenses:
        found[LICENSE] = licenses.pop()
    return found


def front_matter(path: Path) -> dict[str, Any]:
    """The front matter of a model card; empty where there is none that can be read."""
    try:
        parts = path.read_text(encoding="utf-8").split("---\n", 2)
        told = _plain_yaml(parts[1]) if len(parts) == 3 and not parts[0] else None
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return {}
    return told if isinstance(told, dict) else {}


def _plain_yaml(text: str) -> Any:
    """YAML whose values are all text: `no` is Norwegian, and no date is wrong."""
    return yaml.load(text, yaml.BaseLoader)  # noqa: S506 - it makes no objects
