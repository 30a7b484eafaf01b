"""Where the config.json files of models differ, and which differences matter.

Pure over configs that are read already. A difference is a key, dotted where it is nested, with what
each model says. What newer libraries write otherwise (`rope_parameters`) is read as the older form.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Set
from typing import Any

from arbitrage.merging.checkpoint import Checkpoint
from arbitrage.merging.likeness import QUANTIZED, TIES
from arbitrage.merging.reasons import Finding, Reason, by_value, joined

NOTHING = "nothing"
"""What a model says of a key that it lacks; null is the same."""

INCIDENTAL = frozenset(
    {
        *("_name_or_path", "_commit_hash", "_attn_implementation", "_attn_implementation_autoset"),
        *("_diffusers_version", "transformers_version", "unsloth_version", "unsloth_fixed"),
        *("dtype", "torch_dtype", "use_cache", "use_return_dict", "gradient_checkpointing"),
    }
)
"""Keys that say nothing of the weights."""

ELSEWHERE = frozenset({"vocab_size", TIES})
"""Keys that have a check of their own."""

ENDS = (
    "bos",
    "eos",
    "pad",
    "sep",
    "cls",
    "unk",
    "mask",
    "decoder_start",
    "forced_bos",
    "forced_eos",
)
GENERATION = frozenset(f"{end}_token_id" for end in ENDS) | {
    "suppress_tokens",
    "begin_suppress_tokens",
}
"""Keys that generation reads."""

TRAINING = frozenset({"initializer_range", "initializer_factor", "resid_pdrop", "embd_pdrop"})
TRAINING_ENDS = ("dropout", "_pdrop", "_dropout_prob")
"""Keys that count in training only."""

TOKENIZER_KEY = "tokenizer"
"""What `accept` may name that is no key of a config."""


def differences(
    checkpoints: Mapping[str, Checkpoint], accept: Iterable[str], carrier: str
) -> Iterator[Finding]:
    """Keys of which not all models say the same, a reason each; those without a config."""
    accepted = tuple(accept)
    told = {name: flat(one.config) for name, one in checkpoints.items() if one.config}
    lacking = [name for name in checkpoints if name not in told]
    if lacking and told:
        yield Reason(
            "config",
            joined(lacking),
            "there is no config.json; fetch it, as it says what the model is",
        )
    elif lacking:
        yield "no model has a config.json; nothing is known but names and shapes of tensors"
    generation, training = [], []
    for key, values in _differing(told).items():
        last = key.rpartition(".")[2]
        if last in GENERATION:
            generation.append(key)
        elif last in TRAINING or last.endswith(TRAINING_ENDS):
            training.append(key)
        elif _is_accepted(key, accepted):
            yield f"{key} is {by_value(values.items())}, as accepted; that of {carrier} counts"
        else:
            yield Reason(
                "config",
                key,
                f"is {by_value(values.items())}; merge models that agree, or set "
                f"`accept: [{key}]` if it changes nothing",
            )
    if generation:
        yield f"not the same in all: {joined(generation)}; that of {carrier} counts"
    if training:
        yield f"not the same in all, and for training only: {joined(training)}"
    yield from _unknown(checkpoints, accepted)


def flat(config: Mapping[str, Any]) -> dict[str, str]:
    """A config as dotted keys with values in JSON; no nulls, nothing looked at elsewhere."""
    found: dict[str, str] = {}
    left: list[tuple[str, Any]] = [("", _plain_rope(config))]
    while left:
        key, value = left.pop()
        last = key.rpartition(".")[2]
        if last in INCIDENTAL or last in ELSEWHERE or last in QUANTIZED or value is None:
            continue
        if isinstance(value, Mapping) and (value or not key):
            nested = _plain_rope(value)
            left += [(f"{key}.{one}" if key else str(one), nested[one]) for one in nested]
        else:
            found[key] = _json(value)
    return found


def _plain_rope(config: Mapping[str, Any]) -> dict[str, Any]:
    """`rope_parameters` as `rope_theta` and `rope_scaling`, the older form; `type` by its name."""
    found = dict(config)
    told = found.get("rope_parameters")
    if isinstance(told, dict) and all(not isinstance(value, dict) for value in told.values()):
        del found["rope_parameters"]
        rest = dict(told)
        if "rope_theta" in rest:
            found["rope_theta"] = rest.pop("rope_theta")
        if "partial_rotary_factor" in rest:
            found["partial_rotary_factor"] = rest.pop("partial_rotary_factor")
        found["rope_scaling"] = rest
    scaling = found.get("rope_scaling")
    if isinstance(scaling, dict):
        named = {"rope_type": scaling.get("type"), **scaling}
        named.pop("type", None)
        usual = named.get("rope_type") in (None, "default") and len(named) <= 1
        found["rope_scaling"] = None if usual else named
    return found


def _json(value: Any) -> str:
    """A value as it is compared and shown; 1.0 is 1."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    try:
        return json.dumps(value, ensure_ascii=False, sort_keys=True)
    except RecursionError:
        return "nested too deeply to be compared"


