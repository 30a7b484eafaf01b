"""How far a run is: by plain pandas, while it goes, and where its files are not as they were."""

from __future__ import annotations

import io
import itertools
import json
import os
import pty
import select
import signal
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from arbitrage import manifest, pace, state, tables_state
from arbitrage.errors import StoreError
from arbitrage.plan import read_state
from arbitrage.state import Notes, status
from arbitrage.store import Store
from command_line import CLI, cli, running, start
from harness import Run, fake, make_config, numbered_prompts, opened, run, work_once, write_prompts

if TYPE_CHECKING:
    from pathlib import Path

PROMPTS = 40
POOL = {
    "half": fake(0.5, options={"truncate": 0.4, "empty": 0.3, "voice": "h"}, sampling={"n": 2}),
    "deaf": fake(0.4, ["de", "sw"], options={"empty": 0.5, "fail": 0.2, "voice": "d"}),
}
PATIENCE_S = 30.0


def config_of(folder: Path, **blocks: Any) -> Any:
    rows = [*numbered_prompts(PROMPTS), {"id": "bad"}, {"prompt": " ", "language": "de"}]
    source = write_prompts(folder / "prompts.jsonl", rows)
    return make_config(folder, POOL, source, **blocks)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return run(config_of(tmp_path_factory.mktemp("state")))


def text_of(found: state.Status, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(tables_state.of_status(found), soft_wrap=True)
    output: str = console.file.getvalue()  # type: ignore[attr-defined]
    return output


def step(made: Run) -> None:
    """One task, with its line in the diary as the driver writes it."""
    before = len(made.done)
    work_once(made)
    for task, report in made.done[before:]:
        manifest.record_task(made.store, task, report, "replica")


def test_what_is_counted_is_what_the_files_hold(made: Run) -> None:
    found = status(made.store.root)
    roles = {(role.stage, role.name): role for role in found.roles}
    for teacher in made.components.teachers:
        paths = sorted(made.store.root.glob(f"candidates/{teacher.label}/*.parquet"))
        rows = pd.concat(map(pd.read_parquet, paths))
        role = roles["generate", teacher.name]
        assert (role.done, role.known, role.rows) == (len(paths), len(paths), len(rows))
        assert role.errors == rows["error"].notna().sum()
        assert role.completion_tokens == rows["completion_tokens"].sum()
    assert roles["generate", "deaf"].errors > 0
    assert roles["score", "arbiter"].rows == sum(roles["generate", n].rows for n in POOL)
    lost = pd.DataFrame(made.rows("quarantine"))
    assert (found.prompts, found.selected) == (PROMPTS, len(made.rows("selected")))
    assert found.quarantined == len(lost) > 0
    assert found.refused == 2
    assert found.is_complete
    assert found.share == 1
    assert (found.left_s, {role.rows_per_s for role in found.roles}) == (None, {None})
    told = found.as_dict()
    assert json.loads(json.dumps(told)) == json.loads(json.dumps(told, allow_nan=False))
    assert told["complete"] is True
    assert [role["share"] for role in told["roles"]] == [1.0] * 5


def test_a_run_that_is_being_made_is_never_an_error(tmp_path: Path) -> None:
    made = opened(config_of(tmp_path))
    looks = [status(made.store.root)]
    notes: Notes = {}
    while made.board.is_open():
        step(made)
        looks.append(status(made.store.root))
        again = status(made.store.root, notes)
        assert [vars(r) for r in again.roles] == [vars(r) for r in looks[-1].roles], "remembered"
    assert len(looks) > 20
    for earlier, later in itertools.pairwise(looks):
        assert earlier.selected + earlier.quarantined <= later.selected + later.quarantined
        assert earlier.share <= later.share
        for one, other in zip(earlier.roles, later.roles, strict=True):
            assert one.done <= other.done
            assert one.rows <= other.rows
    assert [look.is_complete for look in looks].index(True) >= len(looks) - 2
    assert looks[-1].is_complete


def test_speed_and_time_left_are_told_of_a_running_run_alone(tmp_path: Path) -> None:
    made = opened(config_of(tmp_path))
    while not any(task.stage == "select" for task, _ in made.done):
        step(made)
    idle = status(made.store.root)
    assert idle.left_s is None
    assert {role.rows_per_s for role in idle.roles} == {None}
    with made.store.lock():
        found = status(made.store.root)
    assert found.running
    assert found.holder
    events = [event for event in made.store.events() if event["event"] == "task_done"]
    teacher = made.components.teachers[-1]
    own = [event for event in events if event["owner"] == teacher.fingerprint]
    since = min(event["time"] - event["seconds"] for event in own)
    rate = sum(event["rows"] for event in own) / (events[-1]["time"] - since)
    role = next(r for r in found.roles if r.name == teacher.name)
    assert role.rows_per_s == pytest.approx(rate)
    assert role.rows_left == sum(
        lane.generate.requests
        for shard in read_state(made.components, made.store)[1]
        for lane in made.planner.lanes(shard)
        if lane.generate.owner == teacher.fingerprint and not made.planner.is_done(lane.generate)
    )
    if role.rows_left:
        assert role.left_s == pytest.approx(role.rows_left / rate)
    lefts = [role.left_s for role in found.roles if role.rows_left]
    assert found.left_s == (None if None in lefts or found.unrouted else max(lefts))
    assert "rows/s" in text_of(found)
    assert "rows/s" not in text_of(idle)


def event(kind: str, at: float, **more: Any) -> dict[str, Any]:
    return {"event": kind, "time": at, **more}


def test_the_pace_is_that_of_the_last_call() -> None:
    done = {"stage": "generate", "owner": "t", "seconds": 2.0}
    events = [
        event("run_started", 0.0),
        event("task_done", 5.0, rows=1000, **done),
        event("set_aside", 6.0, role="t", reason="it failed"),
        event("run_started", 100.0),
        event("task_done", 112.0, rows=30, **done),
        event("task_done", 120.0, rows=70, **done),
    ]
    call = pace.last_call(events)
    assert call.rows_per_s("generate", "t") == pytest.approx(100 / 10)
    assert call.rows_per_s("score", "t") is None
    assert call.set_aside == {}
    assert not call.ended
    assert pace.last_call(events[:3]).set_aside == {"t": "it failed"}
    assert pace.last_call([*events, event("run_ended", 130.0)]).ended
    assert pace.last_call([]).last is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
)
ODD = st.fixed_dictionaries(
    {},
    optional={
        "event": st.sampled_from(["run_started", "task_done", "set_aside"]) | JSON,
        "time": st.floats(0, 1e9) | JSON,
        "rows": st.integers(0, 9) | JSON,
        "seconds": st.floats(0, 9) | JSON,
        "owner": JSON,
    },
)


