"""The stages on a real store with engines in this process: what they make, and what they refuse.

No Ray: `harness.run` drives the same planner, board and stages that a run does.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import math
import random
import re
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from arbitrage.desk import Desk
from arbitrage.engines import build_generator, build_scorer
from arbitrage.errors import EngineError, ItemError, StageError, StaleInputError, StoreError
from arbitrage.identity import changes, nearest_identity
from arbitrage.plan import CLERK, READER, Task
from arbitrage.records import Completion, Prompt
from arbitrage.resolve import resolve
from arbitrage.stages import execute
from arbitrage.store import Published, Store
from harness import (
    Run,
    digests,
    fake,
    frame,
    lost_first,
    make_config,
    numbered_prompts,
    opened,
    planned,
    read_rows,
    run,
    work_once,
    write_prompts,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arbitrage.components import Teacher
    from arbitrage.config import RunConfig, Sampling

POOL: dict[str, Any] = {
    "generalist": fake(
        0.5,
        ["de", "sw"],
        sampling={"n": 2, "temperature": 0.8},
        options={"voice": "g", "fail": 0.1, "truncate": 0.2},
    ),
    "specialist": fake(
        {"sw": 0.9, "default": 0.4},
        ["sw", "ja"],
        sampling=[{"temperature": 0}, {"n": 2, "temperature": 0.9, "seed": 11}],
        options={"truncate": 0.5, "empty": 0.15, "fail": 0.4},
    ),
    "flaky": fake(0.7, ["de"], options={"fail": 0.5, "empty": 0.3, "voice": "f"}),
}
PROMPTS = 22


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(PROMPTS))


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Prompts, and the bytes of a run of them that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    path = write_prompts(folder / "prompts.jsonl", numbered_prompts(PROMPTS))
    return path, digests(run(pool_config(folder, path)).store.root)


def pool_config(folder: Path, source: Path, **blocks: Any) -> RunConfig:
    teachers = blocks.pop("teachers", POOL)
    arbiter = {"engine": "fake", "options": {"fail": 0.1}}
    return make_config(folder, teachers, source, **{"arbiter": arbiter, "seed": 3, **blocks})


def leftovers(made: Run | Store) -> list[str]:
    root = (made.store if isinstance(made, Run) else made).root
    return [path.name for path in root.rglob(".tmp-*")]


# An independent account of a run: the fake's public rule, one candidate at a time


@dataclass
class Expected:
    """One candidate, as made by the engine alone."""

    prompt: str
    teacher: str
    fingerprint: str
    sample: int
    seed: int
    sampling: int
    completion: Completion | None
    score: float | None

    @property
    def usable(self) -> bool:
        text = self.completion
        alright = text is not None and text.text.strip() and text.finish_reason == "stop"
        return bool(alright) and self.score is not None

    @property
    def lot(self) -> bytes:
        key = f"{self.prompt}/{self.fingerprint}/{self.sample}".encode()
        return hashlib.blake2b(key, digest_size=8).digest()


def id_of(messages: list[dict[str, str]]) -> str:
    turns = json.dumps([[m["role"], m["content"]] for m in messages], ensure_ascii=False)
    return hashlib.blake2b(turns.encode(), digest_size=16).hexdigest()


def seed_of(base: int, prompt: str, teacher: str, sample: int) -> int:
    key = f"{base}/{prompt}/{teacher}/{sample}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=4).digest(), "big") % 2**31


def answered(made: Run, teacher: Teacher, prompt: Prompt) -> list[Expected]:
    """All candidates of a teacher for a prompt, by its engine and the Arbiter's directly."""
    generator, scorer = build_generator(teacher), build_scorer(made.components.arbiter)
    found: list[Expected] = []
    for number, group in enumerate(teacher.config.sampling):
        base = made.config.seed if group.seed is None else group.seed
        places = range(len(found), len(found) + group.n)
        seeds = [seed_of(base, prompt.id, teacher.fingerprint, place) for place in places]
        completions: list[Completion | None] = [None] * group.n
        with contextlib.suppress(ItemError):
            completions = list(asyncio.run(generator.generate(prompt, group, seeds)))
        for place, seed, completion in zip(places, seeds, completions, strict=True):
            score = judged(scorer, prompt, completion)
            told = (prompt.id, teacher.name, teacher.fingerprint, place, seed, number)
            found.append(Expected(*told, completion, score))
    return found


def judged(scorer: Any, prompt: Prompt, completion: Completion | None) -> float | None:
    if completion is None:
        return None
    try:
        score: float = asyncio.run(scorer.score(prompt, completion.text))
    except ItemError:
        return None
    written = re.search(r"\((\d\.\d{4})\)$", completion.text)
    assert written is None or float(written[1]) == score
    return score


def account(made: Run, asked: list[dict[str, Any]]) -> dict[str, list[Expected]]:
    """Every candidate that the run should hold, by prompt id, in the order of the prompts."""
    found: dict[str, list[Expected]] = {}
    for row in asked:
        messages = row.get("messages") or [{"role": "user", "content": row["prompt"]}]
        prompt = Prompt(id_of(messages), row["language"], messages)
        teachers = [t for t in made.components.teachers if row["language"] in t.languages]
        found[prompt.id] = [made_ for t in teachers for made_ in answered(made, t, prompt)]
    return found


