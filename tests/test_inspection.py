"""What `arbitrage inspect` says, recounted from the Parquet files by plain pandas."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from arbitrage import frames, tables_inspect
from arbitrage.errors import UsageError
from arbitrage.inspection import LONG, Inspection, inspect
from arbitrage.records import SCHEMAS
from command_line import cli
from harness import Run, fake, make_config, numbered_prompts, opened, run, write_prompts

PROMPTS = 40
KINDS = ("selected", "candidates", "scores", "gates", "prompts", "routes", "quarantine")
POOL = {
    "half": fake(0.5, options={"truncate": 0.4, "empty": 0.3, "voice": "h"}, sampling={"n": 2}),
    "deaf": fake(0.4, ["de", "sw"], options={"empty": 0.5, "fail": 0.2, "voice": "d"}),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("inspect")
    rows = [*numbered_prompts(PROMPTS), {"id": "bad"}, {"prompt": "", "language": "de"}]
    return run(make_config(folder, POOL, write_prompts(folder / "prompts.jsonl", rows)))


def paths_of(made: Run, kind: str) -> list[Path]:
    found = sorted(made.store.root.glob(f"{kind}/**/*.parquet"))
    return [path for path in found if "latest" not in path.parts]


def shown(found: Inspection) -> str:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(tables_inspect.of_inspection(found), soft_wrap=True)
    output: str = console.file.getvalue()  # type: ignore[attr-defined]
    return output


@pytest.mark.parametrize("kind", KINDS)
def test_files_rows_and_nulls_are_those_of_the_files(made: Run, kind: str) -> None:
    paths = paths_of(made, kind)
    found = inspect(made.store.root, kind, nulls=True)
    assert (found.files, found.rows) == (len(paths), sum(len(pd.read_parquet(p)) for p in paths))
    assert found.size_bytes == sum(path.stat().st_size for path in paths)
    assert found.row_groups == sum(pq.read_metadata(path).num_row_groups for path in paths)
    assert found.places == sorted({str(p.parent.relative_to(made.store.root)) for p in paths})
    rows = pd.concat(map(pd.read_parquet, paths))
    told = {column.name: column.nulls for column in found.columns}
    for name in SCHEMAS[kind].names:
        assert told[name] == rows[name].isna().sum(), name
    assert sum(found.counts.values()) == found.rows
    assert [column.name for column in found.columns] == frames.schema_of(kind).names
    brief = inspect(made.store.root, kind)
    assert brief.counts == found.counts
    for column in brief.columns:
        long = column.name in LONG and frames.schema_of(kind).field(column.name).nullable
        assert column.nulls == (None if long else told[column.name])


@pytest.mark.parametrize("kind", ["candidates", "scores", "gates"])
def test_rows_are_counted_by_language_and_teacher(made: Run, kind: str) -> None:
    codes = made.frame("prompts").set_index("prompt_id")["language"]
    expected: Counter[tuple[str, str]] = Counter()
    for path in paths_of(made, kind):
        name = path.parent.name.rpartition("-")[0]
        expected.update((codes[key], name) for key in pd.read_parquet(path)["prompt_id"])
    assert inspect(made.store.root, kind).counts == expected


def test_the_product_and_what_was_lost_are_counted_too(made: Run) -> None:
    rows = made.frame("selected")
    expected = rows.value_counts(["language", "teacher"]).to_dict()
    assert inspect(made.store.root).counts == expected
    lost = pd.concat(map(pd.read_parquet, paths_of(made, "quarantine")))
    found = inspect(made.store.root, "quarantine")
    assert found.counts == Counter(zip(lost["language"].fillna(""), lost["reason"], strict=True))
    assert found.by == "reason"


def test_long_texts_are_not_read_unless_they_are_shown(tmp_path: Path) -> None:
    rows = numbered_prompts(PROMPTS)
    made = run(make_config(tmp_path, POOL, write_prompts(tmp_path / "prompts.jsonl", rows)))
    whole = inspect(made.store.root, "candidates")
    for path in paths_of(made, "candidates"):
        metadata = pq.read_metadata(path).row_group(0)
        names = [metadata.column(n).path_in_schema for n in range(metadata.num_columns)]
        chunk = metadata.column(names.index("completion"))
        data = bytearray(path.read_bytes())
        data[chunk.data_page_offset : chunk.data_page_offset + 8] = bytes(8)
        path.write_bytes(data)
    assert inspect(made.store.root, "candidates") == whole
    for asked in ("--nulls", "--rows=1"):
        assert cli("inspect", made.store.root, "--kind", "candidates", asked).returncode == 1


def test_the_rows_shown_are_the_first_and_hold_every_column(made: Run) -> None:
    found = inspect(made.store.root, rows=20)
    rows = made.frame("selected")
    assert [row["prompt_id"] for row in found.sample] == rows["prompt_id"].tolist()[:20]
    assert list(found.sample[0]) == SCHEMAS["selected"].names
    assert len(inspect(made.store.root, rows=1000).sample) == len(rows)
    assert inspect(made.store.root).sample == []


def test_a_run_without_rows_is_told(tmp_path: Path) -> None:
    source = write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(3))
    empty = opened(make_config(tmp_path, POOL, source))
    for kind in KINDS:
        found = inspect(empty.store.root, kind, rows=3)
        assert (found.files, found.rows, found.sample) == (0, 0, [])
        assert "there is no file of this kind" in shown(found)
    with pytest.raises(UsageError, match="is no run directory"):
        inspect(tmp_path)


def test_it_fits_80_columns_and_the_matrix_adds_up(made: Run) -> None:
    for kind in KINDS:
        lines = shown(inspect(made.store.root, kind)).splitlines()
        assert max(map(len, lines[2:])) <= 80, kind
    lines = shown(inspect(made.store.root, "candidates")).splitlines()
    start = lines.index("rows by language and teacher") + 1
    matrix = [line.split() for line in lines[start : start + 5]]
    assert matrix[0] == ["language", "deaf", "half", "all"]
    table = {row[0]: [0 if n == "." else int(n) for n in row[1:]] for row in matrix[1:]}
    assert table["ja"][0] == 0
    assert [sum(table[c][n] for c in ("de", "ja", "sw")) for n in range(3)] == table["all"]
    assert table["all"][0] + table["all"][1] == table["all"][2]


NAMES = st.text("abcdefghij", min_size=1, max_size=30)


@given(
    st.dictionaries(st.tuples(st.sampled_from(["de", "sw", "ja"]), NAMES), st.integers(1, 10**7))
)
def test_a_matrix_of_any_width_is_cut_into_blocks_that_fit(counts: dict[Any, int]) -> None:
    names = sorted({name for _, name in counts})
    blocks = list(tables_inspect._blocks(names, counts, 8))
    assert [name for block in blocks for name in block] == names
    assert all(blocks) or not names
    found = Inspection("run", "selected", [], "teacher", counts=Counter(counts))
    console = Console(file=io.StringIO(), width=80, color_system=None)
    for part in tables_inspect._matrix(found) if counts else ():
        console.print(part, soft_wrap=True)
    output: str = console.file.getvalue()  # type: ignore[attr-defined]
    assert all(len(line.rstrip()) <= 80 for line in output.splitlines())
    assert output.count("\u2026") == sum(len(name) > 20 for name in names)


EVIL = "a\x1b[2J\rb\u202ec\u2067\n[red]d[/red]\x07" + "x" * 500


def test_hostile_text_is_harmless_and_cut() -> None:
    row: dict[str, Any] = {"prompt_id": EVIL, "messages": [{"role": EVIL, "content": EVIL}]}
    found = Inspection("run", "selected", ["selected/x"], "teacher", files=1, sample=[row])
    found.counts[EVIL[:9], EVIL] = 1
    found.columns = inspect_columns()
    output = shown(found)
    assert not set("\x1b\r\u202e\u2067\x07") & set(output)
    assert "\\x1b[2J" in output
    assert "\\x202e" in output
    assert "[red]d[/red]" in output
    assert f"... and {len(EVIL) - 160:,} more characters" in output
    lines = output[output.index("row 1") :].splitlines()
    assert all(line.startswith(("prompt_id", "messages", "row 1", " " * 11)) for line in lines)


def inspect_columns() -> list[Any]:
    from arbitrage.inspection import Column

    return [Column("prompt_id", "string", "hash", 0), Column("messages", "list", "talk", None)]


def test_the_command_prints_it_all(made: Run) -> None:
    told = cli("inspect", made.store.root, "--rows", "1")
    assert (told.returncode, told.stderr) == (0, "")
    assert "rows by language and teacher" in told.stdout
    assert "row 1\n" in told.stdout
    assert "row 2" not in told.stdout
    told = cli("inspect", made.store.root, "--kind", "quarantine", "--json", "--rows", "2")
    found = json.loads(told.stdout)
    assert found["rows"] == len(made.rows("quarantine")) + 2
    assert len(found["sample"]) == 2
    assert sum(one["rows"] for one in found["counts"]) == found["rows"]
    assert {one["language"] for one in found["counts"]} >= {"de"}
    wrong = cli("inspect", made.store.root, "--kind", "nothing")
    assert wrong.returncode == 2
