"""Makes model folders for tests of merging: small safetensors files with numbers that are known."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SHAPES = {
    "model.embed_tokens.weight": (40, 16),
    **{f"model.layers.{n}.mlp.up_proj.weight": (48, 16) for n in range(4)},
    **{f"model.layers.{n}.norm.weight": (16,) for n in range(4)},
    "model.norm.weight": (16,),
    "lm_head.weight": (40, 16),
}
CONFIG = {"model_type": "llama", "hidden_size": 16, "vocab_size": 40, "architectures": ["X"]}


def tensors(seed: int, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> dict[str, torch.Tensor]:
    """Normal numbers, float32."""
    draw = np.random.default_rng(seed)
    return {
        name: torch.from_numpy(draw.normal(size=shape).astype(np.float32))
        for name, shape in shapes.items()
    }


def save(folder: Path, told: Mapping[str, torch.Tensor], **config: Any) -> Path:
    """A model folder with these tensors, in one file."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(dict(told), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    (folder / "generation_config.json").write_text('{"eos_token_id": 2}')
    return folder


def load(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a folder, as its files hold them."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(folder.glob("*.safetensors")):
        found |= load_file(path)
    return found


def content(folder: Path) -> dict[str, bytes]:
    """All tensors of a folder, as bytes."""
    return {
        name: tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for name, tensor in load(folder).items()
    }