def assert_agrees(made: Run, asked: list[dict[str, Any]]) -> None:
    """Candidates, scores, product and quarantine are those of the independent account."""
    told = account(made, asked)
    flat = {(e.fingerprint, e.prompt, e.sample): e for per in told.values() for e in per}
    assert_candidates_agree(made, flat)
    selected = {row["prompt_id"]: row for row in made.rows("selected")}
    lost = [row["prompt_id"] for row in made.rows("quarantine")]
    assert sorted([*selected, *lost]) == sorted(told)
    for prompt, candidates in told.items():
        ranked = sorted((c for c in candidates if c.usable), key=lambda c: (-c.score, c.lot))  # type: ignore[operator]
        assert bool(ranked) == (prompt in selected)
        if ranked:
            row, best = selected[prompt], ranked[0]
            assert row["teacher"] == best.teacher
            assert row["completion"] == best.completion.text  # type: ignore[union-attr]
            assert (row["sample"], row["seed"], row["reward"]) == (
                best.sample,
                best.seed,
                best.score,
            )
            second = ranked[1].score if len(ranked) > 1 else None
            assert row["margin"] == (None if second is None else best.score - second)  # type: ignore[operator]
            assert len(row["candidates"]) == len(candidates)


def assert_candidates_agree(made: Run, flat: dict[tuple[str, str, int], Expected]) -> None:
    stored = 0
    for teacher in made.components.teachers:
        arbiter = made.planner.folder_of(made.components.arbiter)
        answers = read_rows(made.store.root, made.planner.folder_of(teacher) + "/")
        judgements = read_rows(made.store.root, made.planner.folder_of(teacher, arbiter) + "/")
        for answer, judgement in zip(answers, judgements, strict=True):
            stored += 1
            wanted = flat[teacher.fingerprint, answer["prompt_id"], answer["sample"]]
            assert (answer["seed"], answer["sampling"]) == (wanted.seed, wanted.sampling)
            assert (judgement["prompt_id"], judgement["sample"]) == (wanted.prompt, wanted.sample)
            if wanted.completion is None:
                assert answer["finish_reason"] == "error"
                assert answer["completion"] is None
                assert answer["error"]
            else:
                assert answer["completion"] == wanted.completion.text
            assert judgement["score"] == wanted.score
            assert bool(judgement["error"]) == (wanted.score is None)
    assert stored == len(flat)


# The whole chain


def test_a_run_is_what_the_engines_and_the_rule_say(tmp_path: Path, source: Path) -> None:
    made = run(pool_config(tmp_path, source))
    assert Counter(made.stages) == {
        "read": 3,
        "route": 3,
        "generate": 9,
        "gate": 9,
        "score": 9,
        "select": 3,
    }
    assert not made.failed
    assert leftovers(made) == []
    assert_agrees(made, numbered_prompts(PROMPTS))
    reasons = Counter(row["reason"] for row in made.rows("quarantine"))
    assert len(reasons) > 1, "the pool is to lose some prompts, or the test shows little"
    assert {row["teacher"] for row in made.rows("selected")} == set(POOL)


def test_neither_the_order_nor_the_number_of_tasks_at_once_changes_a_byte(
    tmp_path: Path, undisturbed: tuple[Path, dict[str, str]]
) -> None:
    source, wanted = undisturbed
    assert len(wanted) > 25
    for number, at_once in enumerate((1, 3, 7)):
        config = pool_config(tmp_path / str(number), source)
        made = run(config, at_once=at_once, order=random.Random(number))
        assert digests(made.store.root) == wanted


def test_doing_a_task_twice_gives_the_same_bytes(tmp_path: Path, source: Path) -> None:
    made = run(pool_config(tmp_path, source))
    wanted = digests(made.store.root)
    for task, report in made.done:
        again = asyncio.run(execute(task, made.desks[task.owner]))
        if task.stage != "read":
            assert again._replace(seconds=0) == report._replace(seconds=0)
    assert digests(made.store.root) == wanted
    assert leftovers(made) == []


@pytest.mark.parametrize("tasks", [1, 5, 12, 20])
def test_a_run_that_was_stopped_goes_on_to_the_same_bytes(
    tmp_path: Path, undisturbed: tuple[Path, dict[str, str]], tasks: int
) -> None:
    source, wanted = undisturbed
    config = pool_config(tmp_path, source)
    first = run(config, stop_after=tasks)
    second = run(config)
    assert digests(second.store.root) == wanted
    both = Counter(t for t, _ in (*first.done, *second.done) if t.stage != "read")
    assert set(both.values()) == {1}, "nothing that was finished is done again"


def test_running_again_does_nothing(tmp_path: Path, source: Path) -> None:
    config = pool_config(tmp_path, source)
    run(config)
    assert run(config).done == []


@dataclass(frozen=True)
class Unreliable(Store):
    """A disk that refuses every file once."""

    seen: set[str] = field(default_factory=set)

    def publish(self, relative: str, table: pa.Table, footer: dict[str, Any]) -> Published:
        if relative not in self.seen:
            self.seen.add(relative)
            raise StoreError(f"{relative}: the disk is full")
        return super().publish(relative, table, footer)


def test_a_disk_that_refuses_every_file_once_changes_nothing(
    tmp_path: Path, undisturbed: tuple[Path, dict[str, str]]
) -> None:
    source, wanted = undisturbed
    made = opened(pool_config(tmp_path, source))
    store = Unreliable(made.store.root)
    for desk in made.desks.values():
        desk.store = store
    while made.board.is_open():
        work_once(made)
    assert len(made.failed) >= 25
    assert not made.board.given_up
    assert digests(store.root) == wanted


def test_what_is_in_a_footer_says_where_a_file_comes_from(tmp_path: Path, source: Path) -> None:
    made = run(pool_config(tmp_path, source))
    tasks = [task for task, _ in made.done if task.stage != "read"]
    for task in tasks:
        note = made.store.footer(task.output)
        assert note["key"] == task.key
        if task.stage == "generate":
            table = made.store.read(task.output).table
            assert note["teacher"] == task.owner
            assert note["made_with"]["engine"] == "fake"
            assert note["errors"] == pc.count(table["error"]).as_py()
            assert note["completion_tokens"] == pc.sum(table["completion_tokens"]).as_py()
        if task.stage == "score":
            data = made.store.path(task.inputs[1]).read_bytes()
            assert note["candidates"] == hashlib.sha256(data).hexdigest()
        if task.stage == "select":
            assert note["rows"] + note["quarantined"] == note["prompts"]


