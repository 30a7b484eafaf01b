"""Rules as Arbiters: functions by import path, their identity, their failures, those built in."""

from __future__ import annotations

import asyncio
import importlib
import json
import math
import re
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbitrage import rules
from arbitrage.arbiter import judge
from arbitrage.config import RunConfig
from arbitrage.engines import build_generator, build_scorer
from arbitrage.errors import ConfigError, EngineError, ItemError
from arbitrage.records import Prompt
from arbitrage.resolve import resolve
from arbitrage.sourcecode import located, source_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

PROMPT = Prompt("0" * 32, "de", [{"role": "user", "content": "Wie lang ist der Rhein?"}])
ROOT = Path(__file__).parents[1]
MODULE = """
import asyncio
import threading
from fractions import Fraction
from math import sqrt
from arbitrage.errors import ItemError

ACTIVE = []

def words(prompt, completion, weight=1.0):
    return weight * len(completion.split()) + (prompt.language == "de")

async def slow_words(prompt, completion, weight=1.0):
    await asyncio.sleep(0)
    return weight * len(completion.split())

class Scale:
    async def __call__(self, prompt, completion):
        return Fraction(len(completion), 4)

scale = Scale()

def strict(prompt, completion, error="value"):
    if "bad" in completion:
        raise {"value": ValueError, "item": ItemError, "key": KeyError}[error]("it is bad")
    return 1

def odd(prompt, completion):
    found = {"bool": True, "none": None, "text": "1", "nan": float("nan"), "big": 10 ** 400}
    return found[completion]

def alone(prompt, completion):
    ACTIVE.append(threading.current_thread().name)
    return len(ACTIVE)

NUMBER = 7
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module of a user, on the path."""
    path = tmp_path / "my_rules.py"
    path.write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    yield path
    for name in ("my_rules", "my_links", "my_broken"):
        sys.modules.pop(name, None)


def config_of(function: str, **fields: Any) -> RunConfig:
    options = {"function": function, **fields.pop("options", {})}
    return RunConfig.model_validate(
        {
            "run": "run",
            "prompts": "none",
            "teachers": {"a": {"engine": "fake", "languages": "all"}},
            "arbiter": {"engine": "rule", "options": options, **fields},
        }
    )


def arbiter_of(function: str, **arguments: Any) -> Any:
    return resolve(config_of(function, options={"arguments": arguments})).arbiter


def scores(function: str, *texts: str, **arguments: Any) -> list[Any]:
    """Scores of some completions, all asked for at once; exceptions in their place."""

    async def everyone(engine: Any) -> list[Any]:
        asked = (engine.score(PROMPT, text) for text in texts)
        return await asyncio.gather(*asked, return_exceptions=True)

    with closing(build_scorer(arbiter_of(function, **arguments))) as engine:
        return asyncio.run(asyncio.wait_for(everyone(engine), 30))


# ---- the engine


@pytest.mark.usefixtures("module")
def test_a_functions_number_is_the_score() -> None:
    assert scores("my_rules:words", "a b", "a", "") == [3, 2, 1]
    assert scores("my_rules:words", "a b", weight=0.5) == [2.0]
    assert scores("my_rules:slow_words", "a b", "a", weight=2) == [4.0, 2.0]
    assert scores("my_rules:scale", "abc") == [0.75]
    assert all(type(score) is float for score in scores("my_rules:words", "a", "b"))


@pytest.mark.usefixtures("module")
def test_a_plain_function_is_called_once_at_a_time_off_the_loop() -> None:
    assert sorted(scores("my_rules:alone", *"abcdefgh")) == list(range(1, 9))
    names = set(sys.modules["my_rules"].ACTIVE)
    assert len(names) == 1
    assert threading.current_thread().name not in names


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("error", ["value", "item"])
def test_a_candidate_that_cannot_be_judged_is_an_error_of_its_own(error: str) -> None:
    good, bad = scores("my_rules:strict", "good", "bad", error=error)
    assert good == 1.0
    assert isinstance(bad, ItemError)
    assert "it is bad" in str(bad)


@pytest.mark.usefixtures("module")
def test_any_other_exception_is_the_rules_own_fault() -> None:
    good, bad = scores("my_rules:strict", "good", "bad", error="key")
    assert good == 1.0
    assert isinstance(bad, EngineError)
    assert "my_rules:strict failed (KeyError: 'it is bad'); mend it" in str(bad)


