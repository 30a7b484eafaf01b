"""The vllm engine on microscopic real models, against the transformers engine.

Runs where vLLM can be imported, and skips with a printed reason elsewhere: `make test-vllm` makes
such an environment. Shares and differences are printed (`-s`), not only judged. Whole runs are in
`test_vllm_run.py`, vLLM as a server in `test_vllm_server.py`.
"""

from __future__ import annotations

import asyncio
import gc
import importlib.util
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from arbitrage.config import RunConfig, Sampling
from arbitrage.engines import build_generator, build_scorer
from arbitrage.errors import EngineError, EngineLostError, ItemError
from arbitrage.records import Completion, Prompt
from arbitrage.resolve import resolve

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

HERE = importlib.util.find_spec("vllm") is not None
needs_vllm = pytest.mark.skipif(not HERE, reason="vLLM cannot be imported; `make test-vllm` can")
pytestmark = [needs_vllm, pytest.mark.engine("vllm")]

HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
"""vLLM's attention on CPUs wants heads of at least 32."""
GREEDY = Sampling(temperature=0, max_tokens=24)
WILD = Sampling(temperature=0.9, top_p=0.95, top_k=50, min_p=0.01, max_tokens=24)
LATIN = "river stone Haus Wasser montagne lumiere ciudad noche grazie number seven the old"
WORDS = LATIN.split()


def some_texts(count: int, seed: int = 0, longest: int = 40) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, longest))) for _ in range(count)]


def prompt_of(text: str) -> Prompt:
    return Prompt(text, "en", [{"role": "user", "content": text}])


@pytest.fixture(scope="module")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from micro_models import make_teacher

    return make_teacher(tmp_path_factory.mktemp("teacher"), some_texts(100), seed=1, **HEADS)


@pytest.fixture(scope="module")
def arbiter_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from micro_models import make_arbiter

    return make_arbiter(tmp_path_factory.mktemp("arbiter"), some_texts(100), seed=2, **HEADS)


def parts(teacher: dict[str, Any], arbiter: dict[str, Any]) -> Any:
    teachers = {"t": {"languages": ["en", "de"], **teacher}}
    return resolve(RunConfig(run="r", prompts="p.jsonl", teachers=teachers, arbiter=arbiter))


def served(folder: Path, engine: str, **fields: Any) -> dict[str, Any]:
    if engine == "vllm":
        options = {"kv_cache_gb": 0.25, **fields.get("options", {})}
        options["engine_args"] = {"enforce_eager": True, **options.get("engine_args", {})}
        fields = {**fields, "options": options}
    return {"engine": engine, "model": str(folder), **fields}


def teacher_of(folder: Path, engine: str = "vllm", **fields: Any) -> Any:
    told = served(folder, engine, **fields)
    return closing(build_generator(parts(told, {"engine": "fake"}).teachers[0]))


def arbiter_of(folder: Path, engine: str = "vllm", **fields: Any) -> Any:
    told = served(folder, engine, **fields)
    return closing(build_scorer(parts({"engine": "fake"}, told).arbiter))


@pytest.fixture(scope="module")
def teacher(teacher_folder: Path) -> Iterable[Any]:
    """Closing any other engine in this process ends it: whoever needs it comes first."""
    with teacher_of(teacher_folder) as engine:
        yield engine


@pytest.fixture(scope="module")
def plain(teacher_folder: Path) -> Iterable[Any]:
    with teacher_of(teacher_folder, "transformers") as engine:
        yield engine


def ask(engine: Any, texts: Sequence[str], sampling: Sampling) -> list[list[Completion]]:
    """Asks for all at once, each with its own seeds."""

    async def one(text: str) -> list[Completion]:
        seeds = [sum(text.encode()) * 1024 + number for number in range(sampling.n)]
        found: list[Completion] = await engine.generate(prompt_of(text), sampling, seeds)
        return found

    async def everyone() -> list[list[Completion]]:
        return await asyncio.gather(*map(one, texts))

    return asyncio.run(asyncio.wait_for(everyone(), 120))


def judge(engine: Any, pairs: Sequence[tuple[str, str]]) -> list[float]:
    async def everyone() -> list[float]:
        return await asyncio.gather(*(engine.score(prompt_of(a), b) for a, b in pairs))

    return asyncio.run(asyncio.wait_for(everyone(), 120))


def share(first: Sequence[Any], second: Sequence[Any], what: str) -> float:
    found = sum(a == b for a, b in zip(first, second, strict=True)) / len(first)
    print(f"{what}: {found:.4f} of {len(first)}")
    return found


# ---- generation


