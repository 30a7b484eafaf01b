"""Whole runs over the command line whose replicas hold vLLM, while the driver has none of it.

Needs a Python with vLLM in `ARBITRAGE_VLLM_PYTHON`, as `make test-vllm` has, and skips with a
printed reason elsewhere. Shares, and why the rest differs, are printed (`-s`), not only judged.
"""

from __future__ import annotations

import json
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer

from command_line import cli, running, write_config
from harness import read_rows
from vllm_python import LANGUAGES, MICRO, PYTHON, heldout, needs_python, share

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = [needs_python, pytest.mark.cluster, pytest.mark.engine("vllm", "transformers")]

QUICKSTART = MICRO.parents[1] / "configs/quickstart.yaml"
PER_LANGUAGE = 10
KILL_PER_LANGUAGE = 20
KILL_SHARD_SIZE = 46
KILL_SHARDS = KILL_PER_LANGUAGE * LANGUAGES // KILL_SHARD_SIZE


def served(model: str, engine: str, **options: Any) -> dict[str, Any]:
    """A model of the micro-world."""
    found: dict[str, Any] = {"engine": engine, "model": str(MICRO / "models" / model)}
    if engine == "transformers":
        return {**found, "options": {"dtype": "float32"}}
    usual = {"dtype": "float32", "kv_cache_gb": 0.25, "engine_args": {"enforce_eager": True}}
    return {
        **found,
        "options": {**usual, **options},
        "resources": {"cpus": 1, "python": PYTHON},
    }


def write_prompts(folder: Path, per_language: int) -> None:
    lines = (json.dumps(row) + "\n" for row in heldout(per_language))
    (folder / "prompts.jsonl").write_text("".join(lines), encoding="utf-8")


def candidates(run: Path) -> dict[tuple[str, str], str]:
    """What each teacher says to each prompt; greedy, so once."""
    found: dict[tuple[str, str], str] = {}
    for folder in (path for path in (run / "candidates").iterdir() if path.is_dir()):
        rows = read_rows(run, f"candidates/{folder.name}/")
        own = {
            (row["prompt_id"], folder.name.rpartition("-")[0]): row["completion"] for row in rows
        }
        assert len(own) == len(rows), "an answer is there twice"
        found |= own
    return found


def selected(run: Path) -> dict[tuple[str, str], str]:
    """What was chosen for each prompt, whoever said it."""
    rows = read_rows(run, "selected")
    found = {(row["prompt_id"], ""): row["completion"] for row in rows}
    assert len(found) == len(rows), "a prompt is there twice"
    return found


@cache
def loaded(model: str) -> tuple[Any, Any]:
    folder = MICRO / "models" / model
    return (
        AutoTokenizer.from_pretrained(folder),
        AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32),
    )


def explain(teacher: str, prompt: str, first: str, second: str) -> None:
    """Prints where two greedy answers part, and how near the two best tokens are there."""
    tokenizer, model = loaded(teacher)
    turns = [{"role": "user", "content": prompt}]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    asked, one, two = (
        tokenizer(part, add_special_tokens=False)["input_ids"] for part in (text, first, second)
    )
    pairs = zip([*one, None], [*two, None], strict=False)
    place = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(one), len(two)))
    with torch.inference_mode():
        logits = model(torch.tensor([asked + one[:place]])).logits[0, -1]
    best = logits.topk(2).values
    print(
        f"  {teacher}: {first!r} is not {second!r}; they part at token {place}, where the best two "
        f"logits are {best[0]:.4f} and {best[1]:.4f}, {best[0] - best[1]:.1e} apart"
    )


def compare(first: Path, second: Path) -> None:
    """The same candidates and the same rows, and in 99 of 100 of each the same text."""
    asked = {
        row["prompt_id"]: row["messages"][-1]["content"] for row in read_rows(first, "prompts")
    }
    for read in (candidates, selected):
        found, wanted = read(first), read(second)
        assert found.keys() == wanted.keys()
        names = sorted(found)
        texts = [[many[name] for name in names] for many in (found, wanted)]
        assert share(*texts, f"{read.__name__} with the same text") >= 0.99
        for name in names:
            if read is candidates and found[name] != wanted[name]:
                explain(name[1], asked[name[0]], wanted[name], found[name])


# ---- the pool


def pool(engine: str) -> dict[str, Any]:
    """The quickstart's, with another engine and fewer prompts."""
    told: dict[str, Any] = yaml.safe_load(QUICKSTART.read_text(encoding="utf-8"))
    for part in (*told["teachers"].values(), told["arbiter"]):
        part.pop("resources", None)
        part.update(served(Path(part["model"]).name, engine))
    told["prompts"] = {"sources": [{"path": "prompts.jsonl"}], "shard_size": 128}
    return {**told, "run": engine}


