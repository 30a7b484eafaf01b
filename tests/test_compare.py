"""`arbitrage compare`: two Arbiters of one run, every number once more from the files alone."""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import sys
from collections import Counter, defaultdict
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from arbitrage import cli, tables_arbiter
from arbitrage.compare import STRONGEST, Comparison, Judge, compare, find
from arbitrage.errors import ItemError, StoreError, UsageError
from arbitrage.store import Store
from harness import fake, make_config, numbered_prompts, run, write_prompts
from plain_measures import plain_pearson, plain_ranks

if TYPE_CHECKING:
    from pathlib import Path

    from arbitrage.records import Prompt

TEACHERS = {
    "a": fake(0.6, options={"voice": "1"}),
    "b": fake(0.6, ["de", "ja"], options={"voice": "2", "words": 4}),
    "c": fake(0.4, ["de", "sw"], options={"voice": "3"}, sampling=[{"n": 2, "temperature": 1.0}]),
}
FIRST, SECOND = {"engine": "fake"}, {"engine": "fake", "name": "harsh", "model": "m"}


class Harsh:
    """Scores in tenths, so that there are ties, by text; refuses a few completions."""

    max_in_flight = 8

    async def score(self, prompt: Prompt, completion: str) -> float:
        await asyncio.sleep(0)
        draw = hashlib.blake2b(f"{prompt.id}{completion}".encode(), digest_size=2).digest()
        if draw[0] < 50:
            raise ItemError("refused")
        return draw[1] // 26 * 100 + len(completion) // 16

    def provenance(self) -> dict[str, str]:
        return {"engine": "harsh"}


def judged(folder: Path, count: int = 60, **changes: Any) -> Path:
    """A run that has the scores of two Arbiters; the second is the current one."""
    write_prompts(folder / "prompts.jsonl", numbered_prompts(count))
    run(make_config(folder, TEACHERS, arbiter=FIRST, **changes))
    made = run(make_config(folder, TEACHERS, arbiter=SECOND, **changes), {"harsh": Harsh()})
    return made.store.path("")


def compared(place: Path, first: str = "arbiter", second: str = "harsh") -> Comparison:
    return compare(place, first, second, lambda done, total: None)


def rows_of(place: Path, first: str, second: str) -> dict[str, list[dict[str, Any]]]:
    """By prompt id all candidates that both have scored, straight from the files."""
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in sorted(place.glob(f"scores/{first}-*/*/*.parquet")):
        label = path.parent.name
        [other] = place.glob(f"scores/{second}-*/{label}/{path.name}")
        answers = place / "candidates" / label / path.name
        tables = [pq.ParquetFile(p).read().to_pylist() for p in (path, other, answers)]
        for one, two, answer in zip(*tables, strict=True):
            if one["score"] is not None and two["score"] is not None:
                name, _, fingerprint = label.rpartition("-")
                row = {"teacher": name, "fingerprint": fingerprint, "sample": one["sample"]}
                row |= {"scores": (one["score"], two["score"]), "chars": len(answer["completion"])}
                found[one["prompt_id"]].append(row)
    return {key: rows for key, rows in found.items() if len(rows) > 1}


def pick(key: str, rows: list[dict[str, Any]], side: int) -> dict[str, Any]:
    """The highest score; a tie goes to the lowest hash of who wrote it."""

    def rank(row: dict[str, Any]) -> tuple[float, bytes]:
        text = f"{key}/{row['fingerprint']}/{row['sample']}"
        return -row["scores"][side], hashlib.blake2b(text.encode(), digest_size=8).digest()

    return min(rows, key=rank)


def correlation(rows: list[dict[str, Any]], one: Any, other: Any) -> float | None:
    x, y = [one(row) for row in rows], [other(row) for row in rows]
    return plain_pearson(plain_ranks(x), plain_ranks(y))


def mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return judged(tmp_path_factory.mktemp("judged"))


