"""The sample of a run, read again from its Parquet files by plain Python; and of which shards."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbitrage import closeup
from arbitrage.closeup import ENOUGH, Made, made, spread
from arbitrage.lots import WHY
from arbitrage.plan import ShardState, read_state
from arbitrage.records import Completion
from arbitrage.samples import LEAST_CHARS, Sampled, cut_to, json_bytes, samples_of
from arbitrage.variety import diversity_of_run
from harness import Run, fake, make_config, numbered_prompts, opened, run, work_once, write_prompts

LONG_LINE = "\u6c34" * 100_000
HOSTILE = "</script><b>\x1b[31m\u202e & \u2028 <!-- \x00 (0.9999)"


class Hostile:
    """Writes what no page expects, with reasoning; now and then nothing, too much, or half."""

    max_in_flight = 8

    def provenance(self) -> dict[str, str]:
        return {"engine": "hostile"}

    async def generate(self, prompt: Any, sampling: Any, seeds: Any) -> list[Completion]:
        number = int(prompt.messages[-1]["content"].split()[2])
        text = {0: HOSTILE, 1: LONG_LINE, 2: ""}.get(number % 5, f"answer {number} " * 40)
        reason = "length" if number % 7 == 3 else "stop"
        return [
            Completion(f"{text}{n or ''}", reason, 3, 5, "so " * 1000) for n, _ in enumerate(seeds)
        ]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three languages in turn; one teacher fails, one is a specialist, one is hostile; some prompts
    have no usable answer."""
    folder = tmp_path_factory.mktemp("samples")
    rows = numbered_prompts(96)
    for row in rows[::9]:
        row["prompt"] += " and then some more" * 200
    teachers = {
        "failing": fake(0.4, ["ja"], options={"fail": 0.5}),
        "specialist": fake(0.6, ["de"], sampling=[{"n": 2}], options={"truncate": 0.2}),
        "wild": fake(0.5, ["de", "ja"]),
        "nobody": fake(0.5, ["sw"], options={"fail": 0.5}),
    }
    source = write_prompts(folder / "prompts.jsonl", rows)
    config = make_config(folder, teachers, source, selection={"rule": "top_k", "k": 2})
    return run(config, {"wild": Hostile()})


def sampled(one: Run, **bounds: Any) -> Sampled:
    planner, shards = read_state(one.components, one.store)
    return samples_of(one.store, one.components, planner, shards, one.config, **bounds)


def files_of(one: Run, kind: str) -> dict[tuple[str, str, int], dict[str, Any]]:
    """Rows of candidates or scores by teacher, prompt and sample."""
    return {
        (path.parent.name.rpartition("-")[0], row["prompt_id"], row["sample"]): row
        for path in Path(one.store.root).rglob(f"{kind}/**/*.parquet")
        for row in pq.read_table(path).to_pylist()
    }