@given(st.lists(JSON | ODD, max_size=8))
def test_no_line_of_the_diary_is_an_error(events: list[Any]) -> None:
    call = pace.last_call(events)
    for stage, owner in list(call.rows):
        rate = call.rows_per_s(stage, owner)
        assert rate is None or rate != 0


@pytest.mark.parametrize(
    "lines", [b'{"time": 1, "ev', b"\xff\xfe\n", b"[]\n", b"3\n", b'{"event": "x"}\n', b"\n\n"]
)
def test_a_torn_diary_is_passed_over(tmp_path: Path, made: Run, lines: bytes) -> None:
    before = status(made.store.root)
    path = made.store.root / "events.jsonl"
    whole = path.read_bytes()
    try:
        path.write_bytes(whole + lines)
        found = status(made.store.root)
    finally:
        path.write_bytes(whole)
    assert found.last_event == before.last_event
    assert found.is_complete


def test_a_file_that_goes_while_this_looks_is_looked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = run(config_of(tmp_path))
    (lost,) = made.store.root.glob("candidates/half-*/00002.*.parquet")

    def read_and_lose(*args: Any) -> Any:
        told = read_state(*args)
        lost.unlink(missing_ok=True)
        return told

    monkeypatch.setattr(state, "read_state", read_and_lose)
    found = status(made.store.root)
    role = next(role for role in found.roles if role.name == "half")
    assert (role.done, role.known) == (4, 5)


@pytest.mark.parametrize("what", ["damaged", "foreign", "unnumbered", "unreadable"])
@pytest.mark.parametrize("kind", ["candidates/half", "prompts", "routes/all", "scores/arbiter"])
def test_an_unusable_file_is_one_sentence(tmp_path: Path, kind: str, what: str) -> None:
    made = run(config_of(tmp_path))
    folder, _, name = kind.partition("/")
    places = [p for p in made.store.root.glob(f"{folder}/{name}*") if p.is_dir()]
    place = places[0] if name else made.store.root / kind
    path = sorted(place.rglob("*.parquet"))[0]
    if what == "damaged":
        path.write_bytes(path.read_bytes()[:50])
    elif what == "foreign":
        pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)
    elif what == "unnumbered":
        path.rename(path.with_name("mine.parquet"))
    else:
        path.unlink()
        path.mkdir()
    usable = {("unnumbered", "routes"), ("unnumbered", "scores"), ("foreign", "prompts")}
    if (what, folder) in usable:
        assert status(made.store.root).prompts == PROMPTS
        return
    with pytest.raises(StoreError) as caught:
        status(made.store.root)
    assert "\n" not in str(caught.value)
    assert place.name in str(caught.value)