def test_greedy_answers_are_those_of_the_transformers_engine(teacher: Any, plain: Any) -> None:
    texts = list(dict.fromkeys(some_texts(200, seed=3)))
    assert share(ask(teacher, texts, GREEDY), ask(plain, texts, GREEDY), "greedy") >= 0.99
    assert teacher.provenance()["dtype"] == "float32"


def test_a_repetition_penalty_means_the_same(teacher: Any, plain: Any) -> None:
    texts = some_texts(60, seed=4)
    sampling = GREEDY.model_copy(update={"repetition_penalty": 1.3})
    found = ask(teacher, texts, sampling)
    assert share(found, ask(plain, texts, sampling), "repetition_penalty 1.3") >= 0.98
    assert share(found, ask(teacher, texts, GREEDY), "the same without") < 0.5


def test_stop_strings_cut_and_end_alike(teacher: Any, plain: Any) -> None:
    texts = some_texts(60, seed=5)
    sampling = GREEDY.model_copy(update={"stop": ("e", "ti")})
    found = ask(teacher, texts, sampling)
    assert share(found, ask(plain, texts, sampling), "stop strings") >= 0.98
    assert not any("e" in answers[0].text for answers in found)


def test_counts_and_reasons(teacher: Any) -> None:
    found = [answers[0] for answers in ask(teacher, some_texts(80, seed=6), GREEDY)]
    assert {answer.finish_reason for answer in found} == {"stop", "length"}
    for answer in found:
        full = answer.finish_reason == "length"
        assert (answer.completion_tokens == 24) >= full
        assert "<eos>" not in answer.text


def test_seeds_decide_and_neighbours_do_not(teacher: Any) -> None:
    texts = list(dict.fromkeys(some_texts(60, seed=7)))
    sampling = WILD.model_copy(update={"n": 4})
    first = ask(teacher, texts, sampling)
    assert len({answer.text for answers in first for answer in answers}) > 3 * len(texts)
    again = ask(teacher, texts[::-1], sampling)[::-1]
    assert share(first, again, "sampled, other order") >= 0.97
    alone = [ask(teacher, [text], sampling)[0] for text in texts[:20]]
    assert share(alone, first[:20], "sampled, alone against in company") >= 0.9


def test_the_models_own_generation_settings_are_ignored_but_for_its_ends(
    teacher: Any, teacher_folder: Path, tmp_path: Path
) -> None:
    texts = some_texts(20, seed=8)
    usual = ask(teacher, texts, GREEDY)
    folder = shutil.copytree(teacher_folder, tmp_path / "model")
    nasty = {"eos_token_id": 2, "repetition_penalty": 5.0, "temperature": 3.0, "top_k": 1}
    (folder / "generation_config.json").write_text(json.dumps(nasty))
    with teacher_of(folder) as engine:
        assert share(ask(engine, texts, GREEDY), usual, "nasty generation_config") >= 0.95
    text, answer = texts[0], usual[0][0]
    word = next(letter for letter in answer.text[2:] if letter.isascii())
    end = teacher._chat.tokenizer(word, add_special_tokens=False)["input_ids"][0]
    ends = {"eos_token_id": [2, end]}
    (folder / "generation_config.json").write_text(json.dumps(ends))
    with teacher_of(folder) as engine, teacher_of(folder, "transformers") as other:
        assert ask(engine, [text], GREEDY) == ask(other, [text], GREEDY)


def test_reasoning_is_parted_alike(tmp_path: Path) -> None:
    """Markers that are special tokens, with the prompt opening them or not, and stop strings."""
    from micro_models import make_teacher

    markers = {"start": "<think>", "end": "</think>"}
    folder = make_teacher(tmp_path / "m", some_texts(100), 7, [*markers.values()], **HEADS)
    with teacher_of(folder, "transformers") as engine:
        template = engine._tokenizer.chat_template
    texts = list(dict.fromkeys(some_texts(60, seed=13)))
    stopped = GREEDY.model_copy(update={"stop": ("e", "ti")})
    for more in ("", "{% if add_generation_prompt %}<think>\n{% endif %}"):
        fields = {"reasoning": markers, "chat_template": template + more}
        with teacher_of(folder, **fields) as engine:
            found = [ask(engine, texts, sampling) for sampling in (GREEDY, stopped)]
        with teacher_of(folder, "transformers", **fields) as engine:
            wanted = [ask(engine, texts, sampling) for sampling in (GREEDY, stopped)]
        for one, two, what in zip(found, wanted, ("reasoning", "and stop strings"), strict=True):
            assert share(one, two, f"{what}, opened {bool(more)}") >= 0.98
            both = [bool(made.reasoning and made.text) for (made,) in one]
            assert share(both, [True] * len(one), "with reasoning and an answer") > 0.1


