"""`arbitrage winrate` as users run it: in processes of its own, killed, stopped, called again."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from command_line import cli, digests, start, write_config
from contest_harness import model, questions
from harness import write_prompts

pytestmark = pytest.mark.cluster

KILLS = 6
PATIENCE_S = 60.0


def config_for(name: str, **more: Any) -> dict[str, Any]:
    return {
        "evaluation": name,
        "questions": {"sources": [{"path": "questions.jsonl"}], "shard_size": 60},
        "models": {
            "good": model("g", {"de": 0.9, "default": 0.6}),
            "bad": model("b", 0.3),
            "file": {"answers": "file.jsonl"},
        },
        "baseline": "bad",
        "judges": {
            "judge": {
                "engine": "fake",
                "options": {"judge_position": 0.1, "judge_noise": 0.3, "judge_silent": 0.05},
            }
        },
        "arbiters": {"rm": {"engine": "fake"}},
        "analysis": {"resamples": 100},
        **more,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("winrate")
    write_prompts(place / "questions.jsonl", questions(100))
    rows = [
        {"id": row["question_id"], "language": row["language"], "answer": f"x ({n % 10 / 10:.4f})"}
        for n, row in enumerate(questions(100))
    ]
    write_prompts(place / "file.jsonl", rows)
    return place


def test_a_whole_evaluation_its_table_its_page_and_its_json(folder: Path) -> None:
    config = write_config(folder, config_for("whole"), "whole.yaml")
    looked = cli("winrate", config, "--dry-run")
    assert looked.returncode == 0, looked.stderr
    assert "300 questions (300 not read yet), 3 models, 2 pairs" in looked.stdout
    assert "1,200" in looked.stdout, "two games, two pairs, 300 prompts"
    assert not (folder / "whole/prompts").exists()
    made = cli("winrate", config, "--html", folder / "page.html")
    assert made.returncode == 0, made.stderr
    assert made.stdout.startswith("good wins ")
    assert "--retry-failed" in made.stdout
    told = json.loads((folder / "whole/winrate.json").read_text(encoding="utf-8"))
    assert told["baseline"] == "bad"
    assert "<html" in (folder / "page.html").read_text(encoding="utf-8")
    before = digests(folder / "whole")
    again = cli("winrate", config, "--json")
    assert json.loads(again.stdout) == told
    assert digests(folder / "whole") == before
    retried = cli("winrate", config, "--retry-failed", "--json")
    assert retried.returncode == 0, retried.stderr
    assert cli("winrate", config, "--dry-run").stdout.endswith("nothing is left to be asked\n")
    run = cli("inspect", folder / "whole")
    assert run.returncode == 2
    assert "holds win rates and is no run directory" in run.stderr


def test_killed_again_and_again_it_ends_with_the_same_files(folder: Path) -> None:
    slow = config_for("undisturbed")
    slow["judges"]["judge"]["options"]["delay_s"] = 0.2
    slow["models"]["good"]["options"]["delay_s"] = 0.2
    undisturbed = write_config(folder, slow, "undisturbed.yaml")
    assert cli("winrate", undisturbed, "-q").returncode == 0
    config = write_config(folder, {**slow, "evaluation": "killed"}, "killed.yaml")
    draw = random.Random(8)
    place = folder / "killed"
    for _ in range(KILLS):
        process = start("winrate", config, "-q")
        wanted = len(list(place.rglob("*.parquet"))) + draw.randint(1, 4)
        deadline = time.monotonic() + PATIENCE_S
        while len(list(place.rglob("*.parquet"))) < wanted and process.poll() is None:
            assert time.monotonic() < deadline, "nothing was made in a minute"
            time.sleep(0.01)
        process.kill()
        process.communicate()
    last = cli("winrate", config, "-q")
    assert last.returncode == 0, last.stderr
    assert digests(place) == digests(folder / "undisturbed")
    results = [
        json.loads((p / "winrate.json").read_text()) for p in (place, folder / "undisturbed")
    ]
    assert results[0] == results[1]
    assert list(place.rglob(".tmp-*")) == []
    assert list(place.rglob(".journal-*")) == []


def test_told_to_stop_it_keeps_what_is_judged_and_says_so(folder: Path) -> None:
    slow = config_for("stopped")
    slow["judges"]["judge"]["options"]["delay_s"] = 0.5
    config = write_config(folder, slow, "stopped.yaml")
    process = start("winrate", config)
    deadline = time.monotonic() + PATIENCE_S
    while not list((folder / "stopped").rglob("judgements/*/*/.journal-*")):
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.terminate()
    _, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 75, err
    assert "the same command goes on" in err
    assert cli("winrate", config, "-q").returncode == 0


def test_a_budget_ends_it_where_the_money_does(folder: Path) -> None:
    config = write_config(folder, config_for("poor", budget={"requests": 500}), "poor.yaml")
    made = cli("winrate", config, "-q")
    assert made.returncode == 75
    assert "the budget does not pay for the next shard" in made.stderr


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"evaluation": None}, "evaluation: "),
        ({"models": {"a": model("a"), "b": {"answers": "nowhere.jsonl"}}}, "cannot be read"),
        ({"judges": {"j": {"engine": "fake", "template": "no.jinja"}}}, "template cannot be read"),
        ({"questions": "nowhere.jsonl"}, "nowhere.jsonl"),
        ({"baselin": "bad"}, "did you mean 'baseline'"),
    ],
)
def test_a_mistake_is_one_sentence_and_nothing_is_written(
    folder: Path, change: dict[str, Any], sentence: str
) -> None:
    wrong = {**config_for("wrong"), "baseline": None} if "models" in change else config_for("wrong")
    made = cli("winrate", write_config(folder, {**wrong, **change}, "wrong.yaml"))
    assert made.returncode == 2
    assert sentence in made.stderr
    assert "Traceback" not in made.stderr
    assert not (folder / "wrong").exists()


def test_configs_of_the_two_commands_are_told_apart(folder: Path) -> None:
    config = write_config(folder, config_for("two"), "two.yaml")
    assert "`arbitrage winrate " in cli("plan", config).stderr
    run = write_config(folder, {"run": "r", "prompts": "p.jsonl", "teachers": {}}, "run.yaml")
    assert "`arbitrage run " in cli("winrate", run).stderr