def test_the_quickstarts_pool_gives_the_same_rows_on_vllm_and_on_transformers(
    tmp_path: Path,
) -> None:
    write_prompts(tmp_path, PER_LANGUAGE)
    for engine in ("transformers", "vllm"):
        began = time.monotonic()
        result = cli("run", write_config(tmp_path, pool(engine)), timeout_s=900)
        assert result.returncode == 0, result.stderr
        print(f"the pool on {engine}: {time.monotonic() - began:.0f} s")
    runs = tmp_path / "vllm", tmp_path / "transformers"
    compare(*runs)
    rows = [read_rows(run, "selected") for run in runs]
    assert len(rows[0]) == PER_LANGUAGE * LANGUAGES >= 200
    assert len({row["language"] for row in rows[0]}) == LANGUAGES
    assert len({row["teacher"] for row in rows[0]}) == 7
    rewards = [
        (a["reward"], b["reward"])
        for a, b in zip(*rows, strict=True)
        if a["completion"] == b["completion"]
    ]
    worst = max(abs(a - b) for a, b in rewards)
    print(f"rewards: furthest {worst:.1e}")
    assert worst < 1e-4


# ---- kills


def two_teachers(engine: str) -> dict[str, Any]:
    """One whose vLLM is in the replica itself, one with a process of vLLM's own; few answers at a
    time, so that there is work left to be disturbed."""
    teachers = {
        "generalist": served("generalist", engine, engine_process="own"),
        "romance": served("romance", engine, engine_process="separate"),
    }
    for told in teachers.values():
        told |= {"languages": "all", "sampling": {"temperature": 0, "max_tokens": 48}}
        if engine == "vllm":
            told["resources"]["batch_size"] = 2
    return {
        "run": engine,
        "prompts": {"sources": [{"path": "prompts.jsonl"}], "shard_size": KILL_SHARD_SIZE},
        "teachers": teachers,
        "arbiter": {"engine": "fake"},
        "gates": {"truncated": False},
        "cluster": {"cpus": 4},
    }


def is_lent(process: psutil.Process) -> bool:
    """Whether libraries of vLLM's environment are in its memory."""
    place = str(Path(PYTHON).parents[1].resolve())
    try:
        return place in Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8")
    except OSError:
        return False


def family(run: Any) -> list[psutil.Process]:
    return psutil.Process(run.pid).children(recursive=True)


def name_of(process: psutil.Process) -> str:
    """Empty where it has ended in the meantime."""
    try:
        return str(process.name())
    except psutil.Error:
        return ""


def cores(run: Any) -> list[psutil.Process]:
    """vLLM's own processes."""
    return [process for process in family(run) if name_of(process) == "VLLM::EngineCore"]


def replicas_with_their_engine(run: Any) -> list[psutil.Process]:
    """Replicas in vLLM's environment, without those whose engine is a process of vLLM's own: none
    before there is such a process, as until then they look alike."""
    behind = {core.ppid() for core in cores(run)}
    replicas = [process for process in family(run) if name_of(process).startswith("ray::_Actor")]
    found = [process for process in replicas if process.pid not in behind and is_lent(process)]
    return found if behind else []


def kill_under_load(
    run: Any, folder: Path, teacher: str, find: Callable[[Any], list[psutil.Process]]
) -> None:
    """Once the teacher's first shard is there, and while the next ones are being made."""
    deadline = time.monotonic() + 240
    found: list[psutil.Process] = []
    made: list[Path] = []
    while not made or not found:
        found = found or find(run)
        made = list(folder.glob(f"candidates/{teacher}-*/*.parquet"))
        assert run.poll() is None, run.communicate()
        assert time.monotonic() < deadline, f"{teacher} made nothing"
        time.sleep(0.01)
    (process,) = found
    process.kill()
    assert len(made) < KILL_SHARDS


def test_a_run_goes_on_when_a_replica_and_when_vllms_own_process_is_killed(tmp_path: Path) -> None:
    """The one holds its engine itself, the other's is in a process of vLLM's own."""
    write_prompts(tmp_path, KILL_PER_LANGUAGE)
    whole = cli("run", write_config(tmp_path, two_teachers("transformers"), "whole.yaml"))
    assert whole.returncode == 0, whole.stderr
    folder = tmp_path / "vllm"
    with running("run", write_config(tmp_path, two_teachers("vllm")), "--json") as run:
        kill_under_load(run, folder, "generalist", replicas_with_their_engine)
        kill_under_load(run, folder, "romance", cores)
        out, errors = run.communicate(timeout=600)
    assert run.returncode == 0, (out, errors)

    events = [json.loads(line) for line in (folder / "events.jsonl").open(encoding="utf-8")]
    failed = [event for event in events if event["event"] == "task_failed"]
    for teacher in ("generalist", "romance"):
        lost = [event for event in failed if event["role"] == teacher]
        print(f"{teacher}: {len(lost)} shards in flight ({ {event['error'] for event in lost} })")
        assert lost, "nothing was in flight"
        assert all(event["again"] for event in lost)
    assert "the engine died" in errors
    ledger = json.loads(out)["ledger"]
    lost_rows = sum(ledger["quarantined"].values())
    assert ledger["prompts"] == ledger["selected"] + lost_rows == KILL_PER_LANGUAGE * LANGUAGES
    assert not ledger["unfinished"]
    compare(folder, tmp_path / "transformers")
    assert len(candidates(folder)) == 2 * KILL_PER_LANGUAGE * LANGUAGES
    assert not list(folder.rglob(".tmp-*"))
