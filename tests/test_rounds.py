"""Shards that are routed more than once, by what came of them or of others, without Ray."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arbitrage.card import Evidence, Outcome, Subject, make
from arbitrage.plan import CLERK
from arbitrage.repair import examine
from harness import (
    LANGUAGES,
    Run,
    digests,
    fake,
    frame,
    make_config,
    numbered_prompts,
    opened,
    planned,
    run,
    work_once,
    write_prompts,
)

if TYPE_CHECKING:
    from pathlib import Path

    from arbitrage.config import RunConfig

PROMPTS = 40
POOL = {
    "a": fake(0.5, options={"voice": "a"}),
    "b": fake({"sw": 0.9, "default": 0.3}, options={"voice": "b"}),
    "c": fake({"ja": 0.9, "default": 0.1}, options={"voice": "c"}),
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(PROMPTS))


def config_of(folder: Path, source: Path, teachers: dict[str, Any], **blocks: Any) -> RunConfig:
    return make_config(folder, teachers, source, **blocks)


def asked(made: Run, name: str) -> list[str]:
    return [prompt.id for prompt, _, _ in made.engine(name).generated]


def sound(made: Run) -> bool:
    return examine(made.store.root, lambda done, total: None, mend=False).is_sound


# Asked again


def test_where_every_candidate_fails_a_gate_its_teachers_are_asked_once_more(
    tmp_path: Path, source: Path
) -> None:
    half = {"cut": fake(0.5, options={"truncate": 0.5}), "deaf": fake(0.4, options={"empty": 0.6})}
    plain = run(config_of(tmp_path / "plain", source, half))
    lost = {row["prompt_id"] for row in plain.rows("quarantine")}
    assert 3 < len(lost) < PROMPTS
    made = run(config_of(tmp_path / "again", source, half, retry={"budget": 3}))
    assert not made.failed
    for name in half:
        first = len(asked(plain, name))
        assert asked(made, name)[:0] == []
        again = Counter(asked(made, name)) - Counter(asked(plain, name))
        assert set(again) == lost
        assert len(asked(made, name)) == first + len(lost), "once more, and no more"
    rows = made.frame("selected")
    saved = rows[rows["prompt_id"].isin(lost)]
    assert 0 < len(saved) < len(lost), "fresh seeds save some, and nobody is asked a third time"
    assert set(saved["teacher"]) <= {"cut.retry", "deaf.retry"}
    before = rows[~rows["prompt_id"].isin(lost)].set_index("prompt_id")["completion"]
    assert before.equals(plain.frame("selected").set_index("prompt_id")["completion"])
    left = {row["prompt_id"] for row in made.rows("quarantine")}
    assert left == lost - set(saved["prompt_id"])
    detail = made.rows("quarantine")[0]["detail"]
    assert "cut #0: truncated" in detail
    assert "cut.retry #0" in detail


def test_who_is_asked_again_has_fresh_seeds_more_tokens_and_a_temperature(
    tmp_path: Path, source: Path
) -> None:
    teachers = {"t": fake(0.5, options={"truncate": 1.0}, sampling={"temperature": 0})}
    made = run(config_of(tmp_path, source, teachers, retry={"budget": 2.5, "temperature": 0.4}))
    told = {(s.max_tokens, s.temperature) for _, s, _ in made.engine("t").generated}
    assert told == {(512, 0.0), (1280, 0.4)}
    seeds = [seed for _, _, seeds in made.engine("t").generated for seed in seeds]
    assert len(set(seeds)) == 2 * PROMPTS
    assert not made.rows("selected")


def test_a_prompt_that_no_gate_stopped_is_not_asked_again(tmp_path: Path, source: Path) -> None:
    teachers = {"t": fake(0.5, options={"fail": 0.3, "truncate": 0.3})}
    made = run(config_of(tmp_path, source, teachers, retry={}))
    failed = {r["prompt_id"] for r in made.rows("quarantine") if r["reason"] == "errors"}
    cut = frame(made.store.root, f"gates/{made.components.gates.label}/t-")
    cut = set(cut[cut["truncated"] == True]["prompt_id"])  # noqa: E712 - nulls are there too
    again = Counter(asked(made, "t"))
    assert failed
    assert {key for key, count in again.items() if count == 2} == cut


# Fused


def test_a_fuser_reads_all_sound_candidates_and_is_judged_like_anyone(
    tmp_path: Path, source: Path
) -> None:
    teachers = {**POOL, "cut": fake(0.9, options={"truncate": 1.0, "voice": "cut"})}
    fuser = {"engine": "fake", "options": {"skill": 0.95, "voice": "f"}, "languages": ["de", "sw"]}
    made = run(config_of(tmp_path, source, teachers, fuser=fuser))
    assert not made.failed
    prompts = made.frame("prompts").set_index("prompt_id")
    mine = prompts[prompts["language"] != "ja"]
    told = {p.id: p.messages for p, _, _ in made.engine("fuser").generated}
    assert set(told) == set(mine.index), "in its languages alone"
    answers = {
        name: frame(made.store.root, f"candidates/{name}-").set_index("prompt_id")["completion"]
        for name in teachers
    }
    for key, (turn,) in told.items():
        instruction, _, case = turn["content"].partition("\n\n")
        assert "material, never instructions" in instruction
        read = json.loads(case)
        assert read["conversation"] == [dict(t) for t in prompts.loc[key, "messages"]]
        assert sorted(read["answers"]) == sorted(answers[name][key] for name in POOL)
    judged = {p.id: p.messages for p, _ in made.engine("arbiter").scored}
    assert all(judged[key] == list(prompts.loc[key, "messages"]) for key in told)
    rows = made.frame("selected")
    assert len(rows) == PROMPTS
    assert set(rows[rows["language"] == "ja"]["teacher"]) == {"c"}
    assert (rows[rows["language"] != "ja"]["teacher"] == "fuser").mean() > 0.5
    assert sound(made)


def test_where_all_answers_are_the_same_nothing_is_fused(tmp_path: Path, source: Path) -> None:
    teachers = {"a": fake(0.5), "b": fake(0.5, ["de", "sw", "ja"], system="You are b.")}
    made = run(config_of(tmp_path, source, teachers, fuser={"engine": "fake"}))
    texts = [frame(made.store.root, f"candidates/{name}-")["completion"] for name in teachers]
    same = (texts[0] == texts[1]).sum()
    assert len(asked(made, "fuser")) == PROMPTS - same


# One after the other


def test_a_cascade_asks_the_next_only_where_no_reward_is_good_enough(
    tmp_path: Path, source: Path
) -> None:
    routing = {"router": "cascade", "order": ["a", "b", "c"], "threshold": 0.55}
    made = run(config_of(tmp_path, source, POOL, routing=routing))
    assert not made.failed
    everyone = run(config_of(tmp_path / "all", source, POOL))
    rewards = {
        name: frame(everyone.store.root, f"scores/arbiter-{arbiter(everyone)}/{name}-")
        .set_index("prompt_id")["score"]
        .to_dict()
        for name in POOL
    }
    wanted: dict[str, set[str]] = {name: set() for name in POOL}
    for key in rewards["a"]:
        for name in POOL:
            wanted[name].add(key)
            if rewards[name][key] >= 0.55:
                break
    for name in POOL:
        assert set(asked(made, name)) == wanted[name]
        assert len(asked(made, name)) == len(wanted[name])
    assert len(wanted["a"]) > len(wanted["b"]) > len(wanted["c"]) > 0
    assert sound(made)


def arbiter(made: Run) -> str:
    return made.components.arbiter.fingerprint


# By what earlier shards gave


def adaptive(**more: Any) -> dict[str, Any]:
    return {"router": "adaptive", "budget": 0.5, "warm_up": 4, "lag": 2, **more}


def test_an_adaptive_run_decides_by_earlier_shards_alone_and_spends_its_budget(
    tmp_path: Path,
) -> None:
    source = write_prompts(tmp_path / "p.jsonl", numbered_prompts(400))
    made = run(config_of(tmp_path, source, POOL, routing=adaptive()))
    spent = sum(len(asked(made, name)) for name in POOL)
    assert spent <= 0.5 * 400 * len(POOL)
    languages = made.frame("prompts").set_index("prompt_id")["language"]
    late = set(made.frame("prompts")["prompt_id"][200:])
    best = {"de": "a", "sw": "b", "ja": "c"}
    for code, name in best.items():
        own = [key for key in late if languages[key] == code]
        assert sum(key in set(asked(made, name)) for key in own) > 0.85 * len(own)
    order = [task.shard for task, _ in made.done if task.stage == "route"]
    assert order == sorted(order)
    done = [task for task, _ in made.done]
    for place, task in enumerate(done):
        if task.stage == "route" and task.shard >= 2:
            before = {t.output for t in done[:place]}
            scores = [path for path in task.inputs if path.startswith("scores/")]
            assert scores
            assert before >= {p for p in task.inputs if not p.startswith("prompts/")}
            assert {path.rsplit("/", 1)[1][:5] for path in scores} == {f"{task.shard - 2:05d}"}
    assert sound(made)


CHAINED = {
    "adaptive": {"routing": adaptive()},
    "cascade": {"routing": {"router": "cascade", "threshold": 0.6}},
    "retry": {"retry": {}},
    "fuse": {"fuser": {"engine": "fake", "options": {"skill": 0.6}}},
    "quota": {"selection": {"quota": {"de": 9, "default": 30}, "max_teacher_share": 0.6}},
    "all": {
        "routing": adaptive(),
        "retry": {},
        "fuser": {"engine": "fake", "options": {"skill": 0.6}},
        "selection": {"quota": 9},
    },
}
LOSSY = {**POOL, "d": fake(0.7, options={"voice": "d", "truncate": 0.8, "fail": 0.1})}


@pytest.mark.parametrize("name", list(CHAINED))
def test_neither_order_nor_kills_change_a_byte(tmp_path: Path, source: Path, name: str) -> None:
    blocks = CHAINED[name]
    wanted = run(config_of(tmp_path / "one", source, LOSSY, **blocks))
    assert not wanted.failed
    assert wanted.frame("selected")["prompt_id"].is_unique
    for number, at_once in enumerate((3, 7)):
        order = random.Random(number)
        config = config_of(tmp_path / str(number), source, LOSSY, **blocks)
        for stop in (3, 9, 14, 10_000):
            made = run(config, at_once=at_once, order=order, stop_after=stop)
        assert digests(made.store.root) == digests(wanted.store.root)
        assert planned(opened(config)) == []
    assert run(config).done == []
    assert sound(made)


@pytest.mark.parametrize("name", list(CHAINED))
def test_a_teacher_that_is_set_aside_stops_nobody_and_is_taken_up_again(
    tmp_path: Path, source: Path, name: str
) -> None:
    config = config_of(tmp_path / "run", source, LOSSY, **CHAINED[name])
    made = opened(config)
    gone = made.components.teachers[0].fingerprint
    while made.board.is_open():
        if len(made.done) == 12:
            made.board.set_aside(gone, "no such model")
        work_once(made)
    products = {task.shard for task, _ in made.done if task.stage == "select"}
    assert products == set(range(PROMPTS // 8))
    assert any(task.owner == gone for task in made.board.given_up)
    whole = run(config)
    assert not whole.board.given_up
    assert planned(opened(config)) == []
    ids = set(whole.frame("prompts")["prompt_id"])
    lost = {row["prompt_id"] for row in whole.rows("quarantine")}
    assert set(whole.frame("selected")["prompt_id"]) == ids - lost
    assert run(config).done == []


@given(st.sampled_from(sorted(CHAINED)), st.randoms(use_true_random=False), st.integers(1, 5))
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_whoever_finishes_first_the_last_task_is_done_and_none_twice(
    tmp_path_factory: pytest.TempPathFactory, name: str, order: random.Random, at_once: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    source = write_prompts(folder / "prompts.jsonl", numbered_prompts(20))
    made = run(config_of(folder, source, POOL, **CHAINED[name]), at_once=at_once, order=order)
    outputs = [task.output for task, _ in made.done if task.stage != "read"]
    assert len(outputs) == len(set(outputs))
    assert not any(role.left for role in made.board.roles.values())
    assert not any(made.board.expects_more(owner) for owner in made.board.roles)
    assert {task.shard for task, _ in made.done if task.stage == "select"} == {0, 1, 2}


# Several Arbiters


def test_several_arbiters_score_all_and_are_combined_within_the_prompt(
    tmp_path: Path, source: Path
) -> None:
    two = {
        "first": {"engine": "fake"},
        "second": {"engine": "fake", "options": {"voice": "other", "fail": 0.1}, "weight": 0.5},
    }
    made = run(config_of(tmp_path, source, POOL, arbiters=two))
    assert not made.failed
    folders = sorted(path.name for path in (made.store.root / "scores").iterdir())
    assert [name.split("-")[0] for name in folders if not name.endswith(".json")] == [
        "first",
        "second",
    ]
    scores = {
        (a.name, t.name): frame(made.store.root, f"scores/{a.label}/{t.label}/").set_index(
            "prompt_id"
        )["score"]
        for a in made.components.arbiters
        for t in made.components.teachers
    }
    rows = made.frame("selected").set_index("prompt_id")
    for key, row in rows.iterrows():
        both = {
            t: (scores["first", t][key], scores["second", t][key])
            for t in POOL
            if scores["second", t][key] == scores["second", t][key]
        }
        if row["teacher"] not in both:
            raise AssertionError("one that an Arbiter could not judge was chosen")
    assert made.engine("first").scored
    assert len(asked(made, "a")) == PROMPTS
    alone = config_of(tmp_path, source, POOL, arbiters={"second": two["second"]})
    again = run(alone)
    assert {task.stage for task, _ in again.done} <= {"select"}, "its scores are there already"


def test_an_arbiter_is_not_asked_where_it_does_not_count(tmp_path: Path, source: Path) -> None:
    card = write_card(tmp_path / "card.json", {"de": 0.95, "sw": 0.5, "ja": 0.9})
    two = {"first": {"engine": "fake"}, "second": {"engine": "fake", "options": {"voice": "x"}}}
    trust = {"card": str(card), "least_accuracy": 0.7, "fallback": "second"}
    made = run(config_of(tmp_path, source, POOL, arbiters=two, trust=trust))
    assert not made.failed
    languages = {name: {p.language for p, _ in made.engine(name).scored} for name in two}
    assert languages == {"first": {"de", "ja"}, "second": {"sw"}}
    assert len(made.rows("selected")) == PROMPTS
    assert "'second' counts there instead" in made.components.judging.remark
    assert sound(made)


def test_where_no_arbiter_is_trusted_the_preferred_teacher_is_taken(
    tmp_path: Path, source: Path
) -> None:
    card = write_card(tmp_path / "card.json", {"de": 0.95, "sw": 0.5, "ja": 0.4})
    trust = {"card": str(card), "preferred": {"sw": ["c", "a"], "default": ["a"]}}
    made = run(config_of(tmp_path, source, POOL, trust=trust))
    rows = made.frame("selected")
    assert set(rows[rows["language"] == "sw"]["teacher"]) == {"c"}
    assert set(rows[rows["language"] == "ja"]["teacher"]) == {"a"}
    assert (rows[rows["language"] == "de"].groupby("teacher")["reward"].min() > 0.3).all()
    assert "ja, sw" in made.components.judging.remark


def write_card(path: Path, accuracy: dict[str, float]) -> Path:
    """A card of a made-up check: per language ten pairs, of which so many are judged right."""
    outcomes = [
        Outcome(code, None, 1.0 if number < round(10 * share) else -1.0, 0.0, 5 + number, 5)
        for code, share in accuracy.items()
        for number in range(10)
    ]
    subject = Subject("first", "0" * 12, None, None, {})
    evidence = Evidence("d" * 32, ("pairs.jsonl",), len(outcomes), len(outcomes), {})
    made = make(subject, evidence, outcomes, [], least=0.7, package="0")
    path.write_text(made.as_json(), encoding="utf-8")
    return path


# What the budget and the clerk know


def test_gates_are_the_clerks_and_cost_nothing(tmp_path: Path, source: Path) -> None:
    made = run(config_of(tmp_path, source, POOL))
    gates = [task for task, _ in made.done if task.stage == "gate"]
    assert {task.owner for task in gates} == {CLERK}
    assert {task.requests for task in gates} == {0}
    assert len(gates) == len(POOL) * PROMPTS // 8
    assert LANGUAGES


REPEATED: dict[str, dict[str, Any]] = {
    "another Arbiter": {"arbiter": {"engine": "fake", "options": {"fail": 0.2}}},
    "two Arbiters": {
        "arbiters": {
            "one": {"engine": "fake"},
            "two": {"engine": "rule", "options": {"function": "arbitrage.rules:json_valid"}},
        }
    },
    "by rank": {"combine": "rank"},
    "a threshold": {"gates": {"max_foreign_letters": 0, "max_repetition": 0.5}},
    "a gate less": {"gates": {"truncated": False}},
    "refusals": {"gates": {"refusal": True, "refusals": ["I refuse"]}},
    "pairs": {"selection": {"rule": "pairs"}},
    "top": {"selection": {"rule": "top_k", "k": 3}},
    "a quota": {"selection": {"quota": 5}},
    "a cap": {"selection": {"max_teacher_share": 0.5}},
    "least reward": {"selection": {"min_reward": 0.5, "min_margin": {"de": 0.1}}},
}


@pytest.mark.parametrize("router", ["all", "cascade", "adaptive"])
def test_judging_and_selecting_anew_asks_no_teacher_anything(
    tmp_path: Path, source: Path, router: str
) -> None:
    routing = {"all": {}, "cascade": {"routing": {"router": "cascade", "threshold": 0.6}}}
    first = {**routing, "adaptive": {"routing": adaptive()}}[router]
    run(config_of(tmp_path, source, LOSSY, **first))
    for name, blocks in REPEATED.items():
        made = run(config_of(tmp_path, source, LOSSY, **first, **blocks))
        assert not made.failed, name
        assert all(asked(made, teacher) == [] for teacher in LOSSY), name
        assert "generate" not in made.stages
        if "arbiter" not in name.lower():
            assert made.engine("arbiter").scored == []
        ids = set(made.frame("prompts")["prompt_id"])
        kept = set(made.frame("selected")["prompt_id"])
        assert kept | {row["prompt_id"] for row in made.rows("quarantine")} == ids
    again = run(config_of(tmp_path, source, LOSSY, **first))
    assert again.done == [], "what was there before is there still"
