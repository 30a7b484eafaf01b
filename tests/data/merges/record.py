"""Records what mergekit and PEFT make of the same small models, in `merges.npz` beside this file.

Four Llamas of three layers and random float32 weights (three models and their base) are merged by
mergekit's own `run_merge`, whole, on the processor; PEFT's functions of `peft.utils.merge_utils`
are given the task vectors of the same tensors. A part of the tensors is kept: an embedding of
40 x 24, two matrices of 12 x 24, the norms of three layers and the last. Written with mergekit
0.1.5, PEFT 0.21.2, torch 2.13.0 and transformers 5.23.0, in an environment that has them:

    python tests/data/merges/record.py
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
from mergekit.config import MergeConfiguration
from mergekit.merge import MergeOptions, run_merge
from peft.utils import merge_utils
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

TARGET = Path(__file__).with_name("merges.npz")
SHAPE = {
    "vocab_size": 40,
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "tie_word_embeddings": False,
}
KEPT = (
    "model.embed_tokens.weight",
    *(f"model.layers.{layer}.self_attn.k_proj.weight" for layer in (0, 2)),
    *(f"model.layers.{layer}.input_layernorm.weight" for layer in range(3)),
    "model.norm.weight",
)
THIRD = [0.2, 0.5, 0.9]
MIXED = [0.6, -0.3, 0.8]
BY_NAME = {"embed_tokens": 0.25, "k_proj": 0.75, "*": 1.0}
MODELS = ("one", "two", "three")

MERGES = {
    "linear": {"method": "linear", "weight": THIRD},
    "linear-sum": {"method": "linear", "weight": THIRD, "normalize": False},
    "linear-negative": {"method": "linear", "weight": MIXED},
    "linear-layers": {"method": "linear", "weight": [[0, 1], [1, 0.2, 0.4], 0.5]},
    "linear-names": {"method": "linear", "weight": [BY_NAME, 0.5, {"layers": [0, 1], "*": 0.1}]},
    "linear-bfloat16": {"method": "linear", "weight": THIRD, "dtype": "bfloat16"},
    "slerp-0": {"method": "slerp", "t": 0},
    "slerp-0.3": {"method": "slerp", "t": 0.3},
    "slerp-0.5": {"method": "slerp", "t": 0.5},
    "slerp-1": {"method": "slerp", "t": 1},
    "slerp-layers": {"method": "slerp", "t": [0, 0.5, 0.3, 1]},
    "slerp-near": {"method": "slerp", "t": 0.3, "models": ["one", "near"]},
    "arithmetic": {"method": "task_arithmetic", "weight": THIRD},
    "arithmetic-scaled": {"method": "task_arithmetic", "weight": MIXED, "scale": 0.7},
    "arithmetic-mean": {"method": "task_arithmetic", "weight": THIRD, "normalize": True},
    "ties": {"method": "ties", "weight": THIRD, "density": THIRD},
    "ties-negative": {"method": "ties", "weight": MIXED, "density": 0.5, "scale": 0.7},
    "ties-sum": {"method": "ties", "weight": THIRD, "density": 0.5, "normalize": False},
    "ties-equal": {"method": "ties", "weight": 1, "density": 0.2},
    "ties-layers": {"method": "ties", "weight": [[0.2, 1], 0.5, 0.3], "density": [0.9, 0.2, 0.5]},
    "dare-all": {"method": "dare_ties", "weight": THIRD, "density": 1},
}
"""What is merged, in the words of this package. `weight` and `density` are of the three models in
turn, or one for all; a list within that list is a gradient over the layers."""

PEFT = {
    "peft-arithmetic": ("task_arithmetic", THIRD, {}),
    "peft-arithmetic-negative": ("task_arithmetic", MIXED, {}),
    "peft-ties": ("ties", [1.0, 1.0, 1.0], {"density": 0.2}),
    "peft-ties-half": ("ties", [1.0, 1.0, 1.0], {"density": 0.5}),
    "peft-dare": ("dare_ties", [1.0, 1.0, 1.0], {"density": 1.0}),
}


def inputs() -> dict[str, LlamaForCausalLM]:
    """The base, three models trained from it as it were, and one that is nearly the first."""
    source = np.random.default_rng(20)
    found = {}
    for name in ("base", *MODELS, "near"):
        model = found[name] = LlamaForCausalLM(LlamaConfig(**SHAPE))
        for tensor, weight in model.named_parameters():
            drawn = torch.from_numpy(source.standard_normal(weight.shape).astype(np.float32))
            with torch.no_grad():
                if name == "base":
                    weight.copy_(drawn)
                elif name == "near":
                    weight.copy_(found["one"].get_parameter(tensor) + 0.01 * drawn)
                else:
                    weight.copy_(found["base"].get_parameter(tensor) + 0.5 * drawn)
    return found


def per_model(value: object, count: int) -> list[object]:
    return value if isinstance(value, list) else [value] * count


def told(setting: object) -> object:
    """A setting as mergekit has it: its filters are parts of names."""
    if not isinstance(setting, dict):
        return setting
    return [{"filter": part, "value": value} for part, value in setting.items()]


def configured(merge: dict, folders: dict[str, str]) -> dict:
    """A merge in mergekit's words."""
    names = merge.get("models", MODELS[:2] if merge["method"] == "slerp" else MODELS)
    models = [{"model": folders[name], "parameters": {}} for name in names]
    for key in ("weight", "density"):
        if key in merge:
            for model, value in zip(models, per_model(merge[key], len(names)), strict=True):
                model["parameters"][key] = told(value)
    shared = {"lambda": merge["scale"]} if "scale" in merge else {}
    shared |= {key: told(merge[key]) for key in ("t", "normalize") if key in merge}
    found = {"merge_method": merge["method"], "models": models, "parameters": shared}
    found |= {"dtype": "float32", "out_dtype": merge.get("dtype", "float32")}
    if merge["method"] == "slerp":
        return found | {"base_model": folders[names[0]]}
    return found | ({} if merge["method"] == "linear" else {"base_model": folders["base"]})