# Generation


@dataclass
class Echo:
    """An engine written by hand: it keeps what it is asked, and how much at once."""

    max_in_flight: int = 3
    refuses: str = "\0"
    breaks: str = "\0"
    score_of: float = 0.5
    thinks: bool = False
    asked: list[tuple[Prompt, Sampling, list[int]]] = field(default_factory=list)
    judged: list[tuple[Prompt, str]] = field(default_factory=list)
    now: int = 0
    peak: int = 0

    async def generate(
        self, prompt: Prompt, sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        text = prompt.messages[-1]["content"]
        self.asked.append((prompt, sampling, list(seeds)))
        self.now += 1
        self.peak = max(self.peak, self.now)
        await asyncio.sleep(0.001)
        self.now -= 1
        if self.breaks in text:
            raise RuntimeError("the engine lost its head")
        if self.refuses in text:
            raise ItemError("this is too long")
        thought = f"how {text}?" if self.thinks else None
        return [Completion(f"{text} / {seed}", "stop", 5, 2, thought) for seed in seeds]

    async def score(self, prompt: Prompt, completion: str) -> float:
        self.judged.append((prompt, completion))
        if self.breaks in completion:
            raise RuntimeError("the Arbiter lost its head")
        if self.refuses in completion:
            raise ItemError("this cannot be judged")
        return self.score_of

    def provenance(self) -> dict[str, str]:
        return {"engine": "echo"}

    def close(self) -> None:
        """Nothing is held."""


def test_a_teacher_with_several_sampling_groups_numbers_its_samples_through(
    tmp_path: Path, source: Path
) -> None:
    groups = [{"temperature": 0}, {"n": 3, "temperature": 0.7}, {"n": 2, "temperature": 1.2}]
    teachers = {"t": fake(0.5, sampling=groups)}
    made = run(make_config(tmp_path, teachers, source, seed=9), {"t": Echo()})
    table = frame(made.store.root, "candidates/")
    assert len(table) == PROMPTS * 6
    for prompt, own in table.groupby("prompt_id", sort=False):
        assert own["sample"].tolist() == list(range(6))
        assert own["sampling"].tolist() == [0, 1, 1, 1, 2, 2]
        fingerprint = made.components.teachers[0].fingerprint
        assert own["seed"].tolist() == [seed_of(9, prompt, fingerprint, n) for n in range(6)]
        assert own["completion"].str.endswith(tuple(f"/ {s}" for s in own["seed"])).all()
    asked = made.engine("t").generated
    assert Counter(sampling.n for _, sampling, _ in asked) == dict.fromkeys((1, 2, 3), PROMPTS)
    assert all(len(seeds) == sampling.n for _, sampling, seeds in asked)
    assert table["seed"].is_unique


def test_a_group_with_its_own_seed_does_not_follow_the_runs(tmp_path: Path, source: Path) -> None:
    teachers = {"t": fake(0.5, sampling=[{"temperature": 0.5, "seed": 1}, {"temperature": 0.6}])}
    for seed in (0, 1):
        made = run(make_config(tmp_path / str(seed), teachers, source, seed=seed))
        fingerprint = made.components.teachers[0].fingerprint
        found = made.rows("candidates")
        assert len(found) == 2 * PROMPTS
        for row in found:
            base = 1 if row["sampling"] == 0 else seed
            assert row["seed"] == seed_of(base, row["prompt_id"], fingerprint, row["sample"])


def test_the_system_prompt_of_its_language_reaches_the_engine_and_nothing_else(
    tmp_path: Path,
) -> None:
    own = [{"role": "system", "content": "mine"}, {"role": "user", "content": "de with its own"}]
    rows = [
        {"prompt": "de plain", "language": "de"},
        {"messages": own, "language": "de"},
        {"prompt": "sw plain", "language": "sw"},
        {"prompt": "ja plain", "language": "ja"},
    ]
    source = write_prompts(tmp_path / "p.jsonl", rows)
    system = {"de": "Antworte auf Deutsch.", "ja": "", "default": "Be helpful."}
    engines = {"t": Echo(), "arbiter": Echo()}
    made = run(make_config(tmp_path, {"t": fake(0.5, system=system)}, source), engines)
    told = {p.messages[-1]["content"]: p.messages[:-1] for p, _, _ in engines["t"].asked}
    assert told == {
        "de plain": [{"role": "system", "content": "Antworte auf Deutsch."}],
        "de with its own": [{"role": "system", "content": "mine"}],
        "sw plain": [{"role": "system", "content": "Be helpful."}],
        "ja plain": [],
    }
    stored = {row["prompt_id"]: row["messages"] for row in made.rows("prompts")}
    for prompt, *_ in (*engines["t"].asked, *engines["arbiter"].judged):
        assert prompt.id == id_of(stored[prompt.id])
    assert all(prompt.messages == stored[prompt.id] for prompt, _ in engines["arbiter"].judged)
    assert {row["prompt_id"]: row["messages"][:-1] for row in made.rows("selected")} == stored


def test_the_engine_is_kept_as_full_as_it_asks_and_no_fuller(tmp_path: Path, source: Path) -> None:
    engine = Echo(max_in_flight=5)
    run(make_config(tmp_path, {"t": fake(0.5)}, source), {"t": engine})
    assert engine.peak == 5
    assert len(engine.asked) == PROMPTS


def test_a_refused_prompt_is_a_row_with_its_error_and_is_never_scored(
    tmp_path: Path, source: Path
) -> None:
    refusing, arbiter = Echo(refuses="number 4 "), Echo()
    teachers = {
        "t": fake(0.5, sampling={"n": 2, "temperature": 0.5}),
        "u": fake(0.6, ["sw", "de", "ja"]),
    }
    made = run(make_config(tmp_path, teachers, source), {"t": refusing, "arbiter": arbiter})
    folder = made.planner.folder_of(made.components.teachers[0])
    rows = frame(made.store.root, f"{folder}/")
    bad = rows[rows["error"].notna()]
    assert bad["error"].tolist() == ["this is too long"] * 2
    assert bad["completion"].isna().all()
    assert set(bad["finish_reason"]) == {"error"}
    assert bad["completion_tokens"].tolist() == [0, 0]
    judged_rows = frame(made.store.root, f"scores/{made.components.arbiter.label}/t-")
    mine = judged_rows[judged_rows["prompt_id"] == bad["prompt_id"].iloc[0]]
    assert mine["score"].isna().all()
    assert mine["error"].notna().all()
    facts = frame(made.store.root, f"gates/{made.components.gates.label}/t-")
    nothing = facts[facts["prompt_id"] == bad["prompt_id"].iloc[0]]
    assert nothing.drop(columns=["prompt_id", "sample"]).isna().all(axis=None)
    assert len(arbiter.judged) == len(judged_rows) + PROMPTS - 2
    reports = [report for task, report in made.done if task.stage == "generate"]
    assert sum(report.errors for report in reports) == 2
    assert len(made.frame("selected")) == PROMPTS, "the other teacher answers that prompt"


class HalfDone(Echo):
    """Cannot make the second of several completions."""

    async def generate(  # type: ignore[override]
        self, prompt: Prompt, sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion | ItemError]:
        first, _, *others = await super().generate(prompt, sampling, seeds)
        return [first, ItemError("filtered"), *others]


def test_one_sample_that_cannot_be_had_costs_no_other(tmp_path: Path, source: Path) -> None:
    teachers = {"t": fake(0.5, sampling={"n": 3, "temperature": 0.5})}
    made = run(make_config(tmp_path, teachers, source), {"t": HalfDone(), "arbiter": Echo()})
    rows = frame(made.store.root, f"{made.planner.folder_of(made.components.teachers[0])}/")
    assert len(rows) == 3 * PROMPTS
    bad = rows[rows["sample"] == 1]
    assert set(bad["error"]) == {"filtered"}
    assert bad["completion"].isna().all()
    assert rows[rows["sample"] != 1]["error"].isna().all()
    assert len(made.frame("selected")) == PROMPTS


def first_task(made: Run, stage: str) -> Task:
    """Drives a run to the first task of a stage, and takes it."""
    while True:
        for owner, role in made.board.roles.items():
            if role.ready and next(iter(role.ready)).stage == stage:
                return made.board.take(owner)
        work_once(made)


def test_an_engine_that_drops_a_completion_is_broken_and_nothing_is_published(
    tmp_path: Path, source: Path
) -> None:
    made = opened(make_config(tmp_path, {"t": fake(0.5, options={"lie": "drop"})}, source))
    task = first_task(made, "generate")
    with pytest.raises(EngineError, match="0 completions where 1 "):
        asyncio.run(execute(task, made.desks[task.owner]))
    assert not made.store.path(task.output).exists()
    assert leftovers(made) == []


def test_a_broken_teacher_is_set_aside_and_the_shards_are_finished_without_it(
    tmp_path: Path, source: Path
) -> None:
    teachers = {"liar": fake(0.5, options={"lie": "drop"}), "sound": fake(0.6)}
    made = run(make_config(tmp_path, teachers, source))
    liar = made.components.teachers[0]
    assert made.board.roles[liar.fingerprint].set_aside
    assert Counter(made.stages) == {
        "read": 3,
        "route": 3,
        "generate": 3,
        "gate": 3,
        "score": 3,
        "select": 3,
    }
    assert [task.stage for task in lost_first(made.board)] == ["generate"] * 3
    rows = made.frame("selected")
    assert set(rows.teacher) == {"sound"}
    assert sorted(rows.prompt_id) == sorted(made.frame("prompts").prompt_id)
    again = run(made.config)
    assert Counter(again.stages) == {}, "nothing but what failed is tried again"
    assert len(lost_first(again.board)) == 3
    engines = {"liar": build_generator(made.components.teachers[1])}
    healed = run(made.config, engines)
    assert Counter(healed.stages) == {"generate": 3, "gate": 3, "score": 3, "select": 3}
    assert not healed.board.given_up
    assert all(len(found) == 2 for found in healed.frame("selected").candidates)


@pytest.mark.parametrize("stage", ["generate", "score"])
def test_an_accident_in_an_engine_is_raised_as_it_is_and_nothing_is_published(
    tmp_path: Path, source: Path, stage: str
) -> None:
    engines = {"t": Echo(), "arbiter": Echo()}
    made = opened(make_config(tmp_path, {"t": fake(0.5)}, source), engines)
    task = first_task(made, stage)
    for engine in engines.values():
        engine.breaks = "number 5 "
    with pytest.raises(RuntimeError, match="lost its head"):
        asyncio.run(execute(task, made.desks[task.owner]))
    assert not made.store.path(task.output).exists()
    assert leftovers(made) == []
    assert all(engine.now == 0 for engine in engines.values()) or stage == "generate"


def test_routes_of_another_shard_are_refused(tmp_path: Path, source: Path) -> None:
    made = opened(make_config(tmp_path, {"t": fake(0.5)}, source))
    task = first_task(made, "generate")
    other = first_task(made, "generate")
    assert other.shard != task.shard
    wrong = Task("generate", task.owner, task.shard, (task.inputs[0], other.inputs[1]), task.output)
    with pytest.raises(StageError, match="does not route the prompts"):
        asyncio.run(execute(wrong, made.desks[task.owner]))
    assert not made.store.path(task.output).exists()


# Scoring


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_no_score_is_null_with_an_error(
    tmp_path: Path, source: Path, number: float
) -> None:
    engines = {"t": Echo(), "arbiter": Echo(score_of=number)}
    made = run(make_config(tmp_path, {"t": fake(0.5)}, source), engines)
    rows = frame(made.store.root, "scores/")
    assert rows["score"].isna().all()
    assert rows["error"].str.contains("no score").all()
    for path in made.store.listing().files:
        if path.startswith("scores/"):
            column = made.store.read(path).table["score"]
            assert column.null_count == len(column), "null, not nan: Parquet keeps them apart"
    assert made.frame("selected").empty
    assert made.frame("quarantine")["reason"].tolist() == ["errors"] * PROMPTS


def test_an_arbiter_that_refuses_one_candidate_leaves_the_others_alone(
    tmp_path: Path, source: Path
) -> None:
    engines = {"t": Echo(), "arbiter": Echo(refuses="number 3 ")}
    made = run(make_config(tmp_path, {"t": fake(0.5)}, source), engines)
    rows = frame(made.store.root, "scores/")
    assert rows["error"].notna().sum() == 1
    assert rows[rows["error"].notna()]["error"].tolist() == ["this cannot be judged"]
    assert (rows["score"].isna() == rows["error"].notna()).all()
    assert len(made.frame("selected")) == PROMPTS - 1


def test_the_fake_arbiters_lie_about_numbers_loses_every_prompt(
    tmp_path: Path, source: Path
) -> None:
    arbiter = {"engine": "fake", "options": {"lie": "nan"}}
    made = run(make_config(tmp_path, {"t": fake(0.5)}, source, arbiter=arbiter))
    assert made.frame("selected").empty
    assert len(made.frame("quarantine")) == PROMPTS


def test_a_score_of_nought_is_kept_as_nought(tmp_path: Path, source: Path) -> None:
    engines = {"t": Echo(), "arbiter": Echo(score_of=0.0)}
    made = run(make_config(tmp_path, {"t": fake(0.5)}, source), engines)
    assert (made.frame("selected")["reward"] == 0.0).all()
    assert len(made.frame("selected")) == PROMPTS


def test_reasoning_is_kept_and_never_judged_or_part_of_a_message(
    tmp_path: Path, source: Path
) -> None:
    teachers = {"t": fake(0.5), "u": fake(0.5, options={"voice": "u"})}
    arbiter = Echo()
    engines = {"t": Echo(refuses="number 4 ", thinks=True), "arbiter": arbiter}
    made = run(make_config(tmp_path, teachers, source), engines)
    asked = {row["prompt_id"]: row["messages"][-1]["content"] for row in made.rows("prompts")}
    for row in read_rows(made.store.root, "candidates/t-"):
        thought = None if row["error"] else f"how {asked[row['prompt_id']]}?"
        assert row["reasoning"] == thought
        assert "how" not in (row["completion"] or "")
    assert all(row["reasoning"] is None for row in read_rows(made.store.root, "candidates/u-"))
    assert not any("how" in text for _, text in arbiter.judged)
    selected = made.rows("selected")
    assert {row["teacher"] for row in selected} == {"t", "u"}
    for row in selected:
        mine = row["teacher"] == "t"
        assert row["reasoning"] == (f"how {asked[row['prompt_id']]}?" if mine else None)
        answer = {"role": "assistant", "content": row["completion"]}
        assert row["messages"] == [{"role": "user", "content": asked[row["prompt_id"]]}, answer]


def rewrite(path: Path, table: pa.Table, **changes: Any) -> None:
    note = json.loads(table.schema.metadata[b"arbitrage"]) | changes
    metadata = {b"arbitrage": json.dumps(note).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), path)