def test_every_sample_is_what_the_files_say(finished: Run) -> None:
    prompts = {row["prompt_id"]: row for row in finished.rows("prompts")}
    product = {row["prompt_id"]: row for row in finished.rows("selected") if row["rank"] == 1}
    second = {row["prompt_id"]: row for row in finished.rows("selected") if row["rank"] == 2}
    lost = {row["prompt_id"]: row["reason"] for row in finished.rows("quarantine")}
    answers, scores = files_of(finished, "candidates"), files_of(finished, "scores")
    found = sampled(finished)
    assert found.extent.is_whole
    assert {one["prompt_id"] for one in found.samples} == prompts.keys()
    assert lost
    assert second
    for one in found.samples:
        key = one["prompt_id"]
        assert one["user_id"] == prompts[key]["user_id"]
        assert one["language"] == prompts[key]["language"]
        assert one["family"] == finished.components.families[one["language"]]
        turns = [(turn["role"], turn["content"]) for turn in prompts[key]["messages"]]
        assert [(t["role"], t["content"]) for t in one["messages"]] == [
            (role, cut_to(text, 1500)) for role, text in turns
        ]
        assert one["quarantined"] == lost.get(key)
        row = product.get(key)
        assert (row is None) == (one["quarantined"] is not None) == (one["chosen"] is None)
        if row:
            assert one["chosen"] == {"teacher": row["teacher"], "sample": row["sample"]}
            assert (one["reward"], one["margin"]) == (row["reward"], row["margin"])
            ranks = {c["rank"]: (c["teacher"], c["sample"]) for c in one["candidates"]}
            other = second.get(key)
            assert ranks.get(2) == (other and (other["teacher"], other["sample"]))
            for told, mine in zip(row["candidates"], one["candidates"], strict=True):
                for name in ("teacher", "sample", "reward", "gates", "error"):
                    assert told[name] == mine[name]
        for told in one["candidates"]:
            mine = answers.pop((told["teacher"], key, told["sample"]))
            score = scores[told["teacher"], key, told["sample"]]["score"]
            assert told["scores"] == {"arbiter": score}
            for name in ("finish_reason", "completion_tokens"):
                assert told[name] == mine[name]
            for name in ("completion", "reasoning"):
                text = mine[name]
                assert told[name] == (None if text is None else cut_to(text, 1500))
    assert answers == {}


def test_hostile_text_is_kept_as_data(finished: Run) -> None:
    told = json.loads(json.dumps(sampled(finished).as_dict(), allow_nan=False))
    texts = [
        one["completion"]
        for sample in told["samples"]
        for one in sample["candidates"]
        if one["completion"]
    ]
    assert {"text": HOSTILE, "left_out": 0} in texts
    assert {"text": LONG_LINE[:1500], "left_out": 98_500} in texts
    assert {"text": "", "left_out": 0} in texts


@pytest.mark.parametrize("prompts", [0, 1, 10, 40])
def test_at_most_so_many_prompts_evenly_over_languages(finished: Run, prompts: int) -> None:
    found = sampled(finished, prompts=prompts).samples
    assert prompts - 6 <= len(found) <= prompts
    counts = [sum(one["language"] == code for one in found) for code in ("de", "sw", "ja")]
    assert max(counts) - min(counts) <= 3
    if prompts == 40:
        assert {one["why"] for one in found} == set(WHY)
    for one in found:
        if one["why"] == "lost":
            assert one["quarantined"]
        if one["why"] == "gated":
            assert any(candidate["gates"] for candidate in one["candidates"])


@pytest.mark.parametrize("max_bytes", [400_000, 60_000, 20_000, 5_000, 500])
def test_it_never_grows_too_large(finished: Run, max_bytes: int) -> None:
    found = sampled(finished, max_bytes=max_bytes)
    assert json_bytes(found.as_dict()) <= max_bytes
    assert found.asked_chars == 1500
    assert found.samples or max_bytes < 5_000
    assert LEAST_CHARS <= found.chars <= 1500
    whole = {one["prompt_id"]: one for one in sampled(finished).samples}
    longest = 0
    for one in found.samples:
        for told, mine in zip(one["messages"], whole[one["prompt_id"]]["messages"], strict=True):
            text = mine["content"]["text"]
            left = mine["content"]["left_out"]
            assert told["content"] == cut_to(text, found.chars, left)
            longest = max(longest, len(told["content"]["text"]))
    assert longest <= found.chars


def test_longest_texts_are_cut_first(finished: Run) -> None:
    """Whoever is shorter than the length that the longest are cut to stays whole."""
    room = json_bytes(sampled(finished, prompts=30).as_dict()) * 2 // 3
    found = sampled(finished, prompts=30, max_bytes=room)
    cuts = [c["completion"] for one in found.samples for c in one["candidates"] if c["completion"]]
    assert found.chars < 1500
    assert any(cut["left_out"] for cut in cuts)
    assert all(len(cut["text"]) == found.chars for cut in cuts if cut["left_out"])
    assert any(len(cut["text"]) > 0 and not cut["left_out"] for cut in cuts)