def _differing(told: Mapping[str, Mapping[str, str]]) -> dict[str, dict[str, str]]:
    """Keys with what each model says, where not all say the same."""
    had = {
        name: {part for key in config for part in _ancestors(key)} for name, config in told.items()
    }
    keys = {_whole(key, had, told) for config in told.values() for key in config}
    found = {key: {name: _said(told[name], key) for name in told} for key in sorted(keys)}
    return {key: values for key, values in found.items() if len(set(values.values())) > 1}


def _ancestors(key: str) -> list[str]:
    """The blocks that a key is in, the outermost first, and the key."""
    parts = key.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts) + 1)]


def _whole(key: str, had: Mapping[str, Set[str]], told: Mapping[str, Mapping[str, str]]) -> str:
    """The outermost block of a key that some model lacks as a whole, or has as a plain value; else
    the key."""
    for part in _ancestors(key):
        if any(part not in had[name] or part in told[name] for name in told):
            return part
    return key


def _said(config: Mapping[str, str], key: str) -> str:
    """What a config says of a key or of a whole block."""
    if key in config:
        return config[key]
    inside = {one: value for one, value in config.items() if one.startswith(f"{key}.")}
    told = ", ".join(f"{one[len(key) + 1 :]}: {value}" for one, value in sorted(inside.items()))
    return f"{{{told}}}" if inside else NOTHING


def _is_accepted(key: str, accepted: Iterable[str]) -> bool:
    return any(key == one or key.startswith(f"{one}.") for one in accepted)


def _unknown(checkpoints: Mapping[str, Checkpoint], accepted: Iterable[str]) -> Iterator[Finding]:
    """Keys to accept that no config has."""
    known = {TOKENIZER_KEY}
    for checkpoint in checkpoints.values():
        known |= set(_all_keys(checkpoint.config)) | set(_all_keys(_plain_rope(checkpoint.config)))
    for key in accepted:
        if key.rpartition(".")[2] in ELSEWHERE:
            yield Reason(
                "accept", key, "this cannot be accepted; it has a check of its own; drop it"
            )
        elif key not in known:
            near = difflib.get_close_matches(key, sorted(known - ELSEWHERE), n=1)
            hint = f"did you mean {near[0]!r}?" if near else "drop it"
            yield Reason("accept", key, f"no model's config.json has this key; {hint}")


def _all_keys(config: Mapping[str, Any]) -> Iterator[str]:
    """Dotted keys, those of whole blocks too."""
    left: list[tuple[str, Any]] = [("", config)]
    while left:
        key, value = left.pop()
        if key:
            yield key
        if isinstance(value, Mapping):
            left += [(f"{key}.{one}" if key else str(one), item) for one, item in value.items()]