def test_every_number_from_the_files_alone(place: Path) -> None:
    found = compared(place)
    prompts = [
        row for path in place.glob("prompts/*.parquet") for row in pq.read_table(path).to_pylist()
    ]
    language = {row["prompt_id"]: row["language"] for row in prompts}
    rows = rows_of(place, "arbiter", "harsh")
    assert (found.first.name, found.second.name, found.unmatched) == ("arbiter", "harsh", 0)
    assert found.single == len(language) - len(rows)
    assert found.single > 0
    assert sorted(found.languages) == sorted({language[key] for key in rows})
    ties = 0
    for code, result in [("", found.overall), *found.languages.items()]:
        own = {key: one for key, one in rows.items() if code in ("", language[key])}
        picks = {key: (pick(key, one, 0), pick(key, one, 1)) for key, one in own.items()}
        assert result.prompts == result.differ.total == len(own)
        assert result.differ.count == sum(one is not two for one, two in picks.values())
        ranked = [
            correlation(r, lambda x: x["scores"][0], lambda x: x["scores"][1]) for r in own.values()
        ]
        assert result.ranked == sum(value is not None for value in ranked)
        assert result.agreement == pytest.approx(mean(ranked))
        for side in (0, 1):
            by_length = [
                correlation(r, lambda x, s=side: x["scores"][s], lambda x: x["chars"])
                for r in own.values()
            ]
            assert result.length[side] == pytest.approx(mean(by_length))
            won = Counter(both[side]["teacher"] for both in picks.values())
            shares = {name: pair[side] for name, pair in result.picks.items() if pair[side]}
            assert shares == pytest.approx({n: count / len(own) for n, count in won.items()})
        tops = [max(x["scores"][1] for x in r) for r in own.values()]
        ties += sum(
            [x["scores"][1] for x in r].count(top) > 1
            for r, top in zip(own.values(), tops, strict=True)
        )
    assert ties > 0, "the rule for ties was put to the test"


def test_the_strongest_disagreements(place: Path) -> None:
    rows = rows_of(place, "arbiter", "harsh")
    strength = {}
    for key, own in rows.items():
        a, b = pick(key, own, 0), pick(key, own, 1)
        if a is not b:
            lost = (a["scores"][0] - b["scores"][0]) * (b["scores"][1] - a["scores"][1])
            strength[key] = lost, (a["teacher"], a["sample"]), (b["teacher"], b["sample"])
    wanted = sorted(strength, key=lambda key: (-strength[key][0], key))[:STRONGEST]
    found = compared(place).strongest
    assert [one.prompt_id for one in found] == wanted
    for one in found:
        assert (one.strength, one.first, one.second) == (
            *(pytest.approx(strength[one.prompt_id][0]), *strength[one.prompt_id][1:]),
        )


def test_the_other_way_round_is_the_same_with_sides_changed(place: Path) -> None:
    one, other = compared(place), compared(place, "harsh", "arbiter")
    assert one.overall.differ == other.overall.differ
    assert one.overall.agreement == pytest.approx(other.overall.agreement)
    assert one.overall.length == other.overall.length[::-1]
    assert {n: p[::-1] for n, p in one.overall.picks.items()} == other.overall.picks
    assert [(c.first, c.second) for c in one.strongest] == [
        (c.second, c.first) for c in other.strongest
    ]


def test_languages_add_up(place: Path) -> None:
    found = compared(place)
    assert sum(r.prompts for r in found.languages.values()) == found.overall.prompts
    assert sum(r.differ.count for r in found.languages.values()) == found.overall.differ.count
    for result in (found.overall, *found.languages.values()):
        for side in (0, 1):
            assert sum(pair[side] for pair in result.picks.values()) == pytest.approx(1)


def test_names_and_fingerprints_are_one(place: Path) -> None:
    found = compared(place)
    for first in (found.first.fingerprint, found.first.fingerprint[:5], "arbiter"):
        assert compared(place, first, f"harsh-{found.second.fingerprint}") == found


