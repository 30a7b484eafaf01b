"""Advice on valid configs, and that `plan` and `run` say it."""

from __future__ import annotations

import contextlib
import io
import json
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from arbitrage import cli, pipeline
from arbitrage.advice import APPLIED_FIRST, advice
from arbitrage.config import RunConfig
from arbitrage.configfile import load
from arbitrage.engines import ENGINES
from arbitrage.progress import Progress
from command_line import write_config, write_prompts

if TYPE_CHECKING:
    from pathlib import Path

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
    assert set(APPLIED_FIRST) == set(ENGINES) - {"fake"}


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