def test_what_is_longer_than_the_window_is_an_item_error(teacher_folder: Path) -> None:
    with teacher_of(teacher_folder, options={"max_model_len": 64}) as engine:
        tokens = len(engine._chat.encode(prompt_of("z").messages, None, answer_next=True))
        full, longer = ("z" * (64 - 24 - tokens + 1 + more) for more in (0, 1))
        assert ask(engine, [full], GREEDY)[0][0].prompt_tokens == 40
        with pytest.raises(ItemError, match=r"41 prompt tokens .* window of 64"):
            ask(engine, [longer], GREEDY)
        assert ask(engine, [full], GREEDY)


def test_an_adapter_is_what_the_merged_model_is(teacher_folder: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    name, rank, alpha = "model.layers.0.self_attn.q_proj", 4, 8
    folder, merged = tmp_path / "adapter", shutil.copytree(teacher_folder, tmp_path / "merged")
    weights = load_file(merged / "model.safetensors")
    down, up = torch.randn(rank, 64), torch.randn(64, rank)
    weights[f"{name}.weight"] += alpha / rank * up @ down
    save_file(weights, merged / "model.safetensors", metadata={"format": "pt"})
    folder.mkdir()
    told = {"r": rank, "lora_alpha": alpha, "target_modules": ["q_proj"], "peft_type": "LORA"}
    (folder / "adapter_config.json").write_text(json.dumps(told))
    whole = f"base_model.model.{name}"
    adapter = {f"{whole}.lora_A.weight": down, f"{whole}.lora_B.weight": up}
    save_file(adapter, folder / "adapter_model.safetensors")
    texts = some_texts(40, seed=12)
    with teacher_of(merged, "transformers") as engine:
        wanted = ask(engine, texts, GREEDY)
    with teacher_of(teacher_folder, options={"lora": str(folder)}) as engine:
        found = ask(engine, texts, GREEDY)
    with teacher_of(teacher_folder, "transformers") as engine:
        without = ask(engine, texts, GREEDY)
    assert share(found, wanted, "adapter against merged") >= 0.95
    assert share(without, wanted, "the same without") < 0.5


# ---- scoring


def plain_scores(folder: Path, pairs: Sequence[tuple[str, str]], dtype: str) -> list[float]:
    with arbiter_of(folder, "transformers", options={"dtype": dtype}) as engine:
        return judge(engine, pairs)


@pytest.mark.parametrize("dtype", ["auto", "bfloat16"])
def test_scores_are_those_of_the_transformers_engine(arbiter_folder: Path, dtype: str) -> None:
    pairs = list(zip(some_texts(80, seed=9), some_texts(80, seed=10), strict=True))
    with arbiter_of(arbiter_folder, options={"dtype": dtype}) as engine:
        scores = judge(engine, pairs)
        assert judge(engine, pairs[::-1])[::-1] == pytest.approx(scores, abs=1e-4)
        assert engine.provenance()["dtype"] == ("float32" if dtype == "auto" else dtype)
    wanted = plain_scores(arbiter_folder, pairs, "float32")
    worst = max(abs(a - b) for a, b in zip(scores, wanted, strict=True))
    spread = max(wanted) - min(wanted)
    print(f"{dtype}: furthest from transformers in float32 {worst:.2e}, spread {spread:.2f}")
    assert worst < (1e-4 if dtype == "auto" else 0.1 * spread)
    assert len(set(scores)) > 70


KINDS = {
    **dict.fromkeys(("Mistral", "Qwen2", "Qwen3", "Gemma"), HEADS),
    "Gemma2": {**HEADS, "sliding_window": 512},
    **dict.fromkeys(("Bert", "XLMRoberta", "ModernBert"), HEADS),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_reward_model_scores_as_with_transformers(tmp_path: Path, kind: str) -> None:
    from micro_models import make_arbiter

    folder = make_arbiter(tmp_path / "model", some_texts(100), seed=2, kind=kind, **KINDS[kind])
    pairs = list(zip(some_texts(40, seed=9), some_texts(40, seed=10), strict=True))
    with arbiter_of(folder) as engine:
        scores = judge(engine, pairs)
    wanted = plain_scores(folder, pairs, "float32")
    worst = max(abs(a - b) for a, b in zip(scores, wanted, strict=True))
    print(f"{kind}: furthest {worst:.2e}, spread {max(wanted) - min(wanted):.2f}")
    assert worst < 1e-4
    assert max(wanted) - min(wanted) > 0.5
    assert len(set(scores)) > 35


def test_a_pair_longer_than_the_window_is_marked(arbiter_folder: Path) -> None:
    with arbiter_of(arbiter_folder, options={"max_model_len": 40}) as engine:
        assert math.isfinite(judge(engine, [("x", "z" * 35)])[0])
        with pytest.raises(ItemError, match=r"41 tokens .* window of 40"):
            judge(engine, [("x", "z" * 36)])


def test_a_score_that_is_no_number_is_an_item_error(arbiter_folder: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(arbiter_folder, tmp_path / "model")
    weights = load_file(folder / "model.safetensors")
    with arbiter_of(folder, "transformers") as engine:
        token = engine._tokenizer("~", add_special_tokens=False)["input_ids"][0]
    weights["model.embed_tokens.weight"][token] = torch.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with arbiter_of(folder) as engine:
        assert math.isfinite(judge(engine, [("x", "y")])[0])
        with pytest.raises(ItemError, match="no number"):
            judge(engine, [("x", "~")])
        assert math.isfinite(judge(engine, [("x", "y")])[0])


def test_models_that_are_no_arbiters(teacher_folder: Path, tmp_path: Path) -> None:
    from micro_models import make_arbiter

    folder = make_arbiter(tmp_path / "two", some_texts(50), seed=0, num_labels=2, **HEADS)
    with pytest.raises(EngineError, match="2 outputs"):
        arbiter_of(folder)
    with pytest.raises(EngineError, match=r"cannot be loaded|outputs"):
        arbiter_of(teacher_folder)


# ---- ends and accidents


def test_what_cannot_be_loaded_is_one_sentence(teacher_folder: Path) -> None:
    with pytest.raises(EngineError, match="did you mean 'enforce_eager'"):
        teacher_of(teacher_folder, options={"engine_args": {"enforce_eagr": True}})
    with pytest.raises(EngineError, match="cannot be loaded by vLLM"):
        teacher_of(teacher_folder, options={"quantization": "nonsense"})


def test_pickled_weights_are_refused(teacher_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(teacher_folder, tmp_path / "pickled")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(EngineError, match="safetensors"):
        teacher_of(folder)


def test_closing_gives_the_memory_back(teacher_folder: Path) -> None:
    import psutil

    process = psutil.Process()
    held = []
    for _ in range(3):
        with teacher_of(teacher_folder, options={"kv_cache_gb": 1}) as engine:
            ask(engine, some_texts(8), GREEDY)
            gc.freeze()  # as a replica does once its engine is loaded
            full = process.memory_info().rss
        held.append(process.memory_info().rss)
        print(f"{full / 2**20:.0f} MiB with the engine, {held[-1] / 2**20:.0f} MiB without")
    assert held[2] - held[0] < 300 * 2**20, "an engine stays behind each time"


def test_an_engine_in_its_own_process_and_its_death(plain: Any, teacher_folder: Path) -> None:
    import psutil

    texts = some_texts(20, seed=11)
    with teacher_of(teacher_folder, options={"engine_process": "separate"}) as engine:
        assert share(ask(engine, texts, GREEDY), ask(plain, texts, GREEDY), "separate") >= 0.95
        assert engine.provenance()["engine_process"] == "separate"
        children = psutil.Process().children(recursive=True)
        cores = [child for child in children if "Engine" in child.name() or "VLLM" in child.name()]
        assert cores, [child.name() for child in children]

        async def killed() -> list[object]:
            long = GREEDY.model_copy(update={"max_tokens": 900, "temperature": 1.0})
            requests = [engine.generate(prompt_of(text), long, [0]) for text in texts]
            waiting = [asyncio.create_task(request) for request in requests]
            await asyncio.sleep(0.2)
            os.kill(cores[0].pid, signal.SIGKILL)
            return await asyncio.gather(*waiting, return_exceptions=True)

        outcomes = asyncio.run(asyncio.wait_for(killed(), 60))
        assert EngineLostError in {type(outcome) for outcome in outcomes}, outcomes
        with pytest.raises(EngineLostError):
            ask(engine, texts[:1], GREEDY)
    assert not psutil.wait_procs(cores, timeout=30)[1]


ALONE = """
import sys, time
from pathlib import Path
from test_vllm import teacher_of
if __name__ == "__main__":
    with teacher_of(Path(sys.argv[1]), options={"engine_process": "separate"}):
        print("ready", flush=True)
        time.sleep(600)
"""


def test_no_process_outlives_a_replica_that_is_killed(teacher_folder: Path, tmp_path: Path) -> None:
    import psutil

    script = tmp_path / "alone.py"
    script.write_text(ALONE)
    path = f"{Path(__file__).parent}:{Path(__file__).parents[1]}"
    process = subprocess.Popen(
        [sys.executable, str(script), str(teacher_folder)],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert any("ready" in line for line in process.stdout)
    children = psutil.Process(process.pid).children(recursive=True)
    assert any("Engine" in child.name() for child in children)
    process.kill()
    process.wait()
    assert not psutil.wait_procs(children, timeout=30)[1]