def test_a_file_without_its_counterpart_is_left_out_and_told(tmp_path: Path) -> None:
    place = judged(tmp_path, 30)
    before = compared(place)
    path = min(place.glob("scores/harsh-*/a-*/*.parquet"))
    path.unlink()
    found = compared(place)
    assert found.unmatched == 1
    assert found.overall.prompts < before.overall.prompts
    assert found.overall.prompts + found.single == 30


def test_scores_of_other_candidates_are_left_out_and_told(tmp_path: Path) -> None:
    place = judged(tmp_path, 30)
    before = compared(place)
    path = min(place.glob("scores/harsh-*/a-*/*.parquet"))
    store, name = Store(place), path.relative_to(place).as_posix()
    content = store.read(name)
    store.publish(name, content.table, {**content.footer, "candidates": "others"})
    found = compared(place)
    assert found.unmatched == 2
    assert found.overall.prompts < before.overall.prompts


def test_lengths_are_not_needed(tmp_path: Path) -> None:
    place = judged(tmp_path, 30)
    before = compared(place)
    for path in place.glob("candidates/*/*.parquet"):
        path.unlink()
    found = compared(place)
    assert found.overall.length == (None, None)
    assert found.overall.differ == before.overall.differ


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    place = judged(tmp_path, 12)
    path = min(place.glob("scores/harsh-*/a-*/*.parquet"))
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(StoreError, match=path.name):
        compared(place)


JUDGES = [Judge("arbiter", "ab12", "x"), Judge("arbiter", "ab99", "y"), Judge("ab", "c0", "z")]


@pytest.mark.parametrize(
    ("wanted", "found"), [("ab", "c0"), ("ab1", "ab12"), ("arbiter-ab99", "ab99"), ("c", "c0")]
)
def test_find(wanted: str, found: str) -> None:
    assert find(JUDGES, wanted).fingerprint == found


@given(st.sampled_from(["arbiter", "x", "", "b", "arbiter-"]))
def test_a_name_of_nobody_or_of_several_lists_what_there_is(wanted: str) -> None:
    with pytest.raises(
        UsageError, match=r"arbiter \(ab12\), arbiter \(ab99\), ab \(c0\)$"
    ) as error:
        find(JUDGES, wanted)
    told = "more than one Arbiter" if wanted == "arbiter" else "no Arbiter"
    assert str(error.value).startswith(f"{wanted!r} is {told} with scores in this run; ")


def test_a_run_without_scores_says_so() -> None:
    with pytest.raises(UsageError, match="there are none yet"):
        find([], "arbiter")


def test_one_arbiter_is_not_compared_with_itself(place: Path) -> None:
    with pytest.raises(UsageError, match="'harsh' and 'harsh' are one Arbiter"):
        compared(place, "harsh", "harsh")


def test_nothing_to_choose_from_is_one_sentence(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(4))
    alone = {"a": TEACHERS["a"]}
    run(make_config(tmp_path, alone, arbiter=FIRST))
    run(make_config(tmp_path, alone, arbiter=SECOND), {"harsh": Harsh()})
    with pytest.raises(UsageError, match="both scored two candidates"):
        compared(tmp_path / "run")


def call(monkeypatch: pytest.MonkeyPatch, *words: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["arbitrage", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_the_command(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    assert call(monkeypatch, "compare", place, "arbiter", "harsh", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told == json.loads(json.dumps(compared(place).as_dict()))
    assert call(monkeypatch, "compare", place, "arbiter", "nobody") == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("arbitrage: 'nobody' is no Arbiter with scores in this run; ")


def test_the_tables_fit_80_columns(place: Path) -> None:
    found = compared(place)
    told = io.StringIO()
    Console(file=told, width=80).print(tables_arbiter.of_comparison(found), soft_wrap=True)
    lines = told.getvalue().splitlines()
    assert [line for line in lines if len(line.rstrip()) > 80] == []
    [line] = [line for line in lines if line.startswith("all ")]
    percent = f"{100 * (found.overall.differ.value or 0):.1f}"
    assert line.split()[:3] == ["all", str(found.overall.prompts), percent]
    assert found.strongest[0].prompt_id in told.getvalue()
