"""A run as tables: every method against plain pandas over the run's files."""

from __future__ import annotations

import html.parser
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import arbitrage
from arbitrage import frames, records
from arbitrage.errors import InputError, StoreError, UsageError
from arbitrage.runs import RESULTS
from arbitrage.store import Store
from command_line import write_config
from harness import (
    LANGUAGES,
    Run,
    digests,
    fake,
    make_config,
    numbered_prompts,
    opened,
    run,
    write_prompts,
)

PROMPTS = 40
KINDS = ("prompts", "routes", "candidates", "gates", "scores", "selected", "quarantine")
POOL = {
    "half": fake(0.5, options={"truncate": 0.4, "empty": 0.3, "voice": "h"}, sampling={"n": 2}),
    "deaf": fake(0.4, ["de", "sw"], options={"empty": 0.5, "voice": "d"}),
}


def made_in(folder: Path, teachers: dict[str, Any] | None = None, **blocks: Any) -> Run:
    """Forty prompts in three languages and two rows that are none."""
    bad: list[dict[str, Any]] = [{"id": "bad"}, {"prompt": "", "language": "de"}]
    source = write_prompts(folder / "prompts.jsonl", [*numbered_prompts(PROMPTS), *bad])
    return run(make_config(folder, teachers or POOL, source, **blocks))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return made_in(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Two Arbiters, a second round, and a fuser; and the files of an earlier teacher."""
    folder = tmp_path_factory.mktemp("rich")
    arbiters = {"one": {"engine": "fake"}, "two": {"engine": "fake", "options": {"voice": "2"}}}
    blocks: dict[str, Any] = {"arbiters": arbiters, "retry": {"budget": 3}}
    blocks["fuser"] = {"engine": "fake", "options": {"skill": 0.9, "voice": "f"}}
    made_in(folder, {**POOL, "gone": fake(0.9, options={"voice": "g"})}, **blocks)
    return made_in(folder, **blocks)


def joined(made: Run, kind: str) -> pd.DataFrame:
    """All files that the product was made of by plain pandas, with the folder each row is from."""
    root = Path(made.store.root)
    products = sorted(root.glob("selected/latest/*.parquet"))
    notes = (json.loads(pq.read_metadata(path).metadata[b"arbitrage"]) for path in products)
    paths = [root / name for note in notes for name in note["inputs"] if name.startswith(kind)]
    places = [{"folder": path.parent.name, "number": int(path.name[:5])} for path in paths]
    tables = [pd.read_parquet(p).assign(**at) for p, at in zip(paths, places, strict=True)]
    told = pd.concat(tables, ignore_index=True)
    codes = pd.concat(map(pd.read_parquet, sorted(root.glob("prompts/*.parquet"))))
    return told.assign(language=told["prompt_id"].map(codes.set_index("prompt_id")["language"]))


def same(found: pd.DataFrame, expected: pd.DataFrame, keys: list[str]) -> None:
    """The same rows in any order; lists as texts, all nulls alike."""

    def plain(value: Any) -> Any:
        if isinstance(value, np.ndarray | list):
            return json.dumps(list(value), default=list)
        return None if pd.isna(value) else value

    one, other = (
        frame.sort_values(keys)[list(found.columns)].to_numpy().tolist()
        for frame in (found, expected)
    )
    assert [[*map(plain, row)] for row in one] == [[*map(plain, row)] for row in other]
    assert len(one) > 0


def test_candidates_are_those_of_the_files(made: Run) -> None:
    found = arbitrage.open(made.store.root).candidates()
    told = joined(made, "candidates")
    names = {t.label: t for t in made.components.teachers}
    told["teacher"] = told["folder"].map(lambda folder: names[folder].name)
    told["teacher_fingerprint"] = told["folder"].map(lambda folder: names[folder].fingerprint)
    told["shard"] = told["number"]
    assert len(found) == 2 * PROMPTS + 27 == len(told)
    assert list(found.columns) == frames.schema_of("candidates").names
    same(found, told, ["prompt_id", "teacher", "sample"])


def test_scores_and_gates_are_those_of_the_files_and_join_the_candidates(rich: Run) -> None:
    looked = arbitrage.open(rich.store.root)
    keys = ["prompt_id", "teacher_fingerprint", "sample"]
    candidates, scores, gates = looked.candidates(), looked.scores(), looked.gates()
    assert not candidates.duplicated(keys).any()
    assert len(gates) == len(candidates)
    assert len(scores) == 2 * len(candidates)
    told = joined(rich, "scores")
    every = sum(pq.read_metadata(p).num_rows for p in rich.store.root.glob("scores/*/*/*.parquet"))
    assert len(told) == len(scores) < every, "of the current pool alone"
    both = scores.merge(candidates, on=[*keys, "teacher", "language", "shard"])
    assert len(both) == len(scores)
    found = scores[["prompt_id", "sample", "score"]]
    same(found, told, ["prompt_id", "sample", "score"])
    assert set(scores["arbiter"]) == {"one", "two"}
    one = looked.scores(arbiters="one", columns=["score"])["score"]
    assert sorted(one.dropna()) == sorted(scores[scores["arbiter"] == "one"]["score"].dropna())


def test_what_was_asked_again_is_the_teachers_own_and_the_fuser_is_a_teacher(rich: Run) -> None:
    looked = arbitrage.open(rich.store.root)
    assert looked.teachers == ["deaf", "half", "fuser"]
    found = looked.candidates(columns=["teacher", "teacher_fingerprint", "prompt_id"])
    assert set(found["teacher"]) == {"half", "deaf", "fuser"}
    variants = {v.fingerprint for v in rich.components.variants}
    again = found[found["teacher_fingerprint"].isin(variants)]
    assert len(again) > 0
    assert set(again["teacher"]) == {"half", "deaf"}
    chosen = looked.selected(columns=["prompt_id", "teacher_fingerprint", "sample"])
    every = looked.candidates(columns=["prompt_id", "teacher_fingerprint", "sample"])
    assert len(chosen.merge(every)) == len(chosen) > 0, "the product's keys are the candidates'"


def test_failed_gates_are_those_that_the_product_tells(made: Run) -> None:
    looked = arbitrage.open(made.store.root)
    keys = ["prompt_id", "teacher", "sample"]
    gates = looked.gates(columns=[*keys, "failed", "truncated"]).set_index(keys)
    assert not gates.empty
    listed = looked.selected(columns=["prompt_id", "candidates"]).explode("candidates")
    checked = 0
    for key, one in zip(listed["prompt_id"], listed["candidates"], strict=True):
        told = gates.loc[(key, one["teacher"], one["sample"])]
        assert list(one["gates"]) == list(told["failed"])
        checked += bool(len(one["gates"]))
    assert checked > 3
    cut = gates[gates["truncated"].fillna(False)]
    assert all("truncated" in names for names in cut["failed"])
    alone = looked.gates(columns=["failed"])
    assert sum(map(len, alone["failed"])) == sum(map(len, gates["failed"]))


def test_the_product_prompts_and_quarantine_are_those_of_the_files(made: Run) -> None:
    looked = arbitrage.open(made.store.root)
    same(looked.selected(), made.frame("selected"), ["prompt_id"])
    prompts = looked.prompts()
    same(prompts.drop(columns="shard"), made.frame("prompts"), ["prompt_id"])
    assert prompts.groupby("shard").size().tolist() == [8] * 5
    lost = looked.quarantine()
    read = made.store.root.glob("quarantine/read/*.parquet")
    told = pd.concat([*map(pd.read_parquet, read), made.frame("quarantine")])
    same(lost, told, ["stage", "prompt_id", "line"])
    assert set(lost["stage"]) == {"read", "select"}
    assert len(looked.selected()) + (lost["stage"] == "select").sum() == PROMPTS


@pytest.mark.parametrize("languages", [["de"], "sw", ["de", "ja"], ["de-AT"]])
@pytest.mark.parametrize("kind", ["candidates", "gates", "scores", "selected", "quarantine"])
def test_languages_teachers_and_columns_are_what_was_asked_for(
    made: Run, kind: str, languages: Any
) -> None:
    looked = arbitrage.open(made.store.root)
    method = getattr(looked, kind)
    every = method()
    codes = {"de-AT": "de"}
    wanted = {codes.get(c, c) for c in ([languages] if isinstance(languages, str) else languages)}
    expected = every[every["language"].isin(wanted)]
    found = method(languages=languages, columns=["prompt_id", "language"])
    assert list(found.columns) == ["prompt_id", "language"]
    assert sorted(found["prompt_id"]) == sorted(expected["prompt_id"])
    assert 0 < len(found) < len(every) or wanted == {"de", "ja"}
    assert len(method(languages=languages, columns="prompt_id")) == len(found)
    if kind == "quarantine":
        return
    one = method(languages=languages, teachers="deaf", columns=["prompt_id"])
    assert sorted(one["prompt_id"]) == sorted(expected[expected["teacher"] == "deaf"]["prompt_id"])
    assert method(teachers=[]).empty


def test_constant_columns_alone_have_all_rows(made: Run) -> None:
    looked = arbitrage.open(made.store.root)
    found = looked.candidates(columns=["shard", "teacher"])
    assert list(found.columns) == ["shard", "teacher"]
    assert found.value_counts("teacher").to_dict() == {"half": 2 * PROMPTS, "deaf": 27}


def test_a_stream_has_one_table_per_file_and_the_frames_rows(rich: Run) -> None:
    looked = arbitrage.open(rich.store.root)
    for kind in KINDS:
        tables = list(looked.stream(kind))
        assert {str(table.schema) for table in tables} == {str(frames.schema_of(kind))}
        if hasattr(looked, kind):
            assert sum(table.num_rows for table in tables) == len(getattr(looked, kind)())
    one_each = looked.stream("candidates", columns=["teacher_fingerprint", "shard"])
    pairs = [set(zip(*table.to_pydict().values(), strict=True)) for table in one_each]
    assert {len(pair) for pair in pairs} == {1}
    assert len(set.union(*pairs)) == len(pairs)


def spoil(path: Path, column: str) -> None:
    """Overwrites the pages of one column."""
    metadata = pq.read_metadata(path).row_group(0)
    names = [metadata.column(n).path_in_schema for n in range(metadata.num_columns)]
    chunk = metadata.column(names.index(column))
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data = bytearray(path.read_bytes())
    data[start : start + chunk.total_compressed_size] = bytes(chunk.total_compressed_size)
    path.write_bytes(data)


def test_what_is_not_asked_for_is_not_read(tmp_path: Path) -> None:
    made = made_in(tmp_path)
    looked = arbitrage.open(made.store.root)
    before = looked.candidates(columns=["prompt_id", "teacher", "sample", "language"])
    paths = sorted(made.store.root.glob("candidates/*/*.parquet"))
    for path in paths:
        spoil(path, "completion")
    after = looked.candidates(columns=["prompt_id", "teacher", "sample", "language"])
    pd.testing.assert_frame_equal(before, after)
    with pytest.raises(StoreError, match=r"candidates/.*cannot be read") as caught:
        looked.candidates(columns="completion")
    assert "\n" not in str(caught.value)
    for path in paths:
        if path.parent.name.startswith("deaf"):
            path.write_bytes(b"nothing")
    assert len(looked.candidates(teachers="half", columns=["sample"])) == 2 * PROMPTS
    with pytest.raises(StoreError, match="deaf"):
        looked.candidates(columns=["sample"])


def test_a_stream_reads_no_file_before_its_turn(tmp_path: Path) -> None:
    made = made_in(tmp_path)
    looked = arbitrage.open(made.store.root)
    last = sorted(made.store.root.glob("candidates/half-*/*.parquet"))[-1]
    tables = looked.stream("candidates", teachers=["half"])
    assert next(tables).num_rows == 16
    last.write_bytes(b"nothing")
    assert [next(tables).num_rows for _ in range(3)] == [16] * 3
    with pytest.raises(StoreError, match=last.name):
        next(tables)


def test_a_language_that_a_shard_does_not_have_is_not_looked_for_there(tmp_path: Path) -> None:
    rows = [{"prompt": f"q {n}", "language": "de" if n < 8 else "sw"} for n in range(16)]
    source = write_prompts(tmp_path / "prompts.jsonl", rows)
    made = run(make_config(tmp_path, {"a": fake(0.5)}, source))
    (path,) = made.store.root.glob("candidates/*/00001.*.parquet")
    path.write_bytes(b"nothing")
    looked = arbitrage.open(made.store.root)
    assert len(looked.candidates(languages="de")) == 8
    with pytest.raises(StoreError):
        looked.candidates(languages="sw")


def test_dtypes_do_not_depend_on_the_rows(rich: Run, tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(3))
    empty = opened(make_config(tmp_path, POOL, source))
    full, none = arbitrage.open(rich.store.root), arbitrage.open(empty.store.root)
    for kind in KINDS:
        if not hasattr(full, kind):
            continue
        one, other = getattr(full, kind)(), getattr(none, kind)()
        assert len(one) > 0
        assert len(other) == 0
        assert one.dtypes.to_dict() == other.dtypes.to_dict(), kind
    assert full.gates()["words"].dtype == pd.Int32Dtype()
    assert full.gates()["words"].isna().any() or full.gates()["words"].min() >= 0
    assert full.results().dtypes.to_dict() == none.results().dtypes.to_dict()
    assert none.results().empty
    assert none.languages == []
    assert none.candidates(languages="de").empty, "a run that has just begun has no language yet"


def test_a_shard_that_is_replaced_meanwhile_is_seen_whole(tmp_path: Path) -> None:
    made = made_in(tmp_path)
    looked = arbitrage.open(made.store.root)
    total = PROMPTS - len(made.rows("quarantine"))
    path = sorted(made.planner.selected)[1]
    content = made.store.read(path)
    less = content.table.slice(0, 1)
    stop = threading.Event()

    def replace() -> None:
        while not stop.is_set():
            for table in (less, content.table):
                made.store.publish(path, table, {**content.footer, "kind": "selected"})

    writer = threading.Thread(target=replace)
    writer.start()
    try:
        seen = set()
        for _ in range(30):
            rows = looked.selected(columns=["prompt_id", "completion"])
            seen.add(len(rows))
            assert not rows["completion"].isna().any()
    finally:
        stop.set()
        writer.join()
    assert seen <= {total, total - content.table.num_rows + 1}


def test_a_product_that_is_open_is_read_to_its_end(tmp_path: Path) -> None:
    made = made_in(tmp_path)
    looked = arbitrage.open(made.store.root)
    tables = looked.stream("selected", columns=["prompt_id"])
    first = next(tables)
    paths = sorted(made.planner.selected)
    content = made.store.read(paths[1])
    made.store.publish(paths[1], content.table.slice(0, 1), content.footer)
    assert next(tables).num_rows == 1, "the new one, whole"
    assert first.num_rows == made.store.footer(paths[0])["rows"]


def test_results_by_plain_pandas(made: Run) -> None:
    found = arbitrage.open(made.store.root).results()
    assert list(found.columns) == list(RESULTS)
    chosen = made.frame("selected").set_index("prompt_id")
    listed = made.frame("selected")[["prompt_id", "language", "candidates"]].explode("candidates")
    told = pd.DataFrame(listed["candidates"].tolist())
    told = told.assign(prompt_id=listed["prompt_id"].tolist(), language=listed["language"].tolist())
    usable = told[told["gates"].map(len).eq(0) & told["reward"].notna()]
    alone = usable.groupby(["language", "teacher", "prompt_id"])["reward"].max().reset_index()
    alone["gain"] = alone["prompt_id"].map(chosen["reward"]) - alone["reward"]
    assert len(found) == len(alone.groupby(["language", "teacher"]))
    for row in found.itertuples():
        own = alone[(alone["language"] == row.language) & (alone["teacher"] == row.teacher)]
        assert row.answered == len(own)
        assert row.alone == pytest.approx(own["reward"].mean())
        assert row.gain == pytest.approx(own["gain"].mean())
        half = 1.959964 * own["gain"].std() / np.sqrt(len(own))
        assert row.gain_high - row.gain == pytest.approx(half, rel=1e-4, nan_ok=True)
        assert row.prompts == (chosen["language"] == row.language).sum()
    assert found["wins"].sum() == pytest.approx(len(chosen))


def test_show_status_config_and_names(made: Run) -> None:
    looked = arbitrage.open(made.store.root)
    shown = looked.show("own-3")
    assert shown.prompt["user_id"] == "own-3"
    candidates = looked.candidates()
    own = candidates[candidates["prompt_id"] == shown.prompt["prompt_id"]]
    assert sorted(row["completion"] for row in shown.candidates) == sorted(own["completion"])
    with pytest.raises(InputError, match="nobody"):
        looked.show("nobody")
    assert looked.teachers == ["deaf", "half"]
    assert looked.languages == sorted(LANGUAGES)
    assert looked.config == made.config.model_dump(mode="json")
    assert looked.address == str(made.store.root)
    assert looked.status().prompts == PROMPTS


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda r: r.selected(columns=["rewrd"]), "'rewrd' is no column of selected; did you mean"),
        (lambda r: r.scores(columns="zzz"), "'zzz' is no column of scores; there are prompt_id, "),
        (lambda r: r.scores(columns=[]), "no column of scores is asked for"),
        (lambda r: r.candidates(teachers="haf"), "no teacher of this run; did you mean 'half'"),
        (
            lambda r: r.candidates(teachers=["half", "x"]),
            "'x' is no teacher of this run",
        ),
        (
            lambda r: r.candidates(languages="fr"),
            "'fr' is no language of this run; there are",
        ),
        (
            lambda r: r.prompts(languages=["de", "swa-"]),
            "'swa-' is no language of this",
        ),
        (lambda r: r.scores(arbiters="arbitr"), "did you mean 'arbiter'"),
        (lambda r: r.stream("candidate"), "no kind of table; did you mean 'candidates'"),
        (lambda r: r.stream("prompts", teachers="half"), "rows of prompts have no teacher"),
        (lambda r: r.stream("gates", arbiters="arbiter"), "not of one Arbiter"),
    ],
)
def test_a_wrong_name_is_one_sentence_with_the_nearest(made: Run, call: Any, sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        call(arbitrage.open(made.store.root))
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_run_is_found_by_the_config_that_names_it(made: Run, tmp_path: Path) -> None:
    told: dict[str, Any] = {"run": str(made.store.root), "prompts": "nowhere.jsonl"}
    told |= {"teachers": {"any": fake(0.5)}, "arbiter": {"engine": "fake"}}
    config = write_config(tmp_path, told)
    assert arbitrage.open(config).address == str(made.store.root)
    assert arbitrage.open(str(config)).teachers == ["deaf", "half"]


def test_a_stream_holds_one_file_at_a_time(tmp_path: Path) -> None:
    peaks = []
    for count in (80, 320):
        folder = tmp_path / str(count)
        source = write_prompts(folder / "prompts.jsonl", numbered_prompts(count))
        made = run(make_config(folder, {"a": fake(0.5)}, source))
        looked, before, peak = arbitrage.open(made.store.root), pa.total_allocated_bytes(), 0
        rows = 0
        for table in looked.stream("candidates"):
            rows += table.num_rows
            peak = max(peak, pa.total_allocated_bytes() - before)
        assert rows == count
        peaks.append(peak)
    assert 0 < peaks[1] < 2 * peaks[0], "four times the files, and no more memory"


def test_no_run_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no run directory; `arbitrage run CONFIG"):
        arbitrage.open(tmp_path)


class Cells(html.parser.HTMLParser):
    """Every tag and all text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.text = ""

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        assert not attrs
        self.tags.add(tag)

    def handle_data(self, data: str) -> None:
        self.text += f"{data} "


def test_what_a_notebook_shows(tmp_path: Path) -> None:
    made = made_in(tmp_path / "<script>alert(1)<" / "b>")
    looked = arbitrage.open(made.store.root)
    assert re.fullmatch(r"<Run .*: 40 prompts, \d+ selected, 5 shards, 2 teachers>", repr(looked))
    cells = Cells()
    cells.feed(looked._repr_html_())
    assert cells.tags == {"table", "caption", "tr", "td"}
    assert str(made.store.root) in cells.text
    (made.store.root / "run.json").write_text("{")
    assert "cannot be read" in repr(looked)
    assert "\n" not in repr(looked)
    assert "cannot be read" in looked._repr_html_()


def test_importing_the_package_brings_nothing_along() -> None:
    code = "import sys, arbitrage; print(sorted(m for m in sys.modules if m.startswith('arbitrage')"
    code += " or m in ('pandas', 'pyarrow', 'numpy', 'ray', 'pydantic')))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "['arbitrage']"
    assert arbitrage.__all__ == ["__version__", "open"]
    assert (Path(arbitrage.__file__).parent / "py.typed").exists()


def test_reading_writes_nothing(made: Run) -> None:
    before = {p: p.stat().st_mtime_ns for p in sorted(Path(made.store.root).rglob("*"))}
    sums = digests(Path(made.store.root))
    looked = arbitrage.open(made.store.root)
    for kind in KINDS:
        list(looked.stream(kind))
    looked.status(), looked.results(), looked.show("own-1"), looked.languages
    assert {p: p.stat().st_mtime_ns for p in sorted(Path(made.store.root).rglob("*"))} == before
    assert digests(Path(made.store.root)) == sums


def test_a_run_at_an_address_is_the_same_as_in_a_folder(made: Run) -> None:
    from s3_server import address, s3_server

    with s3_server() as port:
        place = address(port, "copied")
        store = Store(place)
        root = Path(made.store.root)
        for path in (p for p in sorted(root.rglob("*")) if p.is_file() and "latest" not in p.parts):
            store.files.write(path.relative_to(root).as_posix(), path.read_bytes())
        here, there = arbitrage.open(root), arbitrage.open(place)
        for kind in ("selected", "candidates", "scores"):
            asked = {"columns": ["prompt_id", "teacher", "language"], "languages": ["de", "sw"]}
            one, other = (getattr(r, kind)(**asked) for r in (here, there))
            pd.testing.assert_frame_equal(one, other)
            assert len(one) > 0
        assert there.status().prompts == PROMPTS


def test_every_column_has_a_meaning_and_every_meaning_a_column() -> None:
    pairs = {(kind, name) for kind in records.SCHEMAS for name in frames.schema_of(kind).names}
    assert all(records.meaning(kind, name) for kind, name in pairs)
    for key in records.MEANINGS:
        kind, dot, name = key.rpartition(".")
        assert (kind, name) in pairs if dot else name in {one for _, one in pairs}, key
    assert max(map(len, records.MEANINGS.values())) <= 40


def test_the_script_runs_on_any_run(made: Run) -> None:
    script = Path(__file__).parents[1] / "scripts/explore_run.py"
    command = [sys.executable, script, str(made.store.root)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("<Run ")
    for word in ("won", "gain_low", "margin", "score", "reason", "truncated"):
        assert word in told.stdout
    assert "\x1b" not in told.stdout