def merged(merge: dict, folders: dict[str, str]) -> dict[str, torch.Tensor]:
    with tempfile.TemporaryDirectory() as target:
        config = MergeConfiguration.model_validate(configured(merge, folders))
        options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True)
        run_merge(config, target, options)
        found: dict[str, torch.Tensor] = {}
        for path in Path(target).glob("*.safetensors"):
            found |= load_file(path)
    return found


def flat(tensors: dict[str, torch.Tensor]) -> np.ndarray:
    """The kept tensors behind one another; bfloat16 is exact in float32."""
    return np.concatenate([tensors[name].float().numpy().ravel() for name in KEPT])


def by_peft(name: str, models: dict[str, dict[str, torch.Tensor]]) -> np.ndarray:
    function, weights, more = PEFT[name]
    found = {}
    for tensor in KEPT:
        base = models["base"][tensor]
        deltas = [models[model][tensor] - base for model in MODELS]
        made = getattr(merge_utils, function)(deltas, torch.tensor(weights), **more)
        found[tensor] = base + made
    return flat(found)


def refuse_equal_magnitudes(models: dict[str, dict[str, torch.Tensor]]) -> None:
    """Which of equal magnitudes is kept is no part of a definition."""
    for tensor in KEPT:
        for model in MODELS:
            delta = (models[model][tensor] - models["base"][tensor]).abs()
            if len(delta.unique()) < delta.numel():
                raise SystemExit(f"{model}, {tensor}: equal magnitudes; take another seed")


def main() -> None:
    """Writes the file."""
    made = inputs()
    models = {name: {**model.state_dict()} for name, model in made.items()}
    refuse_equal_magnitudes(models)
    values = {f"input-{name}": flat(model) for name, model in models.items()}
    with tempfile.TemporaryDirectory() as parent:
        folders = {name: f"{parent}/{name}" for name in made}
        for name, model in made.items():
            model.save_pretrained(folders[name])
        for name, merge in MERGES.items():
            values[name] = flat(merged(merge, folders))
    values |= {name: by_peft(name, models) for name in PEFT}
    shapes = {name: list(models["base"][name].shape) for name in KEPT}
    about = {"tensors": shapes, "mergekit": MERGES, "peft": PEFT}
    np.savez_compressed(TARGET, about=np.array(json.dumps(about)), **values)


if __name__ == "__main__":
    main()