@pytest.mark.usefixtures("module")
def test_what_is_no_number_is_no_score() -> None:
    found = scores("my_rules:odd", "bool", "none", "text")
    assert all(isinstance(one, ItemError) for one in found)
    assert [str(one).split("gave ")[1].split(",")[0] for one in found] == ["True", "None", "'1'"]
    engine = build_scorer(arbiter_of("my_rules:odd"))
    for text in ("nan", "big"):
        verdict = asyncio.run(judge(engine, PROMPT, text))
        assert verdict.score is None
        assert "no score" in str(verdict.error)
    engine.close()


@pytest.mark.usefixtures("module")
def test_provenance_and_a_teacher() -> None:
    with closing(build_scorer(arbiter_of("my_rules:words"))) as engine:
        assert engine.provenance()["function"] == "my_rules:words"
    teacher = resolve(config_of("my_rules:words")).teachers[0]
    rule = teacher.config.model_copy(update={"engine": "rule"})
    object.__setattr__(teacher, "config", rule)
    with pytest.raises(EngineError, match="cannot give any"):
        build_generator(teacher)


# ---- identity


def test_the_path_the_arguments_and_the_source_are_the_identity(module: Path) -> None:
    first = arbiter_of("my_rules:words")
    assert first.identity["options"].keys() == {"function", "source"}
    others = [
        arbiter_of("my_rules:slow_words"),
        arbiter_of("my_rules:words", weight=2),
        arbiter_of("my_rules:words", weight=3),
    ]
    assert arbiter_of("my_rules:words").fingerprint == first.fingerprint
    module.write_text(f"{MODULE}# changed\n")
    others.append(arbiter_of("my_rules:words"))
    assert len({first.fingerprint, *(other.fingerprint for other in others)}) == 5