def as_an_earlier_version_left_it(made: Run) -> None:
    """Files without the column, products with that version's keys, gates beside the scores."""
    root = made.store.root
    shutil.rmtree(root / "gates")
    for path in root.glob("candidates/*/*.parquet"):
        rewrite(path, pq.read_table(path).drop_columns(["reasoning"]))
    for path in root.glob("scores/*/*/*.parquet"):
        data = (root / "candidates" / path.parent.name / path.name).read_bytes()
        table = pq.read_table(path)
        beside = pa.array([[]] * table.num_rows, pa.list_(pa.string()))
        table = table.append_column("gates", beside)
        rewrite(path, table, candidates=hashlib.sha256(data).hexdigest())
    for path in root.glob(f"{made.planner.folder_of(made.components.selector)}/*.parquet"):
        rewrite(path, pq.read_table(path).drop_columns(["reasoning"]), key="earlier")


def test_a_run_of_an_earlier_version_goes_on_and_no_question_is_asked_again(
    tmp_path: Path, source: Path
) -> None:
    def config(languages: list[str]) -> RunConfig:
        return make_config(tmp_path, {"t": fake(0.5, languages), "u": fake(0.4)}, source)

    def engines() -> dict[str, Any]:
        return {"t": Echo(thinks=True), "arbiter": Echo()}

    made = run(config(["sw"]), engines())
    before = made.frame("selected")
    assert before["reasoning"].notna().any()
    as_an_earlier_version_left_it(made)
    made = run(config(["sw"]), engines())
    assert set(made.stages) == {"gate", "select"}
    assert made.frame("selected").equals(before.assign(reasoning=None))
    wide = run(config(["sw", "ja"]), engines())
    asked = wide.engine("t").generated
    assert {prompt.language for prompt, _, _ in asked} == {"ja"}
    selected = wide.frame("selected")
    assert set(selected[selected["reasoning"].notna()]["language"]) == {"ja"}


