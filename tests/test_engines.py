"""The table of engines, and the public fake."""

from __future__ import annotations

import asyncio
import importlib.metadata
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from arbitrage.components import Components
from arbitrage.config import RunConfig
from arbitrage.engines import ENGINES, build_generator, build_scorer, require
from arbitrage.errors import ItemError, UsageError
from arbitrage.options import OPTIONS
from arbitrage.records import Prompt
from arbitrage.resolve import resolve

PROMPT = Prompt("0" * 32, "de", [{"role": "user", "content": "eins zwei drei vier"}])


def pool(sampling: dict[str, Any] | None = None, **options: Any) -> Components:
    teacher = {"engine": "fake", "languages": "all", "options": options}
    if sampling:
        teacher["sampling"] = sampling
    config = {
        "run": "run",
        "prompts": "none",
        "teachers": {"a": teacher},
        "arbiter": {"engine": "fake"},
    }
    return resolve(RunConfig.model_validate(config))


def answers(components: Components, seeds: list[int], prompt: Prompt = PROMPT) -> list[str]:
    teacher = components.teachers[0]
    made = build_generator(teacher).generate(prompt, teacher.config.sampling[0], seeds)
    return [completion.text for completion in asyncio.run(made)]


def test_every_engine_has_options_and_a_module() -> None:
    assert set(ENGINES) == set(OPTIONS)
    assert all(importlib.util.find_spec(entry.module) for entry in ENGINES.values())


def test_a_missing_library_is_told_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    require("fake")
    require("transformers")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    require("fake")
    with pytest.raises(UsageError, match=r"torch and transformers; `pip install 'arbitrage\[hf\]'"):
        require("transformers")


def told(folder: Path, answer: str) -> str:
    """An interpreter that says what it was told, instead of running anything."""
    path = folder / "python"
    path.write_text(f"#!/bin/sh\necho '{answer}'\n")
    path.chmod(0o755)
    return str(path)


def test_another_environment_is_looked_at_before_anything_starts(tmp_path: Path) -> None:
    require("fake", sys.executable)
    ray, here = importlib.metadata.version("ray"), list(sys.version_info[:2])
    require("vllm", told(tmp_path, json.dumps([[], ray, here])))
    refused: list[tuple[Any, str]] = [
        ([["vllm", "pyarrow"], ray, here], r"pip install vllm pyarrow` brings"),
        ([["ray"], "", here], rf"pip install ray=={ray}` brings"),
        ([[], "0.1", here], rf"pip install ray=={ray}` brings"),
        ([[], ray, [2, 7]], r"is Python 2\.7; Ray needs the driver's"),
        ("nonsense", "is no Python that runs"),
    ]
    for answer, message in refused:
        with pytest.raises(UsageError, match=message):
            require("vllm", told(tmp_path, json.dumps(answer)))
    with pytest.raises(UsageError, match="is no Python that runs"):
        require("vllm", str(tmp_path / "nothing"))


def test_a_replica_needs_no_more_libraries_than_it_asks_for() -> None:
    """What the driver alone uses must not be imported where it may be absent."""
    absent = ["datasets", "pandas", "rich", "typer", "httpx", "py3langid", "torch", "transformers"]
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        "import arbitrage.cluster, arbitrage.engines.chat, arbitrage.engines.stepper\n"
        "import arbitrage.engines.vllm_arguments\n"
    )
    environment = {"PYTHONPATH": str(Path(__file__).parents[1]), "PATH": "/usr/bin:/bin"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True)
    assert done.returncode == 0, done.stderr.decode()


def test_the_fake_is_the_same_for_the_same_seed_and_greedy_ignores_it() -> None:
    sampled = pool({"n": 2, "temperature": 1.0})
    assert answers(sampled, [5, 6]) == answers(sampled, [5, 6])
    assert answers(sampled, [5, 6]) == answers(sampled, [6, 5])[::-1]
    assert len(set(answers(sampled, [5, 6]))) == 2
    greedy = pool({"temperature": 0})
    assert answers(greedy, [1]) == answers(greedy, [2])


def test_skill_is_what_the_fake_arbiter_sees() -> None:
    components = pool(skill={"de": 0.9, "default": 0.2})
    scorer = build_scorer(components.arbiter)

    def mean(language: str) -> float:
        prompts = [PROMPT._replace(id=f"{n:032x}", language=language) for n in range(300)]
        texts = [answers(components, [1], prompt)[0] for prompt in prompts]
        scores = [asyncio.run(scorer.score(PROMPT, text)) for text in texts]
        return sum(scores) / len(scores)

    assert mean("de") == pytest.approx(0.9, abs=0.02)
    assert mean("fr") == pytest.approx(0.2, abs=0.02)


@pytest.mark.parametrize("option", ["truncate", "empty", "fail"])
def test_shares_of_accidents_are_kept(option: str) -> None:
    components = pool({"temperature": 0}, **{option: 0.25})
    teacher = components.teachers[0]
    engine = build_generator(teacher)
    hits = 0
    for n in range(1200):
        prompt = PROMPT._replace(id=f"{n:032x}")
        try:
            (made,) = asyncio.run(engine.generate(prompt, teacher.config.sampling[0], [0]))
        except ItemError:
            hits += option == "fail"
        else:
            hits += made.finish_reason == "length" if option == "truncate" else made.text == ""
    assert hits / 1200 == pytest.approx(0.25, abs=0.05)


def test_a_crash_happens_once_where_it_leaves_a_mark(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    died: list[int] = []
    monkeypatch.setattr("os._exit", died.append)
    components = pool(crash_after=1, crash_once=str(tmp_path / "mark"))
    teacher = components.teachers[0]
    for _ in range(2):
        engine = build_generator(teacher)
        for seed in range(3):
            asyncio.run(engine.generate(PROMPT, teacher.config.sampling[0], [seed]))
    assert died == [13]
    assert (tmp_path / "mark").exists()
