"""The command line without Ray: init, plan, status, show, refusals, and harmless text."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from arbitrage import __version__, cli, tables
from arbitrage.configfile import load
from arbitrage.store import Store
from arbitrage.views import Shown

PROMPT = {"prompt": "Was ist das?", "language": "de"}
CONFIG: dict[str, Any] = {
    "run": "out",
    "prompts": {"sources": [{"path": "p.jsonl"}], "contradiction": "ignore"},
    "teachers": {"a": {"engine": "fake", "languages": ["de"]}},
    "arbiter": {"engine": "fake"},
}


class Told:
    """What a command said, and its exit code."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def arbitrage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Any:
    """The command as a user calls it, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def call(*words: str | Path) -> Told:
        monkeypatch.setattr(sys, "argv", ["arbitrage", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        said = capsys.readouterr()
        return Told(int(ended.value.code or 0), said.out, said.err)

    return call


def process(*words: str | Path, cwd: Path) -> Told:
    command = [sys.executable, "-m", "arbitrage.cli", *map(str, words)]
    root = str(Path(__file__).parents[1])
    found = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, check=False, env={"PYTHONPATH": root}
    )
    return Told(found.returncode, found.stdout, found.stderr)


def files(folder: Path) -> dict[str, bytes]:
    found = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def make(folder: Path, *rows: dict[str, Any], **changes: Any) -> Path:
    lines = [json.dumps(row) for row in rows or [PROMPT]]
    (folder / "p.jsonl").write_text("\n".join(lines) + "\n")
    path = folder / "c.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **changes}))
    return path


def check_sentence(told: Told, code: int = 2) -> str:
    assert told.code == code
    assert told.out == ""
    assert told.err.startswith("arbitrage: ")
    assert told.err.count("\n") == 1, "one sentence"
    assert told.err.endswith("\n")
    assert "Traceback" not in told.err
    return told.err


def shown(text: Any, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(text)
    output: str = console.file.getvalue()  # type: ignore[attr-defined]
    return output


# --- init, version, help --------------------------------------------------------------------------


def test_init_writes_a_config_that_plan_accepts(arbitrage: Any, tmp_path: Path) -> None:
    told = arbitrage("init")
    assert told.code == 0
    assert sorted(files(tmp_path)) == ["arbitrage.yaml", "prompts.jsonl"]
    assert "arbitrage run arbitrage.yaml" in told.out
    before = files(tmp_path)
    told = arbitrage("plan", "arbitrage.yaml")
    assert (told.code, told.err) == (0, "")
    assert "prompts.jsonl" in told.out.replace("\n", "")
    assert files(tmp_path) == before, "plan writes nothing"
    assert len(load(tmp_path / "arbitrage.yaml").config.teachers) == 2


def test_init_refuses_to_overwrite(arbitrage: Any, tmp_path: Path) -> None:
    (tmp_path / "arbitrage.yaml").write_text("mine")
    message = check_sentence(arbitrage("init"))
    assert "arbitrage.yaml is there already" in message
    assert files(tmp_path) == {"arbitrage.yaml": b"mine"}
    (tmp_path / "prompts.jsonl").write_text("mine too")
    told = arbitrage("init", "other.yaml")
    assert told.code == 0
    assert "prompts.jsonl" not in told.out
    assert (tmp_path / "prompts.jsonl").read_text() == "mine too"


def test_init_in_a_folder_that_is_not_there_is_refused(arbitrage: Any, tmp_path: Path) -> None:
    assert "nowhere/a.yaml cannot be written" in check_sentence(arbitrage("init", "nowhere/a.yaml"))
    assert files(tmp_path) == {}


def test_the_version_is_told(arbitrage: Any) -> None:
    told = arbitrage("--version")
    assert (told.code, told.out, told.err) == (0, f"{__version__}\n", "")


def test_help_names_every_command_and_exit_code(tmp_path: Path) -> None:
    told = process("--help", cwd=tmp_path)
    assert told.code == 0
    text = " ".join(told.out.replace("\u2502", " ").split())
    for words in ("0 complete", "1 something", "2 wrong usage", "3 complete", "75 stopped"):
        assert words in text
    for command in ("init", "run", "plan", "status", "show"):
        assert f" {command} " in text


@pytest.mark.parametrize(
    "words", [["fly"], ["plan"], ["plan", "a", "b"], ["plan", "--wrong", "a"], ["show", "a"]]
)
def test_a_wrong_command_line_exits_with_2(
    arbitrage: Any, tmp_path: Path, words: list[str]
) -> None:
    told = arbitrage(*words)
    assert told.code == 2
    assert told.out == ""
    assert told.err
    assert "Traceback" not in told.err
    assert files(tmp_path) == {}


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize(
    ("changes", "rows", "words"),
    [
        ({"sed": 1}, [], ["unknown key 'sed'", "'seed'"]),
        ({"seed": -1}, [], ["seed", "-1"]),
        ({"prompts": "nowhere.jsonl"}, [], ["no prompt file matches", "nowhere.jsonl"]),
        ({}, [{"prompt": "x", "language": "fr"}], ["no teacher covers fr", "p.jsonl"]),
        ({"prompts": "c.yaml"}, [], ["c.yaml", "format"]),
        ({"teachers": {"a": {"engine": "fake"}}}, [], ["teachers.a", "covers no language"]),
        ({"teachers": {"a": {"engine": "fake", "families": ["nordik"]}}}, [], ["nordik"]),
        (
            {"arbiter": {"engine": "fake", "model": "./nowhere"}},
            [],
            ["no model folder", "nowhere"],
        ),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_mistake_is_one_sentence_and_writes_nothing(
    arbitrage: Any, tmp_path: Path, command: str, changes: Any, rows: Any, words: list[str]
) -> None:
    config = make(tmp_path, *rows, **changes)
    before = files(tmp_path)
    message = check_sentence(arbitrage(command, config))
    assert all(word in message for word in words), message
    assert files(tmp_path) == before


@pytest.mark.parametrize("command", ["plan", "run"])
def test_a_missing_config_is_one_sentence(arbitrage: Any, tmp_path: Path, command: str) -> None:
    message = check_sentence(arbitrage(command, "nowhere.yaml"))
    assert "nowhere.yaml" in message
    assert "arbitrage init" in message
    assert files(tmp_path) == {}


def test_a_wrong_override_is_one_sentence(arbitrage: Any, tmp_path: Path) -> None:
    config = make(tmp_path)
    message = check_sentence(arbitrage("plan", config, "--set", "sed=1"))
    assert "'seed'" in message
    assert "--set" in check_sentence(arbitrage("plan", config, "--set", "seed"))


def test_strict_refuses_the_first_bad_row_and_writes_nothing(
    arbitrage: Any, tmp_path: Path
) -> None:
    config = make(tmp_path, PROMPT, {"prompt": None})
    before = files(tmp_path)
    message = check_sentence(arbitrage("run", config, "--strict"))
    assert "line 2: null_prompt" in message
    assert files(tmp_path) == before


def test_an_empty_set_is_one_sentence(arbitrage: Any, tmp_path: Path) -> None:
    config = make(tmp_path)
    (tmp_path / "p.jsonl").write_text("")
    assert "empty" in check_sentence(arbitrage("plan", config))
    assert not (tmp_path / "out").exists()


def test_a_run_that_another_driver_holds_is_refused(arbitrage: Any, tmp_path: Path) -> None:
    config = make(tmp_path)
    with Store(tmp_path / "out").lock():
        message = check_sentence(arbitrage("run", config))
    assert "is in use by process" in message
    assert sorted(files(tmp_path / "out")) == ["lease.json", "lock"]


def test_the_real_process_ends_the_same_way(tmp_path: Path) -> None:
    config = make(tmp_path, sed=1)
    told = process("run", config, cwd=tmp_path)
    assert "unknown key 'sed'" in check_sentence(told)
    assert sorted(files(tmp_path)) == ["c.yaml", "p.jsonl"]


# --- plan -----------------------------------------------------------------------------------------


def test_plan_of_an_unread_set_names_the_source_and_writes_nothing(
    arbitrage: Any, tmp_path: Path
) -> None:
    config = make(tmp_path)
    told = arbitrage("plan", config)
    assert (told.code, told.err) == (0, "")
    assert "1 new prompt" in told.out
    assert "p.jsonl" in told.out
    assert "nothing to do" not in told.out
    assert not (tmp_path / "out").exists()


def test_plan_as_json_is_json(arbitrage: Any, tmp_path: Path) -> None:
    told = arbitrage("plan", make(tmp_path), "--json", "--set", "run=other")
    found = json.loads(told.out)
    assert found["run"] == str(tmp_path / "other")
    assert found["unread"] == ["p.jsonl"]
    assert (found["prompts"], found["new_prompts"], found["nothing_to_do"]) == (0, 1, False)
    names = ("stage", "name", "tasks", "prompts", "stored")
    assert [[role[name] for name in names] for role in found["roles"]] == [
        ["route", "router", 1, 1, 0],
        ["generate", "a", 1, 1, 0],
        ["gate", "gates", 1, 1, 0],
        ["score", "arbiter", 1, 1, 0],
        ["select", "best", 1, 1, 0],
    ]
    assert not (tmp_path / "other").exists()


def test_plan_needs_no_ray(tmp_path: Path) -> None:
    code = (
        "import sys; from arbitrage import cli; sys.argv = ['arbitrage', 'plan', 'c.yaml']\n"
        "try: cli.main()\nexcept SystemExit: pass\n"
        "print(sorted({'ray', 'torch', 'transformers', 'datasets'} & set(sys.modules)))"
    )
    make(tmp_path)
    env = {"PYTHONPATH": str(Path(__file__).parents[1])}
    told = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.splitlines()[-1] == "[]"


# --- status and show ------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [["status"], ["show"]])
def test_a_folder_that_is_no_run_is_refused(
    arbitrage: Any, tmp_path: Path, words: list[str]
) -> None:
    config = make(tmp_path)
    (tmp_path / "empty").mkdir()
    rest = ["0000"] if words == ["show"] else []
    for place in ("nowhere", "empty", config):
        message = check_sentence(arbitrage(*words, place, *rest))
        assert "is no run directory" in message
        assert "arbitrage run" in message
    assert sorted(files(tmp_path)) == ["c.yaml", "p.jsonl"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        "[]",
        "null",
        '{"config": {}}',
        '{"config": 3, "fingerprints": {}}',
        '{"config": CONFIG}',
        "{",
    ],
)
def test_a_run_of_another_version_is_one_sentence(
    arbitrage: Any, tmp_path: Path, text: str
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    config = load(make(tmp_path)).config.model_dump_json()
    (out / "run.json").write_text(text.replace("CONFIG", config))
    message = check_sentence(arbitrage("status", out), code=1)
    assert "run.json" in message


def test_status_of_a_run_that_has_just_begun(arbitrage: Any, tmp_path: Path) -> None:
    config = make(tmp_path)
    told = {"config": load(config).config.model_dump(mode="json"), "fingerprints": {}}
    out = tmp_path / "out"
    out.mkdir()
    (out / "run.json").write_text(json.dumps(told))
    for place in (out, config):
        found = arbitrage("status", place)
        assert (found.code, found.err) == (0, "")
        assert "not running" in found.out
        assert "0 prompts in 0 shards" in found.out
    with Store(out).lock():
        held = json.loads(arbitrage("status", out, "--json").out)
    assert held["running"] is True
    assert held["holder"].startswith("process ")
    assert held["last_event"] is None
    message = check_sentence(arbitrage("show", out, "00ff"))
    assert "no prompt of this run" in message
    assert "'00ff'" in message


# --- text of models -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "\x1b[31mred\x1b[0m",
        "\x1b]0;title\x07",
        "\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\",
        "\x9b31m",
        "over\rwritten",
        "back\x08space",
        "null\x00",
        "right\u202eto left",
        "\u2066isolate",
        "zero\u200bwidth",
        "\ufeffmark",
        "\u2028line",
        "lone \ud800 surrogate",
        "private \ue000",
    ],
    ids=ascii,
)
def test_control_characters_are_shown_and_not_obeyed(text: str) -> None:
    plain = tables.harmless(text).plain
    assert all(c.isprintable() or c in "\n\t" for c in plain)
    bad = [c for c in text if not (c.isprintable() or c in "\n\t")]
    assert all(f"\\x{ord(c):02x}" in plain for c in bad)
    output = shown(tables.harmless(text), width=200)
    assert not set(bad) & set(output)
    assert output.encode("utf-8")


@pytest.mark.parametrize(
    "text",
    [
        "Gr\u00fc\u00dfe, \u4f60\u597d, \u0645\u0631\u062d\u0628\u0627, \U0001f600",
        "\u6771\u4eac\u3000\u5927\u962a",
        "10\u00a0000 \u20ac, \u00ab\u202foui\u202f\u00bb",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        "\u0915\u094d\u200d\u0937, \U0001f468\u200d\U0001f469\u200d\U0001f467",
        "tab\tand\nline",
    ],
    ids=ascii,
)
def test_text_of_any_language_is_shown_as_it_is(text: str) -> None:
    assert tables.harmless(text).plain == text


@given(st.text(st.characters(exclude_categories=[]), max_size=30))
def test_no_text_breaks_the_display(text: str) -> None:
    output = shown(tables.harmless(text), width=400)
    assert output.encode("utf-8") is not None
    assert "\x1b" not in output


@pytest.mark.parametrize(
    "text", ["[bold]x[/bold]", "[/]", "[red", "[link=http://x]y[/link]", ":smile:"]
)
def test_markup_is_text(text: str) -> None:
    assert text in shown(tables.harmless(text))


def candidate(**changes: Any) -> dict[str, Any]:
    told = {
        "teacher": "a",
        "sample": 0,
        "score": 0.5,
        "gates": [],
        "error": None,
        "finish_reason": "stop",
        "completion_tokens": 3,
        "completion": "fine",
        "reasoning": None,
    }
    told |= changes
    return {"scores": {"arbiter": told["score"]}, **told}


def prompt_of(**changes: Any) -> Shown:
    prompt = {
        "prompt_id": "00ff",
        "user_id": None,
        "language": "de",
        "language_source": "declared",
        "messages": [{"role": "user", "content": "Was?"}],
    }
    told: dict[str, Any] = {
        "prompt": prompt,
        "candidates": [candidate()],
        "selected": None,
        "quarantined": None,
    }
    return Shown(**(told | changes))


def test_a_prompt_is_shown_with_every_candidate_and_the_chosen_one_marked() -> None:
    rows = [
        candidate(teacher="b", score=0.75, completion="winner"),
        candidate(sample=1, gates=["truncated", "empty"], finish_reason="length"),
        candidate(sample=2, score=None, completion=None, error="too long", finish_reason="error"),
    ]
    output = shown(tables.of_prompt(prompt_of(candidates=rows, selected=rows[0])), width=100)
    assert "user: Was?" in output
    assert "* b #0  0.7500  stop  3 tokens\n    winner" in output
    assert "  a #1  0.5000  length  3 tokens  fails truncated, empty" in output
    assert "  a #2  no score  error  3 tokens  too long" in output
    assert output.count("* ") == 1


def test_reasoning_is_shown_shortened_and_cannot_pass_for_the_answer() -> None:
    long = "hm\nfine\n* b #1  " + "x" * 1000
    rows = [
        candidate(reasoning="is it?\n\nfine", completion="It is.\nYes."),
        candidate(sample=1, reasoning=long, completion="", gates=["empty"]),
    ]
    text = tables.of_prompt(prompt_of(candidates=rows))
    lines = shown(text, width=2000).splitlines()
    at = lines.index("| reasoning: is it?")
    assert lines[at + 1 : at + 5] == ["| ", "| fine", "    It is.", "    Yes."]
    assert "".join(lines).count("x") == tables.SHOWN_REASONING - len(long.rstrip("x"))
    assert lines[-1].endswith(f"x ... and {len(long) - tables.SHOWN_REASONING:,} more characters")
    assert "| * b #1" in next(line for line in lines if "b #1" in line)
    dim = [part.plain for part in text.renderables if str(getattr(part, "style", "")) == "dim"]
    assert len(dim) == 2
    assert all(line.startswith("| ") for part in dim for line in part.split("\n"))


@pytest.mark.parametrize(
    "place", ["user_id", "content", "completion", "reasoning", "error", "quarantined"]
)
def test_hostile_text_is_harmless_wherever_it_is_shown(place: str) -> None:
    evil = "\x1b[2J\x07[red]x[/red] \u202e"
    found = prompt_of(quarantined=evil if place == "quarantined" else None)
    if place == "user_id":
        found.prompt["user_id"] = evil
    elif place == "content":
        found.prompt["messages"] = [{"role": "system", "content": evil}]
    elif place != "quarantined":
        found.candidates = [candidate(**{place: evil})]
    output = shown(tables.of_prompt(found), width=200)
    assert not {"\x1b", "\x07", "\u202e"} & set(output)
    assert "\\x1b[2J\\x07[red]x[/red] \\x202e" in output


def test_hostile_text_in_an_error_is_harmless(arbitrage: Any, tmp_path: Path) -> None:
    config = make(tmp_path)
    message = check_sentence(arbitrage("plan", config, "--set", 'prompts="a\\e[2J[b]x[/b].jsonl"'))
    assert "a\\x1b[2J[b]x[/b].jsonl" in message
    message = check_sentence(arbitrage("plan", "[red]x[/red].yaml"))
    assert "[red]x[/red].yaml" in message
