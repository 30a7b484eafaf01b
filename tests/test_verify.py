"""`verify` over runs that were damaged by hand, and runs that go on after a repair."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arbitrage.errors import LockedError
from arbitrage.repair import Examination, examine
from arbitrage.store import Store
from harness import digests, fake, make_config, numbered_prompts, read_rows, run, write_prompts

if TYPE_CHECKING:
    from collections.abc import Callable

    from arbitrage.config import RunConfig

POOL = {
    "a": fake(0.5, ["de", "sw"], sampling={"n": 2, "temperature": 0.8}, options={"fail": 0.5}),
    "b": fake(0.7, ["sw", "ja"], options={"voice": "b", "truncate": 0.5, "empty": 0.3}),
}
ROWS = [*numbered_prompts(22), {"prompt": ""}, numbered_prompts(1)[0]]


def config_in(folder: Path, **blocks: Any) -> RunConfig:
    if not (folder / "prompts.jsonl").exists():
        write_prompts(folder / "prompts.jsonl", ROWS)
    arbiter = {"engine": "fake", "options": {"fail": 0.3}}
    return make_config(folder, blocks.pop("teachers", POOL), arbiter=arbiter, **blocks)


def look(folder: Path, *, mend: bool = False) -> Examination:
    return examine(folder / "run", lambda done, total: None, mend=mend)


def told(found: Examination) -> str:
    return "\n".join(f"{fault.path}: {fault.what}" for fault in found.findings.faults)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    run(config_in(tmp_path))
    return tmp_path


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    run(config_in(folder))
    return folder


def file_of(folder: Path, kind: str, number: int = 1) -> Path:
    """A data file of a shard."""
    return sorted((folder / "run" / kind).rglob(f"{number:05d}*.parquet"))[0]


def rewritten(path: Path, root: Path, change: Callable[[pa.Table], pa.Table], **note: Any) -> None:
    """Publishes a changed table under the name that is there: sound by itself, and a lie."""
    relative = path.relative_to(root).as_posix()
    content = Store(root).read(relative)
    footer = {k: v for k, v in content.footer.items() if k != "kind"} | note
    Store(root).publish(relative, change(content.table), footer)


def mended(folder: Path, before: dict[str, str]) -> None:
    """A repair leaves no fault, and the next run makes the very same files."""
    assert look(folder, mend=True).is_sound
    run(config_in(folder))
    assert digests(folder / "run") == before
    assert look(folder).is_sound, told(look(folder))


def test_an_undisturbed_run_is_sound_and_every_file_is_read(made: Path) -> None:
    found = look(made)
    assert found.is_sound, told(found)
    assert found.findings.notes == []
    files = {kind: files for kind, files, _, _ in found.findings.table() if kind != "papers"}
    assert sum(files.values()) == len(digests(made / "run"))
    rows = {kind: rows for kind, _, rows, _ in found.findings.table()}
    assert rows["prompts"] == 22
    assert rows["selected"] + rows["quarantine"] == 22 + 2


def test_a_run_that_was_stopped_is_sound(tmp_path: Path) -> None:
    for tasks in (1, 3, 6, 11):
        run(config_in(tmp_path), stop_after=tasks)
        assert look(tmp_path).is_sound, told(look(tmp_path))


@pytest.mark.parametrize(
    "kind", ["prompts", "routes", "candidates", "scores", "selected", "quarantine/select"]
)
@pytest.mark.parametrize("how", ["cut", "page"])
def test_a_broken_file_is_found_and_made_again(made: Path, kind: str, how: str) -> None:
    before = digests(made / "run")
    path = file_of(made, kind)
    data = bytearray(path.read_bytes())
    middle = slice(len(data) // 4, len(data) // 4 + 40)
    data[middle] = bytes(byte ^ 1 for byte in data[middle])
    path.write_bytes(bytes(data) if how == "page" else bytes(data[:-9]))
    assert path.relative_to(made / "run").as_posix() in told(look(made))
    mended(made, before)


def test_damage_in_one_place_does_not_hide_damage_in_another(made: Path) -> None:
    before = digests(made / "run")
    broken = [file_of(made, kind, 0) for kind in ("prompts", "candidates", "selected")]
    broken += [file_of(made, kind, 2) for kind in ("scores", "routes")]
    for path in broken:
        path.write_bytes(b"PAR1 and nothing else")
    for path in broken:
        assert path.relative_to(made / "run").as_posix() in told(look(made))
    mended(made, before)


def test_a_prompt_shard_that_is_gone_comes_back_under_its_number(made: Path) -> None:
    before = digests(made / "run")
    file_of(made, "prompts").unlink()
    assert "the prompts of shard 1 are gone" in told(look(made))
    mended(made, before)


def test_a_prompt_shard_that_cannot_be_restored_is_left_and_named(made: Path) -> None:
    before = digests(made / "run")
    path = file_of(made, "prompts")
    path.write_bytes(b"nothing")
    write_prompts(made / "prompts.jsonl", ROWS[:4])
    found = look(made, mend=True)
    assert not found.is_sound
    assert "neither it nor the sources" in found.repaired.left[0].what  # type: ignore[union-attr]
    after = digests(made / "run")
    assert {k: v for k, v in after.items() if before[k] != v}.keys() == {
        path.relative_to(made / "run").as_posix()
    }


def test_the_last_prompt_shard_is_read_again_where_nothing_knows_of_it(tmp_path: Path) -> None:
    run(config_in(tmp_path), stop_after=1)
    file_of(tmp_path, "prompts", 0).write_bytes(b"nothing")
    assert look(tmp_path, mend=True).is_sound
    run(config_in(tmp_path))
    assert look(tmp_path).is_sound


def null_error(table: pa.Table) -> pa.Table:
    place = table.schema.get_field_index("error")
    nulls = pa.nulls(table.num_rows, pa.string())
    return table.set_column(place, table.schema.field(place), nulls)


def best_by_hand(table: pa.Table) -> pa.Table:
    place = table.schema.get_field_index("reward")
    higher = pa.array([value + 1.0 for value in table["reward"].to_pylist()])
    return table.set_column(place, table.schema.field(place), higher)


LIES: dict[str, tuple[str, Callable[[pa.Table], pa.Table], dict[str, Any], str]] = {
    "prompts": ("prompts", lambda t: t.slice(1), {}, "not what its name says"),
    "routes": ("routes", lambda t: t.slice(1), {}, "not about the prompts"),
    "routes' footer": ("routes", lambda t: t, {"teachers": {}}, "footer does not say"),
    "teacher": ("candidates", lambda t: t, {"teacher": "0" * 12}, "another teacher"),
    "sample": ("candidates", lambda t: t.slice(1), {}, "samples 0 to"),
    "twice": ("candidates", lambda t: pa.concat_tables([t, t]), {}, "samples 0 to"),
    "no error": ("candidates", null_error, {}, "null without an error"),
    "fewer prompts": ("candidates", lambda t: t.slice(2), {}, "not those that its name says"),
    "arbiter": ("scores", lambda t: t, {"arbiter": "0" * 12}, "another Arbiter"),
    "scored else": ("scores", lambda t: t, {"candidates": "0" * 64}, "not what was scored"),
    "other rows": ("scores", lambda t: t.slice(1), {}, "not those of its candidates"),
    "no score": ("scores", null_error, {}, "score is null without an error"),
    "reward": ("selected", best_by_hand, {}, "not the best of its candidates"),
    "ledger": ("selected", lambda t: t.slice(1), {}, "ledger does not add up"),
    "lost": ("quarantine/select", lambda t: t.slice(1), {}, "ledger does not add up"),
    "refused": ("quarantine/read", lambda t: t.slice(1), {}, "that were refused"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_file_that_is_whole_but_wrong_is_found_and_made_again(made: Path, lie: str) -> None:
    before = digests(made / "run")
    kind, change, note, what = LIES[lie]
    paths = sorted((made / "run" / kind).rglob("*.parquet"))
    number = 0 if kind == "quarantine/read" else 1
    lost = (
        [
            path
            for path in paths
            if Store(made / "run")
            .read(path.relative_to(made / "run").as_posix())
            .table["error"]
            .null_count
            < Store(made / "run").read(path.relative_to(made / "run").as_posix()).table.num_rows
        ]
        if change is null_error
        else paths
    )
    rewritten(lost[number], made / "run", change, **note)
    assert what in told(look(made))
    mended(made, before)


@pytest.mark.parametrize("paper", ["prompts/sources.json", "manifest", "identity", "run.json"])
def test_damaged_papers_are_found_and_written_anew(made: Path, paper: str) -> None:
    before = digests(made / "run")
    root = made / "run"
    path = root / paper if paper.endswith(".json") else next(root.rglob(f"*.{paper}.json"))
    path.write_text("{", encoding="utf-8")
    assert path.relative_to(root).as_posix() in told(look(made))
    mended(made, before)
    json.loads(path.read_text(encoding="utf-8"))


def test_the_manifest_s_checksums_and_the_sources_ledger_are_held_against_the_files(
    made: Path,
) -> None:
    before = digests(made / "run")
    manifest = next((made / "run").rglob("*.manifest.json"))
    note = json.loads(manifest.read_text(encoding="utf-8"))
    note["files"][0]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(note), encoding="utf-8")
    memo = made / "run/prompts/sources.json"
    note = json.loads(memo.read_text(encoding="utf-8"))
    next(iter(note.values()))["accepted"] += 1
    memo.write_text(json.dumps(note), encoding="utf-8")
    assert "whose checksum is in the manifest" in told(look(made))
    assert "do not add up" in told(look(made))
    mended(made, before)


def test_doubled_prompts_and_strange_files_are_left_to_a_person(made: Path) -> None:
    rows = file_of(made, "prompts", 0)
    content = Store(made / "run").read(rows.relative_to(made / "run").as_posix())
    Store(made / "run").publish("prompts/00003.{digest}.parquet", content.table.slice(1), {})
    shutil.copy(rows, made / "run/prompts/mine.parquet")
    found = look(made, mend=True)
    assert "are there twice in the run" in told(found)
    assert "mine.parquet: no run gives a file such a name" in told(found)
    assert found.repaired is not None
    assert found.repaired.removed == []
    assert not found.is_sound


def test_what_killed_processes_left_is_noted_and_no_fault(made: Path) -> None:
    (file_of(made, "candidates").parent / ".tmp-0123").write_bytes(b"half")
    (file_of(made, "candidates").parent / ".journal-0123").write_bytes(b"half")
    found = look(made)
    assert found.is_sound
    assert len(found.findings.notes) == 2


def test_earlier_components_are_checked_as_far_as_they_can_be(made: Path) -> None:
    run(config_in(made, teachers={"b": {**POOL["b"], "languages": "all"}}))
    assert look(made).is_sound, told(look(made))
    path = next((made / "run/candidates").glob("a-*/00001*"))
    rewritten(path, made / "run", lambda table: table.slice(2))
    assert "not those that its name says" in told(look(made))


def test_a_repair_is_refused_while_a_driver_is_at_work(made: Path) -> None:
    with Store(made / "run").lock(), pytest.raises(LockedError, match="in use by"):
        look(made, mend=True)


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_flipped_byte_is_noticed_or_changes_nothing(original: Path, data: Any) -> None:
    folder = original.parent / "flipped"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(original, folder, symlinks=True)
    config = config_in(folder, prompts={"sources": [{"path": str(original / "prompts.jsonl")}]})
    before = digests(original / "run")
    name = data.draw(st.sampled_from(sorted(before)))
    path = folder / "run" / name
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(bytes(content))
    found = look(folder, mend=True)
    run(config)
    kind = name.split("/", 1)[0]
    assert read_rows(folder / "run", kind) == read_rows(original / "run", kind)
    if found.findings.faults and kind != "candidates":
        assert digests(folder / "run") == before
