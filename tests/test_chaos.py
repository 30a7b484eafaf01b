"""The short form of `scripts/chaos.py`: every kind of disturbance once; and its judge."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import chaos
from chaos_faults import KINDS
from chaos_workload import compare
from harness import fake, make_config, numbered_prompts, run, write_prompts

if TYPE_CHECKING:
    from pathlib import Path

USUAL = [name for name, kind in KINDS.items() if kind.usual]


@pytest.mark.cluster
@pytest.mark.engine("fake")
def test_nothing_is_lost_whatever_happens(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--kills", str(len(USUAL)), "--prompts", "400", "--gap", "2", "--keep", str(tmp_path)]
    code = chaos.main(words)
    told = capsys.readouterr().out
    assert code == 0, told
    assert f"{len(USUAL)}/{len(USUAL)}" in told
    assert all(f"  {name}\n" in told for name in USUAL), told


@pytest.fixture
def whole(tmp_path: Path) -> Path:
    """A small finished run in which prompts were lost and chosen."""
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(20))
    teachers = {"a": fake(), "b": fake(options={"voice": "b", "fail": 0.3, "truncate": 0.3})}
    run(make_config(tmp_path, teachers))
    return tmp_path / "run"


def copied(whole: Path) -> tuple[Path, Path]:
    """A copy of the run, and one file of its product."""
    copy = whole.with_name("copy")
    shutil.copytree(whole, copy, symlinks=True)
    place = next(path for path in copy.glob("selected/*/*.parquet") if "latest" not in path.parts)
    return copy, place


def test_two_runs_alike_are_good(whole: Path) -> None:
    verdict = compare(whole, copied(whole)[0])
    assert verdict.is_good
    assert verdict.rows > 40


def test_a_lost_row_is_found(whole: Path) -> None:
    copy, place = copied(whole)
    pq.write_table(pq.read_table(place).slice(1), place)
    verdict = compare(whole, copy)
    assert (verdict.lost, verdict.doubled, verdict.wrong) == (1, 0, 0)
    assert verdict.examples[0].startswith("lost: ")


def test_a_doubled_row_is_found(whole: Path) -> None:
    copy, place = copied(whole)
    table = pq.read_table(place)
    pq.write_table(pa.concat_tables([table, table.slice(0, 1)]), place)
    verdict = compare(whole, copy)
    assert (verdict.lost, verdict.doubled, verdict.wrong) == (0, 1, 0)


def test_a_wrong_value_is_found(whole: Path) -> None:
    copy, place = copied(whole)
    table = pq.read_table(place)
    at = table.column_names.index("reward")
    pq.write_table(table.set_column(at, "reward", pa.array([0.125] * len(table))), place)
    verdict = compare(whole, copy)
    assert (verdict.lost, verdict.doubled, verdict.wrong) == (0, 0, len(table))


def test_other_bytes_and_leftovers_are_found(whole: Path) -> None:
    copy, place = copied(whole)
    pq.write_table(pq.read_table(place), place)
    (place.parent / ".tmp-1").touch()
    verdict = compare(whole, copy)
    assert (verdict.lost, verdict.doubled, verdict.wrong) == (0, 0, 0)
    assert not verdict.is_good
    assert verdict.files == [str(place.relative_to(copy))]
    assert len(verdict.leftovers) == 1
