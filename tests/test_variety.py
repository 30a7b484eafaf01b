"""The diversity of a run's answers, gathered again from its Parquet files by plain Python."""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from arbitrage import variety
from arbitrage.diversity import FIGURES, LEAST, compared, entropy, measured
from arbitrage.lots import Offer
from arbitrage.plan import read_state
from arbitrage.records import Completion
from arbitrage.variety import Answers, Variety, diversity_of_run, drawn
from harness import Run, fake, make_config, numbered_prompts, run, write_prompts

WORDS = [f"word{n}" for n in range(400)]


class Monotone:
    """Always says nearly the same thing."""

    max_in_flight = 8

    def provenance(self) -> dict[str, str]:
        return {"engine": "monotone"}

    async def generate(self, prompt: Any, sampling: Any, seeds: Any) -> list[Completion]:
        number = int(prompt.messages[-1]["content"].split()[2])
        quality = (number * 7919 % 100) / 100
        return [
            Completion(f"I am glad to help you with that ({quality:.4f})", "stop", 3, 5)
            for _ in seeds
        ]


class Varied(Monotone):
    """Says another thing each time; two samples differ, and now and then nothing comes."""

    async def generate(self, prompt: Any, sampling: Any, seeds: Any) -> list[Completion]:
        number = int(prompt.messages[-1]["content"].split()[2])
        texts = []
        for place, _ in enumerate(seeds):
            start = (number * 31 + place * 7) % 350
            quality = (number * 104729 + place * 37) % 100 / 100
            texts.append(f"{' '.join(WORDS[start : start + 9])} ({quality:.4f})")
        return [Completion("" if number % 13 == 0 else t, "stop", 3, 5) for t in texts]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """`two` gives two samples and sometimes nothing; `failing` answers too few to be compared."""
    folder = tmp_path_factory.mktemp("variety")
    rows = numbered_prompts(120)
    for row in rows[100:]:
        row["language"] = "ja" if row["language"] == "sw" else row["language"]
    teachers = {
        "same": fake(0.5),
        "two": fake(0.5, ["de", "sw", "ja"], sampling=[{"n": 2}], options={"voice": "two"}),
        "failing": fake(0.5, ["de"], options={"fail": 0.8}),
    }
    source = write_prompts(folder / "prompts.jsonl", rows)
    config = make_config(folder, teachers, source)
    return run(config, {"same": Monotone(), "two": Varied()})


def told_of(one: Run, **bounds: Any) -> Variety:
    planner, shards = read_state(one.components, one.store)
    return diversity_of_run(one.store, one.components, planner, shards, one.config, **bounds)


@pytest.fixture(scope="module")
def found(finished: Run) -> Variety:
    return told_of(finished)


@pytest.fixture(scope="module")
def expected(finished: Run) -> dict[str, list[tuple[str, str, dict[str, str]]]]:
    """Per language (selected text, its teacher, own best text by teacher), from the files alone."""
    texts = {
        (path.parent.name.rpartition("-")[0], row["prompt_id"], row["sample"]): row["completion"]
        for path in Path(finished.store.root).rglob("candidates/**/*.parquet")
        for row in pq.read_table(path).to_pylist()
    }
    told: dict[str, list[tuple[str, str, dict[str, str]]]] = {}
    for row in finished.rows("selected"):
        best: dict[str, tuple[float, str]] = {}
        for candidate in row["candidates"]:
            stopped = set(candidate["gates"]) & set(finished.config.gates.enforced())
            if candidate["reward"] is None or candidate["error"] or stopped:
                continue
            name = candidate["teacher"]
            text = texts[name, row["prompt_id"], candidate["sample"]]
            if name not in best or candidate["reward"] > best[name][0]:
                best[name] = (candidate["reward"], text)
        alone = {name: text for name, (_, text) in best.items()}
        told.setdefault(row["language"], []).append((row["completion"], row["teacher"], alone))
    return told