# What is asked again, and what is not


def assert_differs_only_in_what_was_spent(fresh: Run, wide: Run, path: str) -> None:
    """The same rows; `candidates` is the digest of a file that may differ in what was spent."""
    one, other = fresh.store.read(path), wide.store.read(path)
    assert one.table.equals(other.table)
    for name in ("spent", "candidates"):
        assert (name in one.footer) == (name in other.footer)
        one.footer.pop(name, None)
        other.footer.pop(name, None)
    assert one.footer == other.footer


def test_widening_a_teachers_coverage_asks_only_the_new_prompts(
    tmp_path: Path, source: Path
) -> None:
    def config(folder: str, languages: list[str]) -> RunConfig:
        expert = fake(0.9, languages, options={"voice": "e", "fail": 0.2})
        teachers = {"base": fake(0.5), "expert": expert}
        return make_config(tmp_path / folder, teachers, source)

    narrow = run(config("run", ["sw"]))
    before = frame(narrow.store.root, "candidates/expert")
    wide = run(config("run", ["sw", "ja"]))
    asked = [prompt for prompt, _, _ in wide.engine("expert").generated]
    assert {prompt.language for prompt in asked} == {"ja"}
    assert len(asked) == sum(row["language"] == "ja" for row in numbered_prompts(PROMPTS))
    assert wide.engine("base").generated == []
    fresh = run(config("fresh", ["sw", "ja"]))
    wanted = digests(fresh.store.root)
    found = digests(wide.store.root)
    paid = [p for p in wanted if p.startswith(("candidates/expert", "gates/", "scores/"))]
    assert {p: found.get(p) for p in wanted if p not in paid} == {
        p: digest for p, digest in wanted.items() if p not in paid
    }, "as if it had always been so"
    for path in paid:
        assert_differs_only_in_what_was_spent(fresh, wide, path)
    after = frame(fresh.store.root, "candidates/expert").set_index(["prompt_id", "sample"])
    old = before.set_index(["prompt_id", "sample"])
    assert after.loc[old.index].equals(old)


