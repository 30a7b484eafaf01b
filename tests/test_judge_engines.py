"""Judges behind real engines: a server that misbehaves, and a model that never learned to judge."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from test_contest import results_of

from arbitrage.engines import build_generator
from arbitrage.winrate.contest import contest_of
from contest_harness import contest_in, make_contest, model, play, questions
from fault_server import QUALITY, Fault, FaultServer, Request
from harness import frame, write_prompts
from micro_models import make_teacher

if TYPE_CHECKING:
    from pathlib import Path

WHOLE: dict[str, Any] = {"baseline": "b", "questions": {"shard_size": 64}}
"""One shard: a client lives as long as the loop of its task."""
MODELS = {"a": model("a", 0.8), "b": model("b", 0.3)}


def judged(request: Request) -> dict[str, Any]:
    """What a sound judge says of the JSON in its prompt."""
    messages = request.body["messages"]
    case = json.loads(messages[1]["content"])
    a, b = (float(QUALITY.findall(case[name])[-1]) for name in ("answer_a", "answer_b"))
    text = f"A has {a}, B has {b}.\n\n**[[{'A>B' if a > b else 'B>A' if b > a else 'A=B'}]]**"
    choice = {"finish_reason": "stop", "message": {"role": "assistant", "content": text}}
    usage = {"prompt_tokens": 50, "completion_tokens": 9}
    return {"model": "judge-2026", "choices": [choice], "usage": usage}


def test_a_judge_behind_a_server_that_fails_now_and_then(tmp_path: Path) -> None:
    write_prompts(tmp_path / "questions.jsonl", questions(6))

    def plan(request: Request) -> Fault:
        if request.tries == 1 and request.draw % 3 == 0:
            return Fault("reset") if request.draw % 2 else Fault("status", 503)
        return Fault("body", judged(request))

    with FaultServer(plan) as server:
        options = {
            "base_url": server.url,
            "backoff_s": 0.0,
            "price_per_million_input": 1.0,
            "price_per_million_output": 10.0,
        }
        judge = {"engine": "endpoint", "model": "judge", "options": options}
        made = play(make_contest(tmp_path, MODELS, {"judge": judge}, **WHOLE))
        assert not made.failed
        asked = {json.dumps(request.body, sort_keys=True) for request in server.requests}
    assert len(asked) == 36, "18 prompts in two orders, each asked the same when tried again"
    games = frame(tmp_path / "evaluation", "judgements/")
    assert games.verdict.notna().all()
    assert games.prompt_tokens.tolist() == [50] * 36
    row = results_of(made).row("a", "b")
    assert row.rate.value > 0.9
    assert row.flipped == 0
    files = [p for p in made.store.listing().files if p.startswith("judgements/")]
    notes = made.store.footers(files).values()
    assert sum(n["spent"]["cost"] for n in notes) == pytest.approx(36 * (50 + 90) / 1e6)
    assert {n["made_with"]["served"] for n in notes} == {"judge-2026"}


def test_a_server_that_refuses_one_answer_costs_that_game_alone(tmp_path: Path) -> None:
    write_prompts(tmp_path / "questions.jsonl", questions(4))

    def plan(request: Request) -> Fault:
        if "question 2 in de" in json.dumps(request.body):
            return Fault("status", 400)
        return Fault("body", judged(request))

    with FaultServer(plan) as server:
        judge = {"engine": "endpoint", "model": "j", "options": {"base_url": server.url}}
        made = play(make_contest(tmp_path, MODELS, {"judge": judge}, **WHOLE))
    games = frame(tmp_path / "evaluation", "judgements/")
    assert games.error.notna().sum() == 2
    assert results_of(made).row("a", "b").missing == 2


def test_a_real_model_that_cannot_judge_gives_no_verdict_and_no_zero(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    write_prompts(tmp_path / "questions.jsonl", questions(3, ("de",)))
    folder = make_teacher(tmp_path / "model", ["user: what is 2 and 2?", "assistant: four"], 0)
    short = (
        "{% block system %}Which?{% endblock %}{% block user %}A: {{ answer_a }} B: {{ answer_b }}"
        "{% endblock %}{% block reminder %}Which?{% endblock %}"
    )
    (tmp_path / "short.jinja").write_text(short, encoding="utf-8")
    judge = {
        "engine": "transformers",
        "model": str(folder),
        "template": str(tmp_path / "short.jinja"),
        "sampling": {"temperature": 0, "max_tokens": 8},
        "tries": 2,
        "chat_template": "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}",
        "options": {"dtype": "float32", "device": "cpu"},
    }
    config = make_contest(tmp_path, MODELS, {"judge": judge}, **WHOLE)
    engine = build_generator(contest_of(config).judges[0])
    made = play(config, {"judge": engine})
    engine.close()
    games = frame(tmp_path / "evaluation", "judgements/")
    assert len(games) == 6
    assert games.verdict.isna().all()
    assert (games.tries == 2).all()
    assert games.error.str.contains("no verdict").all()
    results = results_of(made)
    assert sum(count for *_, count in results.failures) == 6
    assert [row for row in results.rows if row.games] == []
    assert contest_in(made).judges[0].config.tries == 2