def test_what_the_budget_has_left_is_told(tmp_path: Path) -> None:
    made = run(config_of(tmp_path, budget={"requests": 1000, "tokens": 5}))
    found = status(made.store.root)
    notes = [
        json.loads(pq.read_metadata(path).metadata[b"arbitrage"])["spent"]
        for kind in ("candidates", "scores")
        for path in made.store.root.glob(f"{kind}/**/*.parquet")
    ]
    spent = Counter[str]()
    for note in notes:
        spent.update(note)
    tokens = spent["prompt_tokens"] + spent["completion_tokens"]
    assert found.budget == {"requests": (spent["requests"], 1000), "tokens": (tokens, 5)}
    told = f"budget: {tokens:,} of 5 tokens, {spent['requests']:,} of 1,000 requests (tokens: "
    assert told in text_of(found)
    told_as_json = json.loads(cli("status", made.store.root, "--json").stdout)
    assert told_as_json["budget"]["tokens"] == [tokens, 5]


def test_the_table_fits_and_says_what_is_lost(made: Run) -> None:
    output = text_of(status(made.store.root))
    lines = output.splitlines()
    assert max(map(len, lines[1:])) <= 80
    assert lines[0].startswith(f"{made.store.root}: not running, complete, last event run_ended")
    lost = len(made.rows("quarantine"))
    told = f"ledger: 40 prompts = {40 - lost} selected + {lost} quarantined\nrefused: 2 rows"
    assert told in output
    assert "rows with an error: deaf " in output
    assert output.count("100%") == 5


@given(st.floats(0, 1))
def test_only_what_is_done_is_100_percent_and_only_nothing_is_0(share: float) -> None:
    told = tables_state.percent(share)
    assert (told == "100%") == (share == 1)
    assert (told == "0%") == (share == 0)
    bar = tables_state._bar(share).plain
    assert (tables_state.REST not in bar) == (share == 1)
    assert (tables_state.FULL not in bar) == (share == 0)
    assert len(bar) == tables_state.BAR_WIDTH + 5


# Watching


def test_watching_a_run_that_is_over_ends_at_once(made: Run) -> None:
    told = cli("status", made.store.root, "--watch")
    assert (told.returncode, told.stderr) == (0, "")
    (line,) = told.stdout.splitlines()
    assert "not running, complete, 100%: deaf 5/5, half 5/5, gates 10/10, arbiter 10/10" in line
    told = cli("status", made.store.root, "--watch", "--json")
    assert json.loads(told.stdout)["complete"] is True


def test_each_change_is_a_line_until_the_run_is_over(tmp_path: Path) -> None:
    made = opened(config_of(tmp_path))
    with running("status", made.store.root, "--watch", "--every", "0.1") as watcher:
        assert watcher.stdout is not None
        with made.store.lock():
            lines = [watcher.stdout.readline()]
            for _ in range(3):
                step(made)
                lines.append(watcher.stdout.readline())
        lines += watcher.stdout.readlines()
        assert watcher.wait(PATIENCE_S) == 0
        assert watcher.stderr is not None
        assert watcher.stderr.read() == ""
    states = [line.partition("  ")[2] for line in lines]
    assert len(set(states)) == len(states) >= 4
    assert states[0].startswith("running, ")
    assert states[-1].startswith("not running, ")


def test_ctrl_c_ends_watching_and_is_no_failure(made: Run) -> None:
    with made.store.lock():
        watcher = start("status", made.store.root, "--watch")
        assert watcher.stdout is not None
        assert watcher.stdout.readline()
        watcher.send_signal(signal.SIGINT)
        out, err = watcher.communicate(timeout=PATIENCE_S)
    assert (watcher.returncode, out, err) == (0, "", "")


def test_on_a_terminal_it_stays_in_place(made: Run) -> None:
    with made.store.lock():
        child, terminal = pty.fork()
        if child == 0:  # pragma: no cover - another process
            os.environ.update(TERM="xterm", COLUMNS="100", LINES="40")
            os.execv(CLI[0], [*CLI, "status", str(made.store.root), "--watch", "--every", "0.1"])
        seen = b""
        deadline = time.monotonic() + PATIENCE_S
        while seen.count(b"by") < 3:
            assert time.monotonic() < deadline
            if select.select([terminal], [], [], 0.1)[0]:
                seen += os.read(terminal, 65536)
        os.write(terminal, b"\x03")
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(terminal)
    assert code == 0
    assert b"Traceback" not in seen
    assert b"\x1b[1A" in seen, "drawn over what was there"
    assert "running (process " in seen.decode()


def test_a_run_that_is_no_longer_there_is_one_sentence(tmp_path: Path) -> None:
    told = cli("status", tmp_path, "--watch")
    assert told.returncode == 2
    assert told.stderr.count("\n") == 1
    assert "is no run directory" in told.stderr
    Store(tmp_path).write_text("run.json", "{")
    told = cli("status", tmp_path, "--watch")
    assert told.returncode == 1
    assert told.stderr.count("\n") == 1
