"""A budget over the real command line: the run stops, says so, and the same command goes on."""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from arbitrage.store import FOOTER_KEY
from arbitrage.usage import Usage, total_of
from command_line import cli, digests, done_tasks, start, write_config, write_prompts
from fault_server import Fault, FaultServer, Request

pytestmark = pytest.mark.cluster

PROMPTS = 120
SHARD = 20
POOL: dict[str, Any] = {
    "run": "run",
    "prompts": {"sources": [{"path": "prompts.jsonl"}], "shard_size": SHARD},
    "teachers": {
        "one": {
            "engine": "fake",
            "languages": "all",
            "options": {"voice": "1", "fail": 0.1},
            "sampling": {"n": 2, "temperature": 0.9},
            "resources": {"replicas": 2},
        },
        "two": {"engine": "fake", "languages": ["de", "fr"], "options": {"voice": "2"}},
    },
    "arbiter": {"engine": "fake"},
}


def spent_in(run: Path) -> Usage:
    """What all candidates and scores of a run directory say that they cost."""
    files = [
        path for kind in ("candidates", "scores") for path in run.rglob(f"{kind}/**/*.parquet")
    ]
    notes = [json.loads(pq.read_metadata(path).metadata[FOOTER_KEY]) for path in files]
    return total_of(Usage(**note["spent"]) for note in notes)


def complete_shards(run: Path) -> int:
    return len(list(run.glob("selected/latest/*.parquet")))