def test_stored_answers_that_lack_a_sample_are_refused(tmp_path: Path, source: Path) -> None:
    """Ids in = ids out holds for what is kept as for what is made."""

    def config(languages: list[str]) -> RunConfig:
        expert = fake(0.9, languages, sampling={"n": 2, "temperature": 0.5})
        return make_config(tmp_path, {"base": fake(0.5), "expert": expert}, source)

    run(config(["sw"]))
    made = opened(config(["sw", "ja"]))
    expert = made.components.teachers[1]
    (path, *_) = sorted(made.store.files_in(made.planner.folder_of(expert)))
    content = made.store.read(path)
    made.store.publish(path, content.table.slice(1), content.footer)
    task = first_task(made, "generate")
    while task.owner != expert.fingerprint:
        task = first_task(made, "generate")
    with pytest.raises(StageError):
        asyncio.run(execute(task, made.desks[task.owner]))
    assert not made.store.path(task.output).exists()


def test_what_was_stored_before_does_not_count_as_made_now(tmp_path: Path, source: Path) -> None:
    def config(languages: list[str]) -> RunConfig:
        return make_config(tmp_path, {"base": fake(0.5), "expert": fake(0.9, languages)}, source)

    run(config(["sw"]))
    wide = run(config(["sw", "ja"]))
    role = wide.board.roles[wide.components.teachers[1].fingerprint]
    new = len(wide.engine("expert").generated)
    japanese = {row["prompt_id"] for row in wide.rows("prompts") if row["language"] == "ja"}
    tokens = {
        row["prompt_id"]: row["completion_tokens"]
        for row in read_rows(wide.store.root, "candidates/expert")
        if row["prompt_id"] in japanese
    }
    assert (role.rows, role.completion_tokens) == (new, sum(tokens.values()))


def test_narrowing_a_teachers_coverage_asks_nothing(tmp_path: Path, source: Path) -> None:
    def config(languages: list[str]) -> RunConfig:
        return make_config(tmp_path, {"base": fake(0.5), "expert": fake(0.9, languages)}, source)

    run(config(["sw", "ja"]))
    narrow = run(config(["sw"]))
    assert narrow.engine("expert").generated == []
    assert narrow.engine("base").generated == []
    winners = narrow.frame("selected")
    assert set(winners[winners["teacher"] == "expert"]["language"]) == {"sw"}


def test_appended_prompts_are_the_only_ones_asked(tmp_path: Path, source: Path) -> None:
    config = pool_config(tmp_path, source)
    first = run(config)
    kept = digests(first.store.root)
    rows = numbered_prompts(PROMPTS + 5)
    write_prompts(source, rows)
    second = run(config)
    assert Counter(second.stages) == {
        "read": 1,
        "route": 1,
        "generate": 3,
        "gate": 3,
        "score": 3,
        "select": 1,
    }
    new = {id_of([{"role": "user", "content": row["prompt"]}]) for row in rows[PROMPTS:]}
    assert {p.id for name in POOL for p, _, _ in second.engine(name).generated} == new
    found = digests(second.store.root)
    assert {path: found[path] for path in kept} == kept
    assert_agrees(second, rows)


def replace_candidates(made: Run, path: str) -> None:
    """Other answers in the same file, as an engine of another version would give them."""
    content = made.store.read(path)
    place = content.table.schema.get_field_index("completion")
    other = pc.binary_join_element_wise("other", content.table["completion"], " ")
    made.store.publish(path, content.table.set_column(place, "completion", other), content.footer)


def test_scores_of_other_candidates_are_refused_by_name(tmp_path: Path, source: Path) -> None:
    made = run(pool_config(tmp_path, source))
    task = next(task for task, _ in made.done if task.stage == "select")
    answers, facts, scores = task.inputs[1:4]
    before = made.store.path(task.output).read_bytes()
    replace_candidates(made, answers)
    with pytest.raises(StaleInputError) as caught:
        asyncio.run(execute(task, made.desks[CLERK]))
    assert (caught.value.scores, caught.value.candidates) == (facts, answers)
    assert answers in str(caught.value)
    assert facts in str(caught.value)
    asyncio.run(execute(gate_task(made, facts), made.desks[CLERK]))
    with pytest.raises(StaleInputError, match=scores):
        asyncio.run(execute(task, made.desks[CLERK]))
    assert made.store.path(task.output).read_bytes() == before


