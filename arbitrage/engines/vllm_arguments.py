"""What vLLM is told, as plain data: engine arguments, environment and sampling parameters.

Needs no vLLM, so that every mapping can be read and tested without one. vLLM's own order of
sampling is repetition_penalty, temperature, min_p, then top_k and top_p: where min_p and top_p are
combined it keeps fewer tokens than the transformers engine does, which applies min_p last.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from arbitrage.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from arbitrage.config import Sampling, Served
    from arbitrage.options import VllmOptions

LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
GPU_SHARE = 0.9
CPU_KV_CACHE_GB = 2.0

ENVIRONMENT = {
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
    # Bound threads of two engines would share one core; Ray says how many threads there are.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
"""Set before vLLM is imported, where the user has not set them."""


def own_process(options: VllmOptions, *, on_cpu: bool) -> bool:
    """Whether the engine lives in the replica's own process."""
    if options.engine_process == "auto":
        return on_cpu and options.devices == 1
    return options.engine_process == "own"


def of_engine(config: Served, *, scores: bool, on_cpu: bool, dtype: str) -> dict[str, Any]:
    """Arguments for vLLM's EngineArgs; `dtype` is the checkpoint's own. Raises EngineError."""
    options = cast("VllmOptions", config.options)
    wanted = ("float32" if scores else dtype) if options.dtype == "auto" else options.dtype
    found: dict[str, Any] = {
        "model": config.model,
        "revision": config.revision,
        "tokenizer_revision": config.revision,
        "trust_remote_code": config.trust_remote_code,
        "dtype": wanted,
        "quantization": options.quantization,
        "max_model_len": options.max_model_len,
        "runner": "pooling" if scores else "generate",
        "generation_config": "vllm",
        "load_format": "safetensors",
        "seed": 0,
        "max_num_seqs": config.resources.batch_size,
        "tensor_parallel_size": options.tensor_parallel_size,
        "pipeline_parallel_size": options.pipeline_parallel_size,
        # Left to itself, vLLM takes Ray's placement group for its own where there is one.
        "distributed_executor_backend": "mp" if options.devices > 1 else "uni",
        "enable_prefix_caching": False if scores else None,
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    found |= _lora(options.lora) | _memory(options, config.resources.gpus, on_cpu=on_cpu)
    if on_cpu and not scores:
        # Where a prompt may be taken in parts, a request's own seed ends the engine.
        found["enable_chunked_prefill"] = False
    if options.enable_prefix_caching is not None:
        found["enable_prefix_caching"] = options.enable_prefix_caching
    set_ones = {name: value for name, value in found.items() if value is not None}
    return set_ones | options.engine_args


def _memory(options: VllmOptions, gpus: float, *, on_cpu: bool) -> dict[str, Any]:
    gigabytes = options.kv_cache_gb
    if gigabytes is None and on_cpu and options.gpu_memory_utilization is None:
        gigabytes = CPU_KV_CACHE_GB
    if gigabytes is not None:
        return {"kv_cache_memory_bytes": int(gigabytes * 2**30)}
    if options.gpu_memory_utilization is not None:
        return {"gpu_memory_utilization": options.gpu_memory_utilization}
    return {"gpu_memory_utilization": round(GPU_SHARE * gpus, 3)} if 0 < gpus < 1 else {}


def _lora(folder: str | None) -> dict[str, Any]:
    """vLLM sets memory aside for the rank that the adapter has."""
    if folder is None:
        return {}
    try:
        text = (Path(folder) / "adapter_config.json").read_text(encoding="utf-8")
        rank = int(json.loads(text)["r"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{folder} holds no LoRA adapter ({error}); check `options.lora`") from (
            error
        )
    fitting = [size for size in LORA_RANKS if size >= rank]
    if not fitting:
        raise EngineError(f"the LoRA adapter {folder} has rank {rank}; vLLM takes {LORA_RANKS[-1]}")
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": fitting[0]}


def refuse_unknown(arguments: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raises EngineError that names the nearest argument that this vLLM has."""
    names = list(known)
    for name in arguments:
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"did you mean {near[0]!r}?" if near else "see vLLM's engine arguments"
            raise EngineError(f"options.engine_args: this vLLM has no {name!r}; {hint}")


def of_sampling(sampling: Sampling, seed: int, ends: Iterable[int]) -> dict[str, Any]:
    """Arguments for vLLM's SamplingParams: one completion, drawn with its own seed."""
    found: dict[str, Any] = {
        "n": 1,
        "temperature": sampling.temperature,
        "repetition_penalty": sampling.repetition_penalty,
        "max_tokens": sampling.max_tokens,
        "stop": list(sampling.stop),
        "stop_token_ids": sorted(ends),
        # Text is made from the tokens at the end, unless a stop string has to be seen in it.
        "detokenize": bool(sampling.stop),
    }
    if sampling.temperature > 0:
        found |= {
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,
            "min_p": sampling.min_p,
            "seed": seed,
        }
    return found