def test_every_language_is_compared_as_its_files_say(
    found: Variety, expected: dict[str, list[tuple[str, str, dict[str, str]]]]
) -> None:
    assert [row.language for row in found.rows] == sorted(expected)
    for row in found.rows:
        prompts = expected[row.language]
        assert row.prompts == len(prompts)
        assert row.won == Counter(teacher for _, teacher, _ in prompts)
        assert row.unit == ("letters" if row.language == "ja" else "words")
        assert row.as_dict()["entropy"] == pytest.approx(entropy(row.won.values()))
        names = {name for _, _, alone in prompts for name in alone}
        assert row.beside.keys() == names
        for name in names:
            pairs = [(text, alone[name]) for text, _, alone in prompts if name in alone]
            told = row.beside[name]
            assert told.prompts == len(pairs)
            for side, mine in enumerate((told.selected, told.alone)):
                plain = measured([pair[side] for pair in pairs])
                assert mine.distinct == pytest.approx(plain.distinct)
                assert mine.similarity == pytest.approx(plain.similarity)
                assert mine.compression == pytest.approx(plain.compression)


def test_means_are_plain_means_over_languages_with_enough_prompts(found: Variety) -> None:
    assert "failing" not in found.teachers
    assert any("failing" in row.beside for row in found.rows)
    for name, told in found.teachers.items():
        rows = [r.beside[name] for r in found.rows if r.beside[name].prompts >= LEAST]
        assert len(told.languages) == len(rows) > 1
        assert told.prompts == sum(one.prompts for one in rows)
        second = [one.alone.distinct[1] for one in rows]
        assert told.alone["distinct_2"] == pytest.approx(statistics.fmean(second))
        for figure in FIGURES:
            parts = [one.differences[figure] for one in rows]
            difference = told.differences[figure]
            mean = statistics.fmean(part.value for part in parts)
            error = math.sqrt(sum(part.error**2 for part in parts)) / len(parts)
            assert difference.value == pytest.approx(mean)
            assert difference.error == pytest.approx(error)
            assert difference.value == pytest.approx(told.selected[figure] - told.alone[figure])


def test_it_sees_that_one_teacher_alone_would_always_say_the_same(found: Variety) -> None:
    same, two = found.teachers["same"], found.teachers["two"]
    for name, sign in (("distinct_2", 1), ("similarity", -1)):
        told = same.differences[name]
        assert sign * told.value - 2 * told.error > 0
    assert two.differences["distinct_2"].value + 2 * two.differences["distinct_2"].error < 0
    assert same.alone["similarity"] > 0.9
    assert same.alone["compression"] > 2 * two.alone["compression"]


def test_it_is_plain_data_and_the_same_each_time(finished: Run, found: Variety) -> None:
    text = json.dumps(found.as_dict(), allow_nan=False)
    assert text == json.dumps(told_of(finished).as_dict(), allow_nan=False)
    told = json.loads(text)
    assert told["extent"]["of_prompts"] == 120
    assert told["prompts"] == len(finished.frame("selected"))
    assert set(told["teachers"]) == {"same", "two"}


def test_a_part_is_drawn_evenly_and_says_so(finished: Run) -> None:
    part = told_of(finished, per_language=10, most_shards=9)
    assert [row.prompts for row in part.rows] == [10, 10, 10]
    assert (part.prompts, part.extent.shards, part.extent.of_shards) == (30, 9, 15)
    assert part.teachers == {}
    assert told_of(finished, prompts=7).prompts == 7


def test_prompts_are_drawn_by_lot_and_fewer_of_long_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    offers = [Offer(f"{n}", "de" if n % 4 else "sw", chars=1000) for n in range(400)]
    offers += [Offer(f"lost{n}", "de", lost=True) for n in range(50)]
    assert drawn(offers, 1000, 1000) == {f"{n}" for n in range(400)}
    few = drawn(offers, 60, 1000)
    assert sum(int(key) % 4 == 0 for key in few) == 30
    assert drawn(list(reversed(offers)), 60, 1000) == few
    assert few < drawn(offers, 90, 1000)
    monkeypatch.setattr(variety, "MOST_CHARS", 50_000)
    assert len(drawn(offers, 1000, 1000)) == 50


def test_answers_stay_in_their_places() -> None:
    texts = Answers()
    texts.add("s0", "a", {"a": "s0"})
    texts.add("s1", "b", {"b": "s1", "a": "a1"})
    texts.add("s2", "b", {"b": "s2"})
    assert texts.alone == {"a": ["s0", "a1", None], "b": [None, "s1", "s2"]}
    told = compared(texts.selected, texts.alone)
    assert {name: one.prompts for name, one in told.items()} == {"a": 2, "b": 2}


def test_an_empty_run_has_no_figures(tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(4))
    config = make_config(tmp_path, {"a": fake(0.5)}, source)
    nothing = told_of(run(config, stop_after=1))
    assert (nothing.rows, nothing.teachers, nothing.prompts) == ([], {}, 0)