def gate_task(made: Run, output: str) -> Task:
    return next(task for task, _ in made.done if task.output == output)


def test_stale_scores_are_made_again_and_then_the_product(tmp_path: Path, source: Path) -> None:
    config = pool_config(tmp_path, source)
    made = run(config)
    task = next(task for task, _ in made.done if task.stage == "select" and task.shard == 1)
    replace_candidates(made, task.inputs[1])
    made.store.path(task.output).unlink()
    again = run(config)
    assert [type(error) for _, error in again.failed] == [StaleInputError] * 2
    assert [t.output for t, _ in again.done] == [*task.inputs[2:4], task.output]
    assert not again.board.given_up
    product = again.store.read(task.output).table.to_pylist()
    assert product
    for row in product:
        assert row["completion"].startswith("other") == (row["teacher"] == teacher_of(made, task))


def teacher_of(made: Run, task: Task) -> str:
    owner = made.store.footer(task.inputs[1])["teacher"]
    return made.components.teacher(owner).name


def test_a_shard_whose_scores_are_all_stale_is_mended_in_one_run(
    tmp_path: Path, source: Path
) -> None:
    teachers = {f"t{n}": fake(0.5, options={"voice": str(n)}) for n in range(4)}
    config = make_config(tmp_path, teachers, source)
    made = run(config)
    task = next(task for task, _ in made.done if task.stage == "select")
    for answers in task.inputs[1::3]:
        replace_candidates(made, answers)
    made.store.path(task.output).unlink()
    again = run(config)
    assert again.board.given_up == {}
    assert Counter(again.stages) == {"gate": 4, "score": 4, "select": 1}
    assert planned(opened(config)) == []


# What a change of the config plans


def kinds(tasks: list[Task]) -> Counter[tuple[str, str]]:
    return Counter((task.stage, task.owner) for task in tasks)


def test_adding_a_teacher_plans_its_own_tasks_and_the_product(tmp_path: Path, source: Path) -> None:
    run(pool_config(tmp_path, source))
    wider = {**POOL, "new": fake(0.8, ["sw"], options={"voice": "new"})}
    made = opened(pool_config(tmp_path, source, teachers=wider))
    new, arbiter = made.components.teachers[-1], made.components.arbiter
    tasks = planned(made)
    assert kinds(tasks) == {
        ("route", CLERK): 3,
        ("generate", new.fingerprint): 3,
        ("gate", CLERK): 3,
        ("score", arbiter.fingerprint): 3,
        ("select", CLERK): 3,
    }
    assert all(
        f"/{new.label}/" in task.output for task in tasks if task.stage in ("generate", "score")
    )
    done = run(made.config)
    assert all(done.engine(name).generated == [] for name in POOL)
    assert_agrees(done, numbered_prompts(PROMPTS))


def test_every_row_of_the_product_names_the_run_that_it_belongs_to(
    tmp_path: Path, source: Path
) -> None:
    """A new teacher makes another run of it, even where it is asked nothing."""
    first = run(pool_config(tmp_path, source))
    silent = {**POOL, "silent": fake(0.8, ["is"], options={"voice": "s"})}
    second = run(pool_config(tmp_path, source, teachers=silent))
    assert Counter(second.stages) == {"route": 3, "select": 3}
    assert {row["run_fingerprint"] for row in second.rows("selected")} == {
        second.components.fingerprint
    }
    assert first.components.fingerprint != second.components.fingerprint


def test_taking_a_teacher_away_plans_no_engine(tmp_path: Path, source: Path) -> None:
    run(pool_config(tmp_path, source))
    fewer = {name: block for name, block in POOL.items() if name != "flaky"}
    made = opened(pool_config(tmp_path, source, teachers=fewer))
    assert {task.stage for task in planned(made)} == {"route", "select"}
    assert_agrees_after_removal(run(made.config))


def assert_agrees_after_removal(made: Run) -> None:
    names = {teacher.name for teacher in made.components.teachers}
    for row in made.rows("selected"):
        assert {candidate["teacher"] for candidate in row["candidates"]} <= names


def test_another_arbiter_plans_scores_and_product_and_no_generation(
    tmp_path: Path, source: Path
) -> None:
    run(pool_config(tmp_path, source))
    made = opened(pool_config(tmp_path, source, arbiter={"engine": "fake"}))
    assert kinds(planned(made)) == {
        ("score", made.components.arbiter.fingerprint): 9,
        ("select", CLERK): 3,
    }
    done = run(made.config)
    assert all(done.engine(name).generated == [] for name in POOL)
    assert_agrees(done, numbered_prompts(PROMPTS))


def test_another_gate_plans_the_product_alone(tmp_path: Path, source: Path) -> None:
    run(pool_config(tmp_path, source))
    made = opened(pool_config(tmp_path, source, gates={"truncated": False}))
    assert kinds(planned(made)) == {("select", CLERK): 3}
    done = run(made.config)
    assert (done.frame("selected")["finish_reason"] == "length").any()


def test_another_sampling_plans_that_teacher_alone(tmp_path: Path, source: Path) -> None:
    run(pool_config(tmp_path, source))
    changed = {**POOL, "generalist": {**POOL["generalist"], "sampling": {"temperature": 0.1}}}
    made = opened(pool_config(tmp_path, source, teachers=changed))
    generating = {task.owner for task in planned(made) if task.stage == "generate"}
    assert generating == {made.components.teachers[0].fingerprint}


