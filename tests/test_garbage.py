"""`gc`: what it lists, that it removes exactly that, and that the next run makes nothing again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from arbitrage.errors import LockedError, UsageError
from arbitrage.garbage import Collection, collect_in
from arbitrage.repair import examine
from arbitrage.store import Store
from harness import digests, fake, make_config, numbered_prompts, run, write_prompts

if TYPE_CHECKING:
    from arbitrage.config import RunConfig

A = fake(0.5, "all", sampling={"n": 2, "temperature": 0.8})
B = fake(0.7, "all", options={"voice": "b"})
C = fake(0.6, "all", options={"voice": "c"})


def config_in(folder: Path, teachers: dict[str, Any], **blocks: Any) -> RunConfig:
    return make_config(folder, teachers, **blocks)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """A run of a and b, then of b and c with another Arbiter."""
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(22))
    run(config_in(tmp_path, {"a": A, "b": B}))
    other = {"engine": "fake", "options": {"fail": 0.2}}
    run(config_in(tmp_path, {"b": B, "c": C}, arbiter=other))
    return tmp_path


def now(folder: Path) -> RunConfig:
    other = {"engine": "fake", "options": {"fail": 0.2}}
    return config_in(folder, {"b": B, "c": C}, arbiter=other)


def gc(folder: Path, config: RunConfig | None = None, *keep: str, delete: bool = False) -> Any:
    return collect_in(folder / "run", config, keep=keep, delete=delete)


def kinds(found: Collection) -> set[tuple[str, str]]:
    return {(one.place.split("/", 1)[0], one.name) for one in found.garbage}


def test_what_no_component_names_is_listed_and_nothing_is_touched(made: Path) -> None:
    before = digests(made / "run")
    found = gc(made)
    assert {kind for kind, _ in kinds(found)} == {
        "candidates",
        "gates",
        "routes",
        "scores",
        "selected",
    }
    assert ("candidates", "a") in kinds(found)
    assert ("candidates", "b") not in kinds(found)
    teacher = next(one for one in found.garbage if one.name == "a")
    assert (teacher.rows, teacher.spent.requests, len(teacher.files)) == (44, 44, 3)
    sizes = [one.size_bytes for one in found.garbage]
    assert sizes == sorted(sizes, reverse=True)
    assert digests(made / "run") == before


def test_exactly_the_list_is_removed_and_nothing_is_made_again(made: Path) -> None:
    before = digests(made / "run")
    listed = {path for one in gc(made).garbage for path in one.files}
    removed = gc(made, delete=True)
    assert {path for one in removed.garbage for path in one.files} == listed
    assert digests(made / "run").keys() == before.keys() - listed
    assert not list((made / "run/candidates").glob("a-*/*"))
    assert run(now(made)).done == []
    assert gc(made).garbage == []
    assert examine(made / "run", lambda done, total: None, mend=False).is_sound


def test_a_config_counts_before_it_has_run(made: Path) -> None:
    found = gc(made, config_in(made, {"a": A, "b": B}))
    assert ("candidates", "a") not in kinds(found)
    assert ("candidates", "c") in kinds(found)
    fresh = gc(made, config_in(made, {"d": fake(0.1, "all", options={"voice": "d"})}))
    assert "selected" not in {kind for kind, _ in kinds(fresh)}


def test_what_is_to_be_kept_is_spared_and_must_exist(made: Path) -> None:
    assert ("candidates", "a") not in kinds(gc(made, None, "a", delete=True))
    assert list((made / "run/candidates").glob("a-*/*.parquet"))
    with pytest.raises(UsageError, match="--keep nobody"):
        gc(made, None, "nobody")


def test_earlier_candidates_stay_until_the_present_ones_are_there(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(22))
    few = {"a": {**A, "languages": ["de"]}, "b": B}
    run(config_in(tmp_path, few))
    more = config_in(tmp_path, {"a": A, "b": B})
    assert not [one for one in gc(tmp_path, more).garbage if one.name == "a"]
    again = run(more)
    found = [one for one in gc(tmp_path).garbage if one.name == "a"]
    assert {len(one.files) for one in found if one.place.startswith("candidates/")} == {3}
    gc(tmp_path, delete=True)
    assert run(more).done == []
    assert again.done


def test_leftovers_and_journals_of_published_files_go(made: Path) -> None:
    answers = next((made / "run/candidates").glob("b-*/*.parquet"))
    done = answers.with_name(f".journal-{answers.stem}")
    going = answers.with_name(".journal-00009.abc")
    half = answers.with_name(".tmp-0123")
    for path in (done, going, half):
        path.write_bytes(b"half")
    gc(made, delete=True)
    assert [path.exists() for path in (done, going, half)] == [False, True, False]


def test_a_run_with_a_budget_is_told_what_is_forgotten(made: Path) -> None:
    assert gc(made).warning == ""
    budget = {"requests": 10_000}
    config = make_config(made, {"b": B, "c": C}, budget=budget)
    assert "are forgotten and can be spent again" in gc(made, config).warning


def test_nothing_is_deleted_while_a_driver_is_at_work(made: Path) -> None:
    with Store(made / "run").lock():
        assert gc(made).garbage
        with pytest.raises(LockedError, match="in use by"):
            gc(made, delete=True)
