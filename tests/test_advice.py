"""Advice on valid configs, and that `plan` and `run` say it."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from arbitrage import cli, pipeline
from arbitrage.advice import APPLIED_FIRST, advice
from arbitrage.config import RunConfig
from arbitrage.configfile import load
from arbitrage.engines import ENGINES
from arbitrage.progress import Progress
from command_line import write_config, write_prompts

ROOT = Path(__file__).parents[1]
BOTH = {"temperature": 1.2, "min_p": 0.05, "top_p": 0.9}
LOCAL = {"engine": "transformers", "model": "org/local", "languages": "all"}
VLLM = {"engine": "vllm", "model": "org/vllm", "languages": "all"}
SERVED = {
    "engine": "endpoint",
    "model": "org/served",
    "languages": "all",
    "options": {"base_url": "http://127.0.0.1:1/v1", "server": "vllm"},
}
FAKE = {"engine": "fake", "languages": "all"}


def config_of(**teachers: dict[str, Any]) -> dict[str, Any]:
    return {"run": "run", "prompts": "p.jsonl", "teachers": teachers, "arbiter": {"engine": "fake"}}


def told(**teachers: dict[str, Any]) -> list[str]:
    return advice(RunConfig.model_validate(config_of(**teachers)))


def test_every_engine_that_samples_has_an_order() -> None:
    assert set(APPLIED_FIRST) == set(ENGINES) - {"fake", "rule"}


@pytest.mark.parametrize("other", [VLLM, SERVED], ids=["vllm", "endpoint"])
def test_min_p_with_top_p_in_two_orders_is_told(other: dict[str, Any]) -> None:
    teachers = {
        "a": {**LOCAL, "sampling": [{"temperature": 0}, BOTH]},
        "b": {**LOCAL, "model": "org/b", "sampling": BOTH},
        "c": {**other, "sampling": BOTH},
        "d": {**LOCAL, "model": "org/d", "sampling": {"min_p": 0.1}},
    }
    (sentence,) = told(**teachers)
    assert "top_p first by teachers 'a', 'b' and min_p first by teacher 'c', " in sentence
    assert "drop one of the two" in sentence
    assert "'d'" not in sentence


@pytest.mark.parametrize(
    "teachers",
    [
        {"a": {**LOCAL, "sampling": BOTH}, "b": {**LOCAL, "model": "org/b", "sampling": BOTH}},
        {"a": {**VLLM, "sampling": BOTH}, "b": {**SERVED, "sampling": BOTH}},
        {"a": {**LOCAL, "sampling": BOTH}, "b": {**FAKE, "sampling": BOTH}},
        {"a": {**LOCAL, "sampling": BOTH}, "b": {**VLLM, "sampling": {"min_p": 0.1, "top_k": 9}}},
        {"a": {**LOCAL, "sampling": BOTH}, "b": {**VLLM, "sampling": {"top_p": 0.9, "top_k": 9}}},
        {
            "a": {**LOCAL, "sampling": BOTH},
            "b": {**VLLM, "sampling": [{"min_p": 0.1}, {"top_p": 0.9}]},
        },
        {"a": {**LOCAL, "sampling": BOTH}, "b": {**VLLM, "sampling": {**BOTH, "temperature": 0}}},
        {"a": FAKE},
    ],
    ids=[
        *("one engine", "one order", "the fake engine", "min_p with top_k", "top_p with top_k"),
        *("in two groups", "greedy", "nothing"),
    ],
)
def test_what_means_the_same_everywhere_is_not_told(teachers: dict[str, Any]) -> None:
    assert told(**teachers) == []


def kinship(arbiter: str, *models: str, **fields: Any) -> list[str]:
    """What is told of an Arbiter and teachers with these models."""
    told = config_of(**{f"t{n}": {**LOCAL, "model": model} for n, model in enumerate(models)})
    told["arbiter"] = {"engine": "transformers", "model": arbiter, **fields}
    return advice(RunConfig.model_validate(told))


def local(place: Path, model_type: str | None = None, origin: str | None = None) -> str:
    """A folder with a model's config.json."""
    place.mkdir(parents=True)
    told = {"model_type": model_type, "_name_or_path": origin}
    told = {key: value for key, value in told.items() if value}
    (place / "config.json").write_text(json.dumps(told), encoding="utf-8")
    return str(place)


def test_an_arbiter_of_a_teachers_family_is_told() -> None:
    models = ("meta-llama/Llama-3.1-8B-Instruct", "org/qwen2.5-7b", "lab/vicuna-13b")
    (sentence,) = kinship("lab/Reward-Llama-3.1-8B", *models)
    assert "Arbiter 'arbiter' and teachers 't0', 't2' seem to be of one model family, llama;" in (
        sentence
    )
    assert "self-preference" in sentence
    assert "'t1'" not in sentence


