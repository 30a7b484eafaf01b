"""Model folders of headers alone, with configs and tokenizers by hand, for tests of preflights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from arbitrage.merging.config import MergeConfig
from arbitrage.merging.preflight import Examination, examine, open_all
from weight_files import write_sparse

ROWS, WIDTH, LAYERS = 40, 16, 4
WORDS = [f"w{n}" for n in range(ROWS)]
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": WIDTH,
    "rope_theta": 10000.0,
    "vocab_size": ROWS,
}
Tensors = dict[str, tuple[str, tuple[int, ...]]]


def tensors(rows: int = ROWS, layers: int = LAYERS, dtype: str = "BF16") -> Tensors:
    """Those of a small Llama, more or less."""
    found: Tensors = {"model.embed_tokens.weight": (dtype, (rows, WIDTH))}
    for layer in range(layers):
        found[f"model.layers.{layer}.mlp.up_proj.weight"] = (dtype, (24, WIDTH))
        found[f"model.layers.{layer}.norm.weight"] = (dtype, (WIDTH,))
    return found | {"lm_head.weight": (dtype, (rows, WIDTH))}


def folder(place: Path, told: Tensors | None = None, **config: Any) -> Path:
    """A model folder; a key of the config that is None is left out."""
    write_sparse(place / "model.safetensors", tensors() if told is None else told)
    known = {key: value for key, value in (CONFIG | config).items() if value is not None}
    (place / "config.json").write_text(json.dumps(known))
    return place


def tokenizer(place: Path, tokens: list[str] | dict[str, int], **more: Any) -> Path:
    """A tokenizer.json of BPE; `more` are parts of it, `merges` and others of its model."""
    rows = tokens if isinstance(tokens, dict) else {token: n for n, token in enumerate(tokens)}
    model = {"type": "BPE", "vocab": rows, "merges": more.pop("merges", [])} | more.pop("model", {})
    told = {"version": "1.0", "added_tokens": [], "normalizer": None, "model": model, **more}
    (place / "tokenizer.json").write_text(json.dumps(told))
    return place


def looked_at(root: Path, method: str = "linear", **more: Any) -> Examination:
    """What the preflight finds of all folders in `root`; `base` is the base where there is one."""
    names = sorted(path.name for path in root.iterdir() if path.is_dir())
    told: dict[str, Any] = {"models": {n: {"model": str(root / n)} for n in names if n != "base"}}
    if "base" in names:
        told["base"] = str(root / "base")
    for name, settings in more.pop("per_model", {}).items():
        told["models"][name] |= settings
    config = MergeConfig(method=method, **{**told, **more})
    checkpoints, unopened = open_all(config)
    return examine(config, checkpoints, root.parent / "out" / "merged", unopened=unopened)


def reason(found: Examination, about: str) -> str:
    """The one reason about something: `where: told`."""
    (one,) = [reason for reason in found.reasons if reason.about == about]
    return f"{one.where}: {one.told}"
