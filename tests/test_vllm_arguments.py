"""The options of the vllm engine and what they become, without vLLM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from arbitrage.config import RunConfig, Sampling, TeacherConfig
from arbitrage.engines import vllm_arguments as arguments
from arbitrage.errors import ConfigError, EngineError
from arbitrage.options import VllmOptions
from arbitrage.resolve import resolve


def teacher(**fields: Any) -> TeacherConfig:
    told = {"engine": "vllm", "model": "org/model", "languages": "all", **fields}
    return TeacherConfig.model_validate(told)


def engine(config: TeacherConfig, *, scores: bool = False, on_cpu: bool = True) -> dict[str, Any]:
    return arguments.of_engine(config, scores=scores, on_cpu=on_cpu, dtype="bfloat16")


def test_every_sampling_parameter_has_its_place() -> None:
    wild = Sampling(
        n=3,
        temperature=0.7,
        top_p=0.9,
        top_k=40,
        min_p=0.05,
        repetition_penalty=1.2,
        max_tokens=9,
        stop=("x",),
    )
    assert arguments.of_sampling(wild, 77, {5, 2}) == {
        "n": 1,
        "temperature": 0.7,
        "top_p": 0.9,
        "top_k": 40,
        "min_p": 0.05,
        "repetition_penalty": 1.2,
        "max_tokens": 9,
        "stop": ["x"],
        "stop_token_ids": [2, 5],
        "detokenize": True,
        "seed": 77,
    }
    mapped = {"n", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "max_tokens"}
    assert set(Sampling.model_fields) == mapped | {"stop", "seed"}


def test_every_token_kept_is_minus_one_and_greedy_needs_no_seed() -> None:
    assert arguments.of_sampling(Sampling(), 1, ())["top_k"] == -1
    greedy = arguments.of_sampling(Sampling(temperature=0, top_k=5, min_p=0.5), 1, {2})
    assert greedy == {
        "n": 1,
        "temperature": 0,
        "repetition_penalty": 1,
        "max_tokens": 512,
        "stop": [],
        "stop_token_ids": [2],
        "detokenize": False,
    }


def test_a_temperature_that_vllm_would_raise_is_refused() -> None:
    teacher(sampling=[{"temperature": 0}, {"temperature": 0.01}])
    with pytest.raises(ValueError, match=r"0\.005.*at least 0\.01"):
        teacher(sampling=[{}, {"temperature": 0.005}])


def test_engine_arguments_of_a_teacher_on_the_cpu() -> None:
    assert engine(teacher(revision="abc", resources={"batch_size": 64})) == {
        "model": "org/model",
        "revision": "abc",
        "tokenizer_revision": "abc",
        "trust_remote_code": False,
        "dtype": "bfloat16",
        "runner": "generate",
        "generation_config": "vllm",
        "load_format": "safetensors",
        "seed": 0,
        "max_num_seqs": 64,
        "tensor_parallel_size": 1,
        "pipeline_parallel_size": 1,
        "distributed_executor_backend": "uni",
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
        "kv_cache_memory_bytes": 2 * 2**30,
        "enable_chunked_prefill": False,
    }


def test_engine_arguments_on_gpus() -> None:
    options = {
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 2,
        "quantization": "awq",
        "max_model_len": 4096,
        "enable_prefix_caching": False,
        "gpu_memory_utilization": 0.5,
        "engine_args": {"kv_cache_dtype": "fp8", "max_num_batched_tokens": 8192},
    }
    found = engine(teacher(options=options, resources={"gpus": 4}), on_cpu=False)
    assert found["distributed_executor_backend"] == "mp"
    assert "enable_chunked_prefill" not in found
    assert "kv_cache_memory_bytes" not in found
    for name in ("quantization", "max_model_len", "enable_prefix_caching"):
        assert found[name] == options[name]
    assert found["gpu_memory_utilization"] == 0.5
    assert (found["kv_cache_dtype"], found["max_num_batched_tokens"]) == ("fp8", 8192)


def test_a_part_of_a_gpu_is_a_part_of_its_memory() -> None:
    half = engine(teacher(resources={"gpus": 0.5}), on_cpu=False)
    assert half["gpu_memory_utilization"] == 0.45
    assert "gpu_memory_utilization" not in engine(teacher(resources={"gpus": 1}), on_cpu=False)


def test_the_arbiter_is_float32_unless_told_otherwise() -> None:
    found = engine(teacher(), scores=True)
    assert (found["runner"], found["dtype"]) == ("pooling", "float32")
    assert found["enable_prefix_caching"] is False
    assert "enable_chunked_prefill" not in found
    assert engine(teacher(options={"dtype": "bfloat16"}), scores=True)["dtype"] == "bfloat16"


@pytest.mark.parametrize(
    ("process", "devices", "on_cpu", "own"),
    [
        ("auto", 1, True, True),
        ("auto", 2, True, False),
        ("auto", 1, False, False),
        ("own", 1, False, True),
        ("separate", 1, True, False),
    ],
)
def test_where_the_engine_lives(process: Any, devices: int, on_cpu: bool, own: bool) -> None:
    options = VllmOptions(engine_process=process, tensor_parallel_size=devices)
    assert arguments.own_process(options, on_cpu=on_cpu) is own


def test_unknown_engine_arguments_are_refused_with_the_nearest_name() -> None:
    known = ["enforce_eager", "kv_cache_dtype"]
    arguments.refuse_unknown({"enforce_eager": True}, known)
    with pytest.raises(EngineError, match="no 'enforce_eagre'; did you mean 'enforce_eager'"):
        arguments.refuse_unknown({"enforce_eagre": True}, known)


@pytest.mark.parametrize(
    ("engine_args", "message"),
    [
        ({"dtype": "float32"}, "options.dtype"),
        ({"model": "other"}, "use `model:`"),
        ({"max_num_seqs": 3}, "resources.batch_size"),
        ({"hf_token": "hf_secret"}, "environment variable HF_TOKEN"),
        ({"load_format": "pt"}, "no pickle"),
        ({"hf_overrides": {1: 2}}, "plain data"),
        ({"generation_config": "auto"}, "the engine sets it"),
    ],
)
def test_engine_arguments_that_have_another_place(engine_args: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message) as caught:
        teacher(options={"engine_args": engine_args})
    assert message in str(caught.value)


def test_gpus_are_as_many_as_the_parts_of_the_model() -> None:
    for gpus, devices in ((0, 2), (2, 2), (0.5, 1), (1, 1)):
        teacher(options={"tensor_parallel_size": devices}, resources={"gpus": gpus})
    for gpus, devices in ((1, 2), (2, 1), (4, 2), (0.5, 2)):
        with pytest.raises(ValueError, match="make them equal"):
            teacher(options={"tensor_parallel_size": devices}, resources={"gpus": gpus})


def test_what_changes_answers_is_identity_and_what_changes_speed_is_not() -> None:
    plain = teacher().identity()
    speed = {
        "tensor_parallel_size": 2,
        "enable_prefix_caching": True,
        "gpu_memory_utilization": 0.3,
        "kv_cache_gb": 3,
        "engine_process": "separate",
        "engine_args": {"enforce_eager": True, "max_num_batched_tokens": 1024},
    }
    fast = teacher(options=speed, resources={"gpus": 2, "python": "/else/bin/python"})
    assert fast.identity() == plain
    for option in (
        {"dtype": "float32"},
        {"quantization": "fp8"},
        {"max_model_len": 128},
        {"engine_args": {"kv_cache_dtype": "fp8"}},
    ):
        assert teacher(options=option).identity() != plain


def test_both_environments_of_the_tests_have_the_same_ray() -> None:
    root = Path(__file__).parents[1]
    texts = [(root / name).read_text() for name in ("constraints.txt", "constraints-vllm.txt")]
    pins = [{line for line in text.splitlines() if line.startswith("ray==")} for text in texts]
    assert pins[0] == pins[1] != set()


# ---- LoRA


def adapter(folder: Path, rank: int, weights: bytes = b"w") -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"r": rank}))
    (folder / "adapter_model.safetensors").write_bytes(weights)
    return folder


def fingerprint(lora: Path | None) -> str:
    options = {} if lora is None else {"lora": str(lora)}
    config = {
        "run": "r",
        "prompts": "p",
        "teachers": {
            "t": {"engine": "vllm", "model": "org/m", "languages": "all", "options": options}
        },
        "arbiter": {"engine": "fake"},
    }
    return resolve(RunConfig.model_validate(config)).teachers[0].fingerprint


def test_an_adapter_is_named_by_its_content(tmp_path: Path) -> None:
    first, moved = adapter(tmp_path / "a", 8), adapter(tmp_path / "b", 8)
    assert fingerprint(first) == fingerprint(moved) != fingerprint(None)
    assert fingerprint(adapter(tmp_path / "c", 8, b"other")) != fingerprint(first)
    with pytest.raises(ConfigError, match="LoRA"):
        fingerprint(tmp_path / "nowhere")


def test_room_is_made_for_the_rank_of_the_adapter(tmp_path: Path) -> None:
    for rank, room in ((1, 1), (8, 8), (9, 16), (300, 320)):
        folder = adapter(tmp_path / str(rank), rank)
        found = engine(teacher(options={"lora": str(folder)}))
        assert (found["enable_lora"], found["max_lora_rank"]) == (True, room)
    with pytest.raises(EngineError, match="rank 600"):
        engine(teacher(options={"lora": str(adapter(tmp_path / "big", 600))}))
    with pytest.raises(EngineError, match="no LoRA adapter"):
        engine(teacher(options={"lora": str(tmp_path)}))
