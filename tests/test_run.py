"""The whole job through the command line on a real (local) Ray cluster with fake engines."""

from __future__ import annotations

import copy
import json
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from command_line import cli, digests, done_tasks, start, write_config, write_prompts

pytestmark = [pytest.mark.cluster, pytest.mark.engine("fake")]

POOL: dict[str, Any] = {
    "run": "run",
    "seed": 3,
    "prompts": {"sources": [{"path": "prompts.jsonl"}], "shard_size": 50},
    "teachers": {
        "west": {
            "engine": "fake",
            "languages": ["de", "fr"],
            "options": {"skill": 0.6, "voice": "w", "truncate": 0.1},
            "sampling": [{"temperature": 0}, {"n": 2, "temperature": 0.9}],
        },
        "all": {
            "engine": "fake",
            "languages": "all",
            "options": {"skill": 0.5, "voice": "a", "fail": 0.05, "empty": 0.1},
        },
    },
    "arbiter": {"engine": "fake"},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of 240 prompts; tests copy nothing and must not change it."""
    folder = tmp_path_factory.mktemp("finished")
    write_prompts(folder / "prompts.jsonl", 240)
    result = cli("run", write_config(folder, POOL))
    assert result.returncode == 0, result.stderr
    return folder


def changed(finished: Path, tmp_path: Path, **changes: Any) -> Path:
    """A config for a copy of the finished run with some keys replaced; a copied project is no
    other project."""
    shutil.copytree(finished, tmp_path / "copy", symlinks=True)
    return write_config(tmp_path / "copy", {**copy.deepcopy(POOL), **changes})


def plan_of(config: Path) -> dict[str, Any]:
    result = cli("plan", config, "--json")
    assert result.returncode == 0, result.stderr
    plan: dict[str, Any] = json.loads(result.stdout)
    return plan


def tasks_to_do(config: Path) -> dict[str, int]:
    return {role["name"]: role["tasks"] for role in plan_of(config)["roles"] if role["tasks"]}


def new_tasks(config: Path) -> dict[tuple[str, str], int]:
    """Runs, and counts the tasks that this run did per stage and owner."""
    run = config.parent / "run"
    before = len(done_tasks(run))
    result = cli("run", config, "-q")
    assert result.returncode == 0, result.stderr
    counts: dict[tuple[str, str], int] = {}
    for task in done_tasks(run)[before:]:
        key = (task["stage"], task["owner"])
        counts[key] = counts.get(key, 0) + 1
    return counts


def test_every_prompt_is_there_once_with_the_best_candidate(finished: Path) -> None:
    rows = pd.read_parquet(finished / "run/selected/latest")
    lost = pd.concat(
        pd.read_parquet(path) for path in (finished / "run/quarantine/select").rglob("*.parquet")
    )
    assert rows.prompt_id.is_unique
    assert len(rows) + len(lost) == 240
    assert set(rows.user_id) | set(lost.raw.str.replace("q ", "u")) == {f"u{n}" for n in range(240)}
    for row in rows.itertuples():
        usable = [c for c in row.candidates if c["reward"] is not None and not len(c["gates"])]
        assert row.reward == max(c["reward"] for c in usable)
        assert row.messages[-1] == {"role": "assistant", "content": row.completion}
        assert len(row.candidates) == (1 if row.language == "en" else 4)
        assert json.loads(row.extra) == {"topic": int(row.user_id[1:]) % 7}


def test_the_manifest_counts_rows_and_checksums(finished: Path) -> None:
    folder = finished / "run/selected/latest"
    manifest = json.loads(Path(f"{folder.resolve()}.manifest.json").read_text())
    found = digests(folder.resolve())
    assert {entry["file"]: entry["sha256"] for entry in manifest["files"]} == found
    assert manifest["rows"] == len(pd.read_parquet(folder))


def test_a_second_run_does_nothing(finished: Path) -> None:
    before = digests(finished / "run")
    assert plan_of(finished / "c.yaml")["nothing_to_do"]
    assert new_tasks(finished / "c.yaml") == {}
    assert digests(finished / "run") == before


def test_changing_resources_or_renaming_a_teacher_is_no_work(
    finished: Path, tmp_path: Path
) -> None:
    teachers = copy.deepcopy(POOL["teachers"])
    teachers["occident"] = {**teachers.pop("west"), "resources": {"replicas": 2, "cpus": 1}}
    config = changed(finished, tmp_path, teachers=teachers)
    assert plan_of(config)["nothing_to_do"]
    assert new_tasks(config) == {}


def test_adding_a_teacher_makes_exactly_its_candidates(finished: Path, tmp_path: Path) -> None:
    extra = {"engine": "fake", "languages": ["en"], "options": {"voice": "new", "skill": 0.9}}
    config = changed(finished, tmp_path, teachers={**POOL["teachers"], "new": extra})
    old = digests(config.parent / "run")
    assert tasks_to_do(config) == {"router": 5, "new": 5, "gates": 5, "arbiter": 5, "best": 5}
    counts = new_tasks(config)
    assert {(stage, n) for (stage, _), n in counts.items()} == {
        ("route", 5),
        ("generate", 5),
        ("gate", 5),
        ("score", 5),
        ("select", 5),
    }
    now = digests(config.parent / "run")
    kept = {
        path: digest
        for path, digest in old.items()
        if path.split("/")[0] in ("candidates", "scores")
    }
    assert kept.items() <= now.items()
    rows = pd.read_parquet(config.parent / "run/selected/latest")
    assert set(rows[rows.language == "en"].teacher) >= {"new"}


def test_changing_the_arbiter_generates_nothing(finished: Path, tmp_path: Path) -> None:
    config = changed(finished, tmp_path, arbiter={"engine": "fake", "model": "other"})
    counts = new_tasks(config)
    assert sorted({stage for stage, _ in counts}) == ["score", "select"]
    assert plan_of(config)["nothing_to_do"]


def test_appended_prompts_open_new_shards_and_cost_only_themselves(
    finished: Path, tmp_path: Path
) -> None:
    config = changed(finished, tmp_path)
    more = config.parent / "more.jsonl"
    write_prompts(more, 270)
    prompts = {**POOL["prompts"], "sources": [{"path": "prompts.jsonl"}, {"path": "more.jsonl"}]}
    config = write_config(config.parent, {**POOL, "prompts": prompts})
    old = digests(config.parent / "run")
    counts = new_tasks(config)
    assert [counts[stage, "clerk"] for stage in ("route", "select")] == [1, 1]
    assert sorted(n for (stage, _), n in counts.items() if stage == "generate") == [1, 1]
    assert sum(n for (stage, _), n in counts.items() if stage == "score") == 2
    assert old.items() <= digests(config.parent / "run").items()
    assert len(pd.read_parquet(config.parent / "run/selected/latest")) > 250


def test_show_and_status_tell_what_the_files_say(finished: Path) -> None:
    row = pd.read_parquet(finished / "run/selected/latest").iloc[0]
    shown = json.loads(cli("show", finished / "run", row.prompt_id[:12], "--json").stdout)
    assert len(shown["candidates"]) == len(row.candidates)
    assert shown["selected"]["completion"] == row.completion
    by_user = json.loads(cli("show", finished / "run", row.user_id, "--json").stdout)
    assert by_user["prompt"]["prompt_id"] == row.prompt_id
    status = json.loads(cli("status", finished / "run", "--json").stdout)
    assert not status["running"]
    assert status["prompts"] == 240
    assert all(role["done"] == role["known"] for role in status["roles"])


def test_quarantined_rows_give_3_only_with_strict_ledger(finished: Path) -> None:
    assert cli("run", finished / "c.yaml", "-q").returncode == 0
    assert cli("run", finished / "c.yaml", "-q", "--strict-ledger").returncode == 3


def test_the_result_does_not_depend_on_replicas_or_slots(finished: Path, tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 240)
    teachers = copy.deepcopy(POOL["teachers"])
    teachers["west"]["resources"] = {"replicas": 3, "cpus": 0.3}
    teachers["all"]["resources"] = {"cpus": 1}
    arbiter = {"engine": "fake", "resources": {"cpus": 1}}
    config = write_config(
        tmp_path, {**POOL, "teachers": teachers, "arbiter": arbiter, "cluster": {"cpus": 1}}
    )
    result = cli("run", config, "-q")
    assert result.returncode == 0, result.stderr
    assert digests(tmp_path / "run") == digests(finished / "run")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_cleanly_and_the_same_command_goes_on(
    finished: Path, tmp_path: Path, number: int
) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 240)
    slow = copy.deepcopy(POOL)
    for teacher in slow["teachers"].values():
        teacher["options"]["delay_s"] = 0.5
    config = write_config(tmp_path, slow)
    process = start("run", config)
    wait_for_candidates(tmp_path / "run")
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert "the same command goes on" in errors
    assert cli("run", config, "-q").returncode == 0
    assert digests(tmp_path / "run") == digests(finished / "run")


def wait_for_candidates(run: Path) -> None:
    deadline = time.monotonic() + 60
    while not list(run.glob("candidates/*/*.parquet")):
        assert time.monotonic() < deadline, "no candidates after a minute"
        time.sleep(0.05)


def test_a_replica_that_dies_is_replaced(finished: Path, tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 240)
    teachers = copy.deepcopy(POOL["teachers"])
    teachers["west"]["options"] |= {"crash_after": 70, "crash_once": "crashed"}
    result = cli("run", write_config(tmp_path, {**POOL, "teachers": teachers}), "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["ledger"]["unfinished"] == 0, "nothing else may be in it"
    assert (tmp_path / "crashed").exists()
    assert "it is tried again" in result.stderr
    assert digests(tmp_path / "run") == digests(finished / "run")


def test_a_teacher_that_breaks_its_contract_is_set_aside_and_the_rest_is_done(
    finished: Path, tmp_path: Path
) -> None:
    liar = {"engine": "fake", "languages": ["fr"], "options": {"lie": "drop", "voice": "liar"}}
    config = changed(finished, tmp_path, teachers={**POOL["teachers"], "liar": liar})
    before = {path for path in digests(config.parent / "run") if path.startswith("candidates/")}
    result = cli("run", config)
    assert result.returncode == 1
    assert "0 completions where 1 were asked for" in result.stderr
    now = {path for path in digests(config.parent / "run") if path.startswith("candidates/")}
    assert now == before
    healed = config.with_name("healed.yaml")
    healed.write_text(config.read_text().replace("lie: drop", "words: 3"))
    assert cli("run", healed, "-q").returncode == 0


def test_more_than_the_machine_has_is_refused_with_a_sentence(
    finished: Path, tmp_path: Path
) -> None:
    teachers = copy.deepcopy(POOL["teachers"])
    teachers["big"] = {
        "engine": "fake",
        "languages": "all",
        "options": {"voice": "big"},
        "resources": {"gpus": 64},
    }
    config = changed(finished, tmp_path, teachers=teachers)
    result = cli("run", config)
    assert result.returncode == 2
    assert "64 GPUs" in result.stderr


def test_a_run_that_could_select_nothing_fails_and_says_why(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 12)
    mute = {"engine": "fake", "languages": "all", "options": {"empty": 1.0}}
    config = write_config(tmp_path, {**POOL, "teachers": {"mute": mute}})
    for _ in range(2):  # the second has nothing to do, and is no success either
        result = cli("run", config)
        assert result.returncode == 1
        assert "12 prompts = 0 selected + 12 quarantined" in result.stdout
        assert "no answer could be selected from: mute" in result.stdout
        assert "none of 12 prompts has an answer that could be selected (gates 12)" in result.stderr
    teachers = {"mute": mute, "sound": {"engine": "fake", "languages": "all"}}
    result = cli("run", write_config(tmp_path, {**POOL, "teachers": teachers}))
    assert result.returncode == 0, result.stderr
    assert "no answer could be selected from: mute" in result.stdout