def test_a_budget_of_requests_is_kept_and_raising_it_goes_on(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    limited = cli("run", write_config(tmp_path, {**POOL, "budget": {"requests": 300}}))
    assert limited.returncode == 75, limited.stderr
    spent = spent_in(tmp_path / "run")
    last = limited.stderr.splitlines()[-1]
    assert f"({spent.requests} of 300 requests are spent)" in last
    assert "raise `budget:` and the same command goes on" in last
    assert "given up" not in limited.stderr
    complete = complete_shards(tmp_path / "run")
    assert f"{PROMPTS - complete * SHARD} prompts are unfinished" in last
    assert 0 < complete < PROMPTS // SHARD
    assert 300 - 110 < spent.requests <= 300, "another shard would have fitted"
    files = digests(tmp_path / "run")
    answered = {path.rsplit("/", 1)[1][:5] for path in files if path.startswith("candidates/")}
    assert len(answered) == complete, "nobody has answered what cannot be scored"

    plan = json.loads(cli("plan", tmp_path / "c.yaml", "--json").stdout)
    assert plan["budget"] == {"requests": [spent.requests, 300]}
    assert not plan["nothing_to_do"]
    before = done_tasks(tmp_path / "run")
    again = cli("run", tmp_path / "c.yaml", "-q")
    assert again.returncode == 75
    assert (digests(tmp_path / "run"), done_tasks(tmp_path / "run")) == (files, before)

    rest = cli("run", tmp_path / "c.yaml", "--set", "budget.requests=10000", "--json")
    assert rest.returncode == 0, rest.stderr
    told = json.loads(rest.stdout)
    assert [one["usage"]["requests"] for one in told["spent"]][:2] == [2 * PROMPTS, 80]
    whole = write_config(tmp_path, {**POOL, "run": "whole"}, "whole.yaml")
    assert cli("run", whole, "-q").returncode == 0
    assert digests(tmp_path / "run") == digests(tmp_path / "whole")
    assert told["budget"]["requests"] == [spent_in(tmp_path / "whole").requests, 10000]


def test_what_was_spent_before_a_kill_counts_once(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", PROMPTS)
    slow = copy.deepcopy(POOL)
    for teacher in slow["teachers"].values():
        teacher["options"]["delay_s"] = 0.3
    config = write_config(tmp_path, {**slow, "budget": {"requests": 450, "tokens": 1_000_000}})
    process = start("run", config, "-q")
    wait_for_scores(tmp_path / "run")
    process.kill()
    process.communicate()
    kept = spent_in(tmp_path / "run")
    assert kept.requests > 0
    ended = cli("run", config)
    assert ended.returncode == 75, ended.stderr
    run = tmp_path / "run"
    rows = [len(pq.read_table(p)) for p in run.rglob("candidates/**/*.parquet")]
    scores = pd.concat(pd.read_parquet(p) for p in run.rglob("scores/**/*.parquet"))
    judged = int((scores.error != "there is no completion to score").sum())
    assert spent_in(run).requests == sum(rows) + judged <= 450
    assert f"{spent_in(run).requests} of 450 requests" in ended.stderr
    assert complete_shards(run) * SHARD >= 60


def wait_for_scores(run: Path) -> None:
    deadline = time.monotonic() + 60
    while not list(run.glob("scores/*/*/*.parquet")):
        assert time.monotonic() < deadline, "no scores after a minute"
        time.sleep(0.02)


def served(url: str, **budget: Any) -> dict[str, Any]:
    """Two teachers and a judge of one server; only the first teacher and the judge cost money."""
    usual = {"base_url": url, "backoff_s": 0.001, "max_wait_s": 0.01}
    price = {"price_per_million_input": 10_000, "price_per_million_output": 20_000}
    hosted = {"engine": "endpoint", "languages": "all"}
    judge = {"engine": "endpoint", "model": "judge"}
    return {
        "run": "run",
        "prompts": {"sources": [{"path": "prompts.jsonl"}], "shard_size": 10},
        "teachers": {
            "hosted": {**hosted, "model": "hosted", "options": {**usual, **price}},
            "own": {**hosted, "model": "own", "options": usual},
        },
        "arbiter": {**judge, "options": {**usual, **price, "score_api": "judge"}},
        "budget": budget,
    }


def test_a_budget_of_money_stops_what_costs_money(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 60)
    with FaultServer(at_times_cut) as server:
        result = cli("run", write_config(tmp_path, served(server.url, money=100.0)))
        assert result.returncode == 75, result.stderr
        assert "of 100.0000 in money are spent" in result.stderr
        asked = [request for request in server.requests if request.body["model"] == "own"]
        assert len(asked) == 60, "what costs nothing goes on"
        run = tmp_path / "run"
        told = spent_in(run)
        paid = [r for r in server.requests if r.body["model"] != "own"]
        assert told.requests == len(server.requests)
        assert complete_shards(run) > 0
        assert 70 < told.cost < 115, "two shards, and by no more than a task over"
        hosted = cost_of(run, "candidates/hosted") + cost_of(run, "scores/")
        assert hosted == pytest.approx(told.cost)
        assert told.tokens == server_tokens(server)
        more = cli("run", tmp_path / "c.yaml", "--set", "budget.money=5000", "--json")
        assert more.returncode == 0, more.stderr
        assert len(server.requests) == 60 * 4, "nothing was asked twice"
        assert len(paid) < 180
    found = json.loads(more.stdout)
    by_name = {one["name"]: one["usage"] for one in found["spent"]}
    assert by_name["own"]["cost"] == 0
    assert by_name["own"]["prompt_tokens"] > 0
    assert by_name["arbiter"]["requests"] == 120
    assert by_name["arbiter"]["cost"] > by_name["hosted"]["cost"] > 0


def at_times_cut(request: Request) -> Fault | None:
    """Some of the judge's verdicts are cut off, and are paid for all the same."""
    cut = {"choices": [{"finish_reason": "length", "message": {"content": "It is"}}]}
    if request.body["model"] == "judge" and request.draw % 5 == 0:
        return Fault("body", lambda answer: {**answer, **cut})
    return None


def server_tokens(server: FaultServer) -> int:
    """What the server's own answers say."""
    from fault_server import answer_to

    usages = [answer_to(request)["usage"] for request in server.requests]
    return sum(usage["prompt_tokens"] + usage["completion_tokens"] for usage in usages)


def cost_of(run: Path, prefix: str) -> float:
    files = [p for p in run.rglob("*.parquet") if p.relative_to(run).as_posix().startswith(prefix)]
    notes = [json.loads(pq.read_metadata(path).metadata[FOOTER_KEY]) for path in files]
    return sum(note["spent"]["cost"] for note in notes)


def test_a_server_that_tells_no_tokens_is_told_of_once(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", 40)
    silent = Fault("body", lambda answer: {**answer, "usage": None})
    with FaultServer(lambda request: silent) as server:
        result = cli("run", write_config(tmp_path, served(server.url, tokens=1000)))
    assert result.returncode == 0, result.stderr
    told = [line for line in result.stderr.splitlines() if "does not tell all the tokens" in line]
    assert sorted(line.split(":")[0] for line in told) == ["arbiter", "hosted", "own"]
    assert spent_in(tmp_path / "run").untold == 160