def test_where_the_module_lies_does_not_matter(
    module: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = source_digest("my_rules:words")
    (tmp_path / "elsewhere").mkdir()
    module.rename(tmp_path / "elsewhere/my_rules.py")
    sys.modules.pop("my_rules")
    monkeypatch.syspath_prepend(str(tmp_path / "elsewhere"))
    importlib.invalidate_caches()
    assert source_digest("my_rules:words") == before


def test_a_name_that_leads_elsewhere_counts_both_sources(module: Path, tmp_path: Path) -> None:
    (tmp_path / "my_links.py").write_text("from my_rules import words\n")
    linked = source_digest("my_links:words")
    assert linked != source_digest("my_rules:words")
    module.write_text(f"{MODULE}# changed\n")
    assert source_digest("my_links:words") != linked


def test_a_replica_with_another_source_is_refused(module: Path) -> None:
    arbiter = arbiter_of("my_rules:words")
    module.write_text(f"{MODULE}# changed\n")
    with pytest.raises(EngineError, match="another source here"):
        build_scorer(arbiter)
    module.unlink()
    sys.modules.pop("my_rules")
    importlib.invalidate_caches()
    with pytest.raises(EngineError, match=r"no module 'my_rules'.*where the replica runs"):
        build_scorer(arbiter)


def test_what_is_stored_can_be_read_where_the_module_is_not() -> None:
    parts = resolve(config_of("not_there:rule"), {"scores/arbiter": "0123456789ab"})
    assert parts.arbiter.fingerprint == "0123456789ab"


# ---- refusals


@pytest.mark.parametrize(
    ("function", "sentence"),
    [
        ("not_there:rule", "arbiter: .*no module 'not_there'; install it or .* PYTHONPATH"),
        ("my_rules.deeper:rule", "no module 'my_rules.deeper'"),
        ("my_rules:nothing", "module 'my_rules' has no function 'nothing'"),
        ("my_rules:NUMBER", "has no function 'NUMBER'"),
        ("my_broken:rule", "its module fails: ZeroDivisionError: division by zero"),
        ("my_rules:ACTIVE", "has no function"),
        ("math:atan2", "module 'math' has no Python source"),
        ("builtins:max", "module 'builtins' has no Python source"),
    ],
)
def test_a_function_that_is_not_there_is_told_before_anything_starts(
    module: Path, function: str, sentence: str
) -> None:
    (module.parent / "my_broken.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match=sentence) as refusal:
        resolve(config_of(function))
    assert "\n" not in str(refusal.value)


@pytest.mark.usefixtures("module")
def test_arguments_that_the_function_does_not_take_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"does not suit `arguments:`.*'wieght'"):
        arbiter_of("my_rules:words", wieght=1)
    with pytest.raises(ConfigError, match=r"does not suit .*'target'"):
        arbiter_of("arbitrage.rules:length")


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"options": {"function": "words"}}, "should look like package.module:name"),
        ({"options": {"function": "../x.py:f"}}, "should look like package.module:name"),
        ({"model": "m"}, "'model' means nothing to engine 'rule'"),
        ({"chat_template": "x"}, "'chat_template' means nothing"),
        ({"options": {"arguments": {"x": math.inf}}}, "arguments"),
        ({"options": {"arguments": [1]}}, "arguments"),
    ],
)
def test_what_means_nothing_is_refused(fields: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        config_of("arbitrage.rules:json_valid", **fields)


def test_a_teacher_cannot_be_a_rule() -> None:
    teacher = {"engine": "rule", "languages": "all", "options": {"function": "a:b"}}
    told = {"run": "r", "prompts": "p", "teachers": {"a": teacher}, "arbiter": {"engine": "fake"}}
    with pytest.raises(ValueError, match="only the Arbiter can be one"):
        RunConfig.model_validate(told)


def test_the_configs_folder_is_not_searched(tmp_path: Path) -> None:
    """Only PYTHONPATH and what is installed: the same command means the same from anywhere."""
    (tmp_path / "my_rules.py").write_text(MODULE)
    (tmp_path / "p.jsonl").write_text('{"prompt": "hello", "language": "en"}\n')
    config = config_of("my_rules:words").model_dump(mode="json", include={"teachers", "arbiter"})
    del config["teachers"]["a"]["sampling"]
    config |= {"run": "run", "prompts": "p.jsonl"}
    (tmp_path / "c.yaml").write_text(json.dumps(config))
    code = "import sys; from arbitrage.cli import main; sys.argv[0] = 'arbitrage'; main()"
    command = [sys.executable, "-P", "-c", code, "plan", "c.yaml"]
    for path, status in ((str(ROOT), 2), (f"{ROOT}:{tmp_path}", 0)):
        environment = {"PYTHONPATH": path, "PATH": "/usr/bin:/bin", "HOME": str(tmp_path)}
        done = subprocess.run(
            command, cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert done.returncode == status, done.stderr
        assert ("no module 'my_rules'" in re.sub(r"\s+", " ", done.stderr)) == (status == 2)


# ---- the rules that are here


@given(st.text(max_size=50), st.integers(1, 100))
def test_length_is_best_at_the_target(text: str, target: int) -> None:
    score = rules.length(PROMPT, text, target)
    assert score <= 0
    assert (score == 0) == (len(text) == target)
    assert round(score * target) == -abs(len(text) - target)


def test_length_in_words_and_what_it_refuses() -> None:
    assert rules.length(PROMPT, "a bc d", 3, unit="words") == 0
    assert rules.length(PROMPT, "", 4, unit="words") == -1
    assert rules.length(PROMPT, "a " * 12, 4, unit="words") == -2
    assert isinstance(scores("arbitrage.rules:length", "a", target=0)[0], EngineError)
    assert isinstance(scores("arbitrage.rules:length", "a", target=1, unit="x")[0], EngineError)


def test_matches() -> None:
    assert rules.matches(PROMPT, "The answer is 42.", r"\b\d+\b") == 1
    assert rules.matches(PROMPT, "The answer is 42.", r"\d+", whole=True) == 0
    assert rules.matches(PROMPT, " 42\n", r"\d+", whole=True) == 1
    assert rules.matches(PROMPT, "none", r"\d") == 0
    assert isinstance(scores("arbitrage.rules:matches", "a", pattern="(")[0], EngineError)


def test_language_is_the_share_of_lines() -> None:
    german, english = "Der Rhein ist sehr lang und tief.", "The river is long and very deep."
    assert rules.language(PROMPT, german) == 1
    assert rules.language(PROMPT, f"{german}\n{english}\n\n1234\n{german}\n{english}") == 0.5
    assert rules.language(PROMPT, english) == 0
    (error,) = scores("arbitrage.rules:language", "12\n\n34")
    assert isinstance(error, ItemError)


@pytest.mark.parametrize("text", ['{"a": [1, null]}', " 1\n", '"x"', "[]"])
def test_json_is_valid(text: str) -> None:
    assert rules.json_valid(PROMPT, text) == 1


@pytest.mark.parametrize("text", ["", "{", "{'a': 1}", "NaN", "[1,]", "x 1", "[" * 100_000])
def test_json_is_not_valid(text: str) -> None:
    assert rules.json_valid(PROMPT, text) == 0


def test_every_rule_here_can_be_an_arbiter() -> None:
    arguments = {"length": {"target": 3}, "matches": {"pattern": "x"}}
    for name in ("length", "matches", "language", "json_valid"):
        assert located(f"arbitrage.rules:{name}")
        assert arbiter_of(f"arbitrage.rules:{name}", **arguments.get(name, {})).fingerprint