def test_the_size_is_that_of_a_page() -> None:
    told = {"text": "<>&\u2028\u2029\u00e4\ud800\n\x00", "n": [1.5, None]}
    plain = json.dumps(told, ensure_ascii=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        plain = plain.replace(letter, f"\\u{ord(letter):04x}")
    assert json_bytes(told) == len(plain.encode("utf-8", "surrogatepass"))


def test_the_same_run_gives_the_same_sample(finished: Run) -> None:
    assert sampled(finished, prompts=20) == sampled(finished, prompts=20)


def test_a_part_of_the_run_says_so(finished: Run) -> None:
    found = sampled(finished, most_shards=4)
    assert found.extent.as_dict() == {
        "shards": 4,
        "prompts": 32,
        "of_shards": 12,
        "of_prompts": 96,
        "unseen": [],
    }
    assert not found.extent.is_whole
    prompts = {row["prompt_id"]: row for row in finished.rows("prompts")}
    lines = {prompts[one["prompt_id"]]["line"] for one in found.samples}
    assert len({(line - 1) // 8 for line in lines}) == 4


def test_a_run_that_is_not_done_shows_what_there_is(tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(24))
    config = make_config(tmp_path, {"a": fake(0.5)}, source)
    part = opened(config)
    assert sampled(part).samples == []
    while "select" not in part.stages:
        work_once(part)
    found = sampled(part)
    shards = len(part.frame("selected")) // 8
    assert 0 < shards < 3
    assert (found.extent.shards, len(found.samples)) == (shards, shards * 8)


def two_teachers(folder: Path, **more: Any) -> Any:
    source = write_prompts(folder / "prompts.jsonl", numbered_prompts(24))
    return make_config(folder, {"a": fake(0.5), **more}, source)


def test_an_older_product_is_shown_as_it_was_made(tmp_path: Path) -> None:
    """A teacher that was added since has answered one shard, and the product knows none of it."""
    before = sampled(run(two_teachers(tmp_path)))
    later = run(two_teachers(tmp_path, b=fake(0.9, options={"voice": "b"})), stop_after=4)
    assert any(task.stage == "generate" for task, _ in later.done)
    found = sampled(later)
    assert found.samples == before.samples
    assert {c["teacher"] for one in found.samples for c in one["candidates"]} == {"a"}


def test_a_product_of_a_teacher_that_is_gone_is_passed_over(tmp_path: Path) -> None:
    run(two_teachers(tmp_path, b=fake(0.9, options={"voice": "b"})))
    alone = opened(two_teachers(tmp_path))
    assert sampled(alone).extent.shards == 0


def test_what_is_about_earlier_candidates_is_passed_over(tmp_path: Path) -> None:
    done = run(two_teachers(tmp_path))
    planner, shards = read_state(done.components, done.store)
    path = planner.lanes(shards[0])[0].gate.output
    content = done.store.read(path)
    done.store.publish(path, content.table, {**content.footer, "candidates": "another"})
    found = sampled(done)
    assert len(found.samples) == 16
    assert (found.extent.shards, found.extent.prompts, found.extent.of_shards) == (2, 16, 3)
    product = {row["prompt_id"] for row in done.rows("prompts")[8:]}
    assert {one["prompt_id"] for one in found.samples} == product


def test_several_arbiters_each_have_their_score(tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(9))
    arbiters = {"one": {"engine": "fake"}, "two": {"engine": "fake", "options": {"fail": 0.3}}}
    pool = {"a": fake(0.5), "b": fake(0.5, options={"voice": "b"})}
    done = run(make_config(tmp_path, pool, source, arbiters=arbiters))
    told = [c for one in sampled(done).samples for c in one["candidates"]]
    assert {tuple(c["scores"]) for c in told} == {("one", "two")}
    assert any(c["scores"]["two"] is None and c["error"] and c["reward"] is None for c in told)
    assert any(c["reward"] != c["scores"]["one"] for c in told if c["reward"] is not None)


def test_who_was_asked_again_or_fused_is_shown_too(tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(24))
    pool = {"a": fake(0.5, options={"truncate": 0.5}), "b": fake(0.4, options={"empty": 0.6})}
    rounds = {"retry": {}, "fuser": {"engine": "fake", "options": {"skill": 0.6, "voice": "f"}}}
    done = run(make_config(tmp_path, pool, source, **rounds))
    found = sampled(done)
    product = {row["prompt_id"]: row for row in done.rows("selected")}
    assert len(found.samples) == 24
    told = {c["teacher"] for row in product.values() for c in row["candidates"]}
    assert len(told) > 3
    for one in found.samples:
        row = product.get(one["prompt_id"])
        if row:
            names = [(c["teacher"], c["sample"], c["reward"]) for c in row["candidates"]]
            assert [(c["teacher"], c["sample"], c["reward"]) for c in one["candidates"]] == names
    planner, shards = read_state(done.components, done.store)
    parts = (done.store, done.components, planner, shards, done.config)
    [*rows] = diversity_of_run(*parts).rows
    assert {name for row in rows for name in row.won} == {"a", "b", "fuser"}
    assert sum(row.prompts for row in rows) == len(product)


def shards_of(languages: list[dict[str, int]], rows: int = 100) -> list[Made]:
    return [
        Made(ShardState(n, f"prompts/{n}", rows), f"selected/{n}", (), told)
        for n, told in enumerate(languages)
    ]


COUNTS = st.dictionaries(st.sampled_from(["de", "sw", "ja", "vi", "th"]), st.integers(1, 100))


@given(st.lists(COUNTS, max_size=40), st.integers(1, 30), st.integers(0, 4000))
def test_shards_are_bounded_and_in_order(
    languages: list[dict[str, int]], most: int, rows: int
) -> None:
    shards = shards_of(languages)
    found = spread(shards, most, rows)
    codes = {code for told in languages for code in told}
    assert len(found) <= max(most, len(codes))
    assert len(found) * 100 <= max(rows, 100)
    assert bool(found) == bool(shards)
    numbers = [one.shard.number for one in found]
    assert numbers == sorted(set(numbers))
    if rows >= 4000:
        assert {code for one in found for code in one.languages} == codes
        assert len(found) >= min(most, len(shards))


def test_a_run_sorted_by_language_shows_every_language() -> None:
    shards = shards_of([{f"l{n // 20}": 100} for n in range(1000)])
    found = spread(shards)
    assert {code for one in found for code in one.languages} == {f"l{n}" for n in range(50)}
    assert len(found) == 50
    assert len(spread(shards, 200)) == 200


def test_shards_are_spread_over_the_whole_run() -> None:
    shards = shards_of([{"de": 50, "sw": 50}] * 1000)
    numbers = [one.shard.number for one in spread(shards)]
    assert len(numbers) == 24
    steps = [b - a for a, b in pairwise(numbers)]
    assert max(steps) <= 84
    assert numbers[-1] > 950


def test_rare_languages_are_looked_for() -> None:
    told = [{"de": 100} for _ in range(300)]
    told[137] = {"de": 60, "sw": ENOUGH}
    told[138] = {"de": 99, "sw": 1}
    numbers = {one.shard.number for one in spread(shards_of(told))}
    assert 137 in numbers
    assert 138 not in numbers


def test_of_a_chained_product_each_shard_has_its_own_counts(tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(24))
    config = make_config(tmp_path, {"a": fake(0.5)}, source, selection={"quota": 5})
    done = run(config)
    planner, shards = read_state(done.components, done.store)
    product = done.frame("selected").merge(done.frame("prompts")[["prompt_id", "line"]])
    product["shard"] = (product["line"] - 1) // 8
    for one in made(done.store, planner, shards):
        mine = product[product["shard"] == one.shard.number]
        assert one.languages == mine["language"].value_counts().to_dict()
    assert 3 == len(shards) < closeup.MOST_SHARDS