@pytest.mark.parametrize(
    ("family", "one", "other"),
    [
        ("qwen", "Qwen/Qwen3-8B", "lab/Reward-V2-Qwen3-8B"),
        ("gemma", "google/gemma-2-9b-it", "lab/codegemma-rm"),
        ("mistral", "mistralai/Mixtral-8x7B-Instruct-v0.1", "lab/RM-Mistral-7B"),
        ("cohere", "CohereLabs/aya-expanse-8b", "CohereLabs/c4ai-command-r-v01"),
        ("phi", "microsoft/Phi-3.5-mini-instruct", "lab/phi-4-reward"),
        ("deepseek", "deepseek-ai/DeepSeek-V3", "lab/DeepSeek-R1-Distill-Qwen-7B"),
        ("yi", "01-ai/Yi-34B-Chat", "lab/rm-yi-6b"),
        ("gpt", "gpt-4o-mini", "openai/gpt-oss-20b"),
        ("gpt", "o3-mini", "gpt-5"),
        ("claude", "claude-3-5-haiku", "anthropic/claude-sonnet"),
        ("gemini", "google/gemini-2.0-flash", "gemini-pro"),
        ("olmo", "allenai/OLMo-2-7B", "lab/olmo2-rm"),
        ("falcon", "tiiuae/falcon-7b", "lab/Falcon3-rm"),
        ("llama", "lab/TinyLlama-1.1B", "lab/CodeLlama-rm"),
    ],
)
def test_families_are_known_by_name(family: str, one: str, other: str) -> None:
    for arbiter, teacher in ((one, other), (other, one)):
        (sentence,) = kinship(arbiter, teacher)
        assert f"one model family, {family};" in sentence


@pytest.mark.parametrize(
    ("arbiter", "teacher"),
    [
        ("lab/dolphin-7b", "microsoft/phi-4"),
        ("google/gemini-pro", "google/gemma-2-9b"),
        ("meta-llama/guard", "meta-llama/other"),
        ("lab/himalaya-7b", "CohereLabs/aya-101"),
        ("lab/commander-7b", "lab/command-r"),
        ("EleutherAI/gpt-neox-20b", "gpt-4o"),
        ("lab/mayi-2b", "01-ai/Yi-6B"),
        ("lab/rm", "lab/rm-two"),
    ],
)
def test_names_that_only_look_alike_are_no_family(arbiter: str, teacher: str) -> None:
    assert kinship(arbiter, teacher) == []


def test_a_folder_tells_its_family_by_its_name_or_what_it_was_made_from(tmp_path: Path) -> None:
    made = local(tmp_path / "a/rm", "llama", "meta-llama/Llama-3-8B")
    named = local(tmp_path / "a/my-llama", "llama")
    plain = local(tmp_path / "a/generalist", "llama")
    second = local(tmp_path / "llama/tuned", "llama")
    assert len(kinship(made, named)) == len(kinship(named, plain)) == len(kinship(plain, made)) == 1
    assert len(kinship(plain, "meta-llama/Llama-3-8B")) == 1
    assert kinship(plain, second) == [], "an architecture alone is no family"
    assert kinship(plain, "Qwen/Qwen3-8B") == []
    yi = local(tmp_path / "a/Yi-6B", "llama")
    assert kinship(yi, made) == [], "a name says more than an architecture"


def test_a_folder_without_a_readable_config_tells_nothing(tmp_path: Path) -> None:
    for name, text in (("a", "{"), ("b", "[1]"), ("c", "\udcff")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    (tmp_path / "d").mkdir()
    for name in "abcd":
        assert kinship(str(tmp_path / name), "meta-llama/Llama-3-8B") == []


def test_servers_and_several_arbiters_are_looked_at_too() -> None:
    served = {**SERVED, "model": "alias"}
    served["options"] = {**SERVED["options"], "served_name": "Qwen/Qwen3-32B"}
    told = config_of(a=served, b={**FAKE, "model": "qwen"})
    del told["arbiter"]
    told["arbiters"] = {
        "first": {"engine": "transformers", "model": "lab/qwen-rm"},
        "second": {"engine": "transformers", "model": "lab/gemma-rm"},
        "rule": {"engine": "rule", "options": {"function": "arbitrage.rules:json_valid"}},
    }
    (sentence,) = advice(RunConfig.model_validate(told))
    assert sentence.startswith("Arbiter 'first' and teacher 'a' seem to be")


@pytest.mark.parametrize("name", ["quickstart", "fake", "diverse", "mgsm"])
def test_the_examples_need_no_advice(name: str) -> None:
    assert advice(load(ROOT / f"configs/{name}.yaml").config) == []


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """A config that mixes the orders, and its prompts."""
    write_prompts(tmp_path / "p.jsonl", 3)
    teachers = {"a": {**LOCAL, "sampling": BOTH}, "b": {**SERVED, "sampling": BOTH}}
    return write_config(tmp_path, config_of(**teachers))


def test_plan_says_it(
    mixed: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def plan(*options: str) -> str:
        monkeypatch.setattr(sys, "argv", ["arbitrage", "plan", str(mixed), *options])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert not ended.value.code
        return capsys.readouterr().out

    assert plan().count("warning: min_p and top_p are combined in two orders") == 1
    (sentence,) = json.loads(plan("--json"))["warnings"]
    assert "two orders" in sentence
    assert "warning" not in plan("--set", "teachers.b.sampling.top_p=1")


def test_run_says_it_and_goes_on(mixed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to the cluster, which a run that is stopped at once does not use."""
    monkeypatch.setattr(pipeline, "Cluster", contextlib.nullcontext)
    stop = threading.Event()
    stop.set()
    for quiet, times in ((False, 1), (True, 0)):
        console = Console(file=io.StringIO(), width=80)
        summary = pipeline.run(
            load(mixed), Progress(quiet=quiet, console=console), stop, strict=False
        )
        assert summary.stopped
        said = console.file.getvalue()  # type: ignore[attr-defined]
        assert said.count("warning: min_p and top_p are combined in two orders") == times
        assert said.count("\n") == times, "one line"