def with_options(name: str, **more: Any) -> dict[str, Any]:
    block = POOL[name]
    return {**POOL, name: {**block, **more}}


@pytest.mark.parametrize(
    "blocks",
    [
        {"teachers": with_options("generalist", resources={"replicas": 7, "cpus": 2})},
        {"teachers": {("renamed" if n == "flaky" else n): b for n, b in POOL.items()}},
        {"teachers": dict(reversed(POOL.items()))},
        {"output": {"compression": "snappy"}},
        {"cluster": {"cpus": 2, "attempts": 9}},
        {
            "arbiter": {
                "engine": "fake",
                "name": "judge-judy",
                "options": {"fail": 0.1, "delay_s": 0.001},
                "resources": {"batch_size": 3},
            }
        },
    ],
    ids=["resources", "a teacher's name", "order", "compression", "cluster", "the arbiter's name"],
)
def test_what_changes_no_output_plans_nothing(
    tmp_path: Path, source: Path, blocks: dict[str, Any]
) -> None:
    run(pool_config(tmp_path, source))
    again = opened(pool_config(tmp_path, source, **blocks))
    assert planned(again) == []
    assert not again.board.is_open()


def test_a_renamed_folder_is_found_and_written_on(tmp_path: Path, source: Path) -> None:
    config = pool_config(tmp_path, source)
    made = run(config)
    teacher, arbiter = made.components.teachers[0], made.components.arbiter
    root = made.store.root
    for parent in (f"scores/{arbiter.label}", "candidates"):
        folder = root / parent / teacher.label
        folder.rename(folder.with_name(f"an-old-name-{teacher.fingerprint}"))
    scores = root / "scores" / arbiter.label
    scores.rename(scores.with_name(f"first-try-{arbiter.fingerprint}"))
    assert planned(opened(config)) == []
    write_prompts(source, numbered_prompts(PROMPTS + 3))
    run(config)
    assert not (root / "candidates" / teacher.label).exists()
    assert not (root / "scores" / arbiter.label).exists()
    assert (
        len(list((root / "candidates" / f"an-old-name-{teacher.fingerprint}").glob("*.parquet")))
        == 4
    )


# Why something is made anew


def test_changes_name_the_field_and_both_values(tmp_path: Path) -> None:
    def identity(**more: Any) -> dict[str, Any]:
        block = fake(0.5, sampling={"n": 2, "temperature": 0.8}, options={"voice": "g"})
        config = make_config(tmp_path, {"t": {**block, **more}})
        return resolve(config).teachers[0].identity

    old = identity()
    warmer = identity(sampling={"n": 2, "temperature": 0.9})
    assert changes(old, warmer) == ["sampling.0.temperature: 0.8 -> 0.9"]
    assert changes(old, identity(system="Be brief.")) == ["system: default -> 'Be brief.'"]
    skilled = identity(options={"voice": "g", "skill": 0.9})
    assert changes(old, skilled) == ["options.skill: default -> 0.9"]
    assert set(changes(old, identity(revision="abc", model="org/m"))) == {
        "revision: default -> 'abc'",
        "model: default -> {'name': 'org/m'}",
    }
    assert changes(old, old) == []
    more_groups = identity(sampling=[{"n": 2, "temperature": 0.8}, {"temperature": 0}])
    assert len(changes(old, more_groups)) == 1
    assert changes(old, more_groups)[0].startswith("sampling: ")
    assert nearest_identity(warmer, [skilled, old]) == changes(old, warmer)
    assert nearest_identity(old, []) == []


# Reading


def reader_task(number: int) -> Task:
    return Task("read", READER, number, (), f"prompts/{number:05d}")


def test_a_shard_whose_report_was_lost_is_found_and_not_read_again(
    tmp_path: Path, source: Path
) -> None:
    config = make_config(tmp_path, {"t": fake(0.5)}, source)
    dead = opened(config).desks[READER]
    lost = [asyncio.run(execute(reader_task(n), dead)).facts["shard"] for n in range(2)]
    made = opened(config)
    assert [shard.path for shard in lost] == sorted(made.planner.listing.files)
    reader = made.desks[READER]
    found = []
    while True:
        shard = asyncio.run(execute(reader_task(1 + len(found)), reader)).facts["shard"]
        if shard is None:
            break
        found.append(shard)
    assert found[0] == lost[1], "the shard that was published but not told of"
    assert [shard.number for shard in found] == [1, 2]
    assert len(frame(made.store.root, "prompts/")) == PROMPTS
    assert frame(made.store.root, "prompts/")["prompt_id"].is_unique


def test_a_report_that_is_lost_in_the_middle_of_a_run_costs_nothing(
    tmp_path: Path, source: Path
) -> None:
    """The reader publishes and dies; the board hands the same task to a new reader."""
    wanted = digests(run(make_config(tmp_path / "plain", {"t": fake(0.5)}, source)).store.root)
    made = opened(make_config(tmp_path / "died", {"t": fake(0.5)}, source))
    for _ in range(3):
        task = made.board.take(READER)
        desk = made.desks[READER]
        asyncio.run(execute(task, desk))
        assert made.board.failed(task, "the reader died")
        made.desks[READER] = Desk(
            desk.store, desk.config, desk.components, prompt_set=desk.prompt_set
        )
        again = made.board.take(READER)
        assert again == task
        made.board.finished(again, asyncio.run(execute(again, made.desks[READER])))
    while made.board.is_open():
        work_once(made)
    assert digests(made.store.root) == wanted


def test_the_reader_without_a_prompt_set_says_so(tmp_path: Path, source: Path) -> None:
    made = opened(make_config(tmp_path, {"t": fake(0.5)}, source))
    with pytest.raises(StageError, match="needs the prompt set"):
        asyncio.run(execute(reader_task(0), made.desks[CLERK]))
