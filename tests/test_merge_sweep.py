"""Sweeps of merges: points and their names, what is made once and only once, figures recomputed
from the files, refusals, stops, kills, and what is removed."""

from __future__ import annotations

import io
import json
import math
import os
import re
import shutil
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import sweep_harness as harness
import yaml
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from sweep_harness import GRID, NAMES, config_of, install, swept

import merge_models as models
from arbitrage import leaderboard, tables_sweep
from arbitrage.errors import ConfigError, Stopped, UsageError
from arbitrage.merging import merge, points, sweep
from arbitrage.merging.outcome import Figures, Outcome, Swept
from arbitrage.merging.sweep_config import SweepConfig, load_sweep
from arbitrage.merging.sweep_outlook import outlook_of
from arbitrage.winrate.results import Estimate
from command_line import cli, start, write_config
from harness import numbered_prompts, read_rows, write_prompts

if TYPE_CHECKING:
    from sweep_harness import Asked

TEACHER_NAME = re.compile(r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
Z95 = 1.959964


def points_of(grid: list[dict[str, Any]], **merged: Any) -> tuple[points.Point, ...]:
    """Points without folders: a model's content is its path."""
    told = config_of(grid, merge=merged)
    config = SweepConfig.model_validate(told)
    return points.points_of(config, "sweep.yaml", lambda name, model: model.model)


def names_of(grid: list[dict[str, Any]], **merged: Any) -> list[str]:
    return [point.name for point in points_of(grid, **merged)]


# What a grid makes, and what it is called.


def test_a_point_is_called_after_what_varies_among_its_method() -> None:
    assert names_of(GRID) == NAMES
    assert names_of([{"method": ["ties", "dare_ties"], "density": 0.5}]) == ["ties", "dare_ties"]
    assert names_of([{"method": "ties"}, {"method": "ties", "density": 0.5}]) == [
        "ties",
        "ties-density0.5",
    ]
    grid = [{"method": "ties", "density": [0.2, 0.5], "scale": [1, 1.5], "normalize": True}]
    assert names_of(grid)[-1] == "ties-density0.5-scale1.5"


def test_a_list_as_a_value_stands_in_a_list_and_patterns_are_one_value() -> None:
    [flat, curved, mapped] = points_of(
        [{"method": "linear", "weight": [1.0, [0, 0.5, 1], {"*.mlp.*": 0.3, "*": 1}]}]
    )
    assert flat.config.weight == 1.0
    assert curved.config.weight == (0, 0.5, 1)
    assert curved.name == "linear-weight0_0.5_1"
    assert mapped.config.weight == {"*.mlp.*": 0.3, "*": 1}
    assert mapped.name == "linear-weight.3"


def test_equal_points_are_one_and_a_default_that_is_said_is_the_default() -> None:
    grid = [
        {"method": "ties", "density": [0.5, 0.5]},
        {"method": "ties", "density": 0.5, "scale": 1.0},
        {"method": "ties", "density": 0.5, "models.romance.weight": 1.0, "normalize": True},
    ]
    assert len(points_of(grid)) == 1
    ordered = [{"*.mlp.*": 0.3, "*": 1.0}, {"*": 1.0, "*.mlp.*": 0.3}]
    assert len(points_of([{"method": "linear", "weight": ordered}])) == 2, "the first that fits"
    assert len(points_of([{"method": "ties", "threads": [1, 4]}])) == 1


def test_what_all_share_is_taken_as_far_as_a_method_makes_use_of_it() -> None:
    told = {"density": 0.3, "models": {"a": {"model": "a", "density": 0.5}, "b": "b"}}
    linear, ties = points_of([{"method": ["linear", "ties"]}], **told)
    assert linear.config.base is None
    assert linear.config.models["a"].density is None
    assert ties.config.density == 0.3
    assert ties.config.models["a"].density == 0.5


def test_models_are_their_content_and_a_name_only_names_but_for_dare() -> None:
    def prints(method: str, **told: Any) -> set[str]:
        return {point.fingerprint for point in points_of([{"method": method}], **told)}

    other = {"models": {"x": "models/germanic", "y": "models/romance"}}
    assert prints("ties") == prints("ties", **other)
    assert prints("dare_ties") != prints("dare_ties", **other), "DARE draws by the name"
    turned = {"models": {"b": "models/romance", "a": "models/germanic"}}
    assert prints("slerp") != prints("slerp", **turned)
    assert prints("ties") != prints("ties", density=0.5)
    assert prints("ties") != prints("ties", base="elsewhere")
    assert prints("ties") != prints("ties", like="romance")
    assert prints("ties") == prints("ties", like="germanic")
    assert prints("ties") != prints("ties", dtype="float16")


@pytest.mark.parametrize(
    ("grid", "merged", "said"),
    [
        (
            [{"method": "ties", "densty": 1}],
            {},
            "grid 1: unknown key 'densty'; did you mean 'densi",
        ),
        (
            [{"method": "ties", "models.germnic.weight": 1}],
            {},
            "did you mean 'models.germanic.weig",
        ),
        ([{"method": "tis"}], {}, "method: Input should be 'linear'"),
        ([{"density": 1}], {}, "grid 1: method is missing"),
        ([{"method": "ties", "density": []}], {}, "density: the list is empty"),
        ([{"method": ["ties", "linear"], "density": [0.2]}], {}, "'density' means nothing to line"),
        ([{"method": "ties", "density": [0.2, 3]}], {}, "density should be between 0 and 1 (it is"),
        ([{"method": "linear"}], {"scale": 2.0}, "no method of the grid makes use of 'scale'"),
        ([{"method": "linear"}], {"skale": 2.0}, "unknown key 'skale'"),
        ([{"method": "slerp"}], {"models": {"a": "a"}}, "slerp merges 2 models, not 1"),
    ],
)
def test_a_mistake_is_told_before_anything_runs(
    grid: list[dict[str, Any]], merged: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as told:
        points_of(grid, **merged)
    assert said in str(told.value)


def test_all_mistakes_of_all_entries_are_told_at_once() -> None:
    grid = [{"method": "ties", "densty": 1}, {"method": "ties", "density": [2, 3]}, {"x": 1}]
    with pytest.raises(ConfigError) as told:
        points_of(grid)
    lines = str(told.value).splitlines()
    assert [line.strip().partition(":")[0] for line in lines] == [
        *("sweep.yaml", "grid 2", "grid 2", "grid 3")
    ]


def test_a_grid_that_explodes_is_a_mistake() -> None:
    many = [n / 100 for n in range(100)]
    with pytest.raises(ConfigError, match="more than 1,000 points"):
        points_of([{"method": "ties", "density": many, "scale": many}])


values = st.floats(0, 1, width=16).map(float)
entries = st.fixed_dictionaries(
    {"method": st.sampled_from([["ties"], ["ties", "dare_ties"], ["dare_linear"]])},
    optional={
        "density": st.lists(values | st.lists(values, min_size=2, max_size=3), min_size=1),
        "scale": st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=3),
        "models.germanic.weight": st.lists(values, min_size=1, max_size=2),
        "normalize": st.lists(st.booleans(), min_size=1, max_size=2),
        "dtype": st.sampled_from([None, "float16"]),
    },
)


@given(st.lists(entries, min_size=1, max_size=3))
def test_names_are_unique_and_those_of_teachers(grid: list[dict[str, Any]]) -> None:
    found = points_of(grid)
    assert len({point.name for point in found}) == len(found)
    assert len({point.fingerprint for point in found}) == len(found)
    assert all(TEACHER_NAME.match(f"{point.name}.sweep2") for point in found)
    assert all(point.name.startswith(point.config.method) for point in found)


# A whole sweep, without Ray.


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return harness.pool(tmp_path)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    return install(monkeypatch)


def rewards(run: Path) -> pd.DataFrame:
    """The reward of each (prompt, teacher), from the product of a run."""
    rows = [
        {"prompt": row["prompt_id"], "language": row["language"], "reward": one["reward"]}
        | {"teacher": one["teacher"]}
        for row in read_rows(run, "selected/")
        for one in row["candidates"]
    ]
    return pd.DataFrame(rows)


def mean_of(rows: pd.DataFrame, column: str) -> tuple[float, float]:
    """The plain mean of languages, and half of its interval."""
    groups = rows.groupby("language")[column]
    halves = Z95 * groups.std(ddof=1) / groups.count() ** 0.5
    return groups.mean().mean(), math.sqrt((halves**2).sum()) / len(halves)


def test_every_figure_is_that_of_the_runs_files(folder: Path, asked: Asked) -> None:
    found = swept(folder, asked)
    assert asked.merged == NAMES
    rows = rewards(folder / "run")
    wide = rows.pivot_table(index=["prompt", "language"], columns="teacher", values="reward")
    wide = wide.reset_index()
    assert {one.name for one in found.points} == set(NAMES)
    assert [one.name for one in found.beside if one.name == "base"] == ["base"]
    for one in (*found.points, *found.beside):
        assert one.figures is not None
        value, half = mean_of(wide, one.name)
        assert one.figures.mean == pytest.approx((value, value - half, value + half))
        by_language = wide.groupby("language")[one.name].mean()
        assert one.figures.worst == by_language.idxmin()
        assert one.figures.spread == pytest.approx(by_language.std(ddof=0))
        for other in ("germanic", "romance", "base"):
            gap = wide.assign(gap=wide[one.name] - wide[other])
            value, half = mean_of(gap, "gap")
            assert one.figures.gains[other].value == pytest.approx(value)
            assert one.figures.gains[other].high == pytest.approx(value + half)
    means = {one.name: one.figures.mean.value for one in found.points if one.figures}
    assert [one.name for one in found.points] == sorted(means, key=lambda n: -means[n])
    singles = {name: mean_of(wide, name)[0] for name in ("germanic", "romance", "base")}
    assert found.single == max(singles, key=lambda name: singles[name])
    line = next(line for line in found.methods() if line.method == "ties")
    mine = {name: value for name, value in means.items() if name.startswith("ties")}
    assert (line.settings, line.best) == (2, max(mine, key=lambda name: mine[name]))
    assert (line.highest, line.lowest) == (max(mine.values()), min(mine.values()))
    told = json.loads((folder / "merges/sweep.json").read_text())
    assert told["best"] == found.points[0].name
    assert [one["name"] for one in told["points"]] == [one.name for one in found.points]
    assert told["points"][0]["gain"]["base"]["value"] == pytest.approx(
        means[told["best"]] - singles["base"]
    )
    assert "own" in set(rows["teacher"]), "the run's own teachers stay"


def states(folder: Path) -> dict[str, int]:
    """Times of all files of all merges and of all answers."""
    paths = [*folder.glob("merges/*/*"), *folder.rglob("candidates/*/*.parquet")]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in paths}


def test_nothing_is_merged_or_asked_twice(folder: Path, asked: Asked) -> None:
    first = swept(folder, asked)
    before = states(folder)
    again = swept(folder, asked)
    assert (asked.merged, asked.tasks[-1]) == (NAMES, [])
    assert states(folder) == before
    assert again == first
    longer = config_of([*GRID, {"method": "ties", "density": 0.8, "scale": 0.5}])
    more = swept(folder, asked, longer)
    assert asked.merged[len(NAMES) :] == ["ties-density0.8-scale0.5"]
    owners = {path.split("/")[1] for path in asked.tasks[-1] if path.startswith("candidates/")}
    assert len(owners) == 1, "the new point alone is asked"
    assert {key: states(folder)[key] for key in before} == before
    assert len(more.points) == len(NAMES) + 1


def test_moved_and_renamed_models_redo_nothing_and_another_weight_does(
    folder: Path, asked: Asked
) -> None:
    grid = [{"method": "ties", "density": [0.2, 0.5]}]
    swept(folder, asked, config_of(grid))
    shutil.copytree(folder / "models/romance", folder / "elsewhere")
    shutil.rmtree(folder / "models/romance")
    moved = {"models": {"g": "models/germanic", "r": {"model": "elsewhere", "weight": 1}}}
    found = swept(folder, asked, config_of(grid, merge=moved))
    assert (len(asked.merged), asked.tasks[-1]) == (2, [])
    assert {one.name for one in found.beside} == {"g", "r", "base"}
    moved["models"]["r"] = {"model": "elsewhere", "weight": 0.7}  # type: ignore[index]
    swept(folder, asked, config_of(grid, merge=moved))
    assert len(asked.merged) == 4
    assert len(list((folder / "merges").glob("ties-*"))) == 4


def test_models_that_the_run_has_are_found_by_what_they_are(folder: Path, asked: Asked) -> None:
    told = yaml.safe_load((folder / "run.yaml").read_text())
    told["teachers"] |= {
        "mine": {**harness.FAKE, "model": "models/germanic", "languages": ["de"]},
        "base": {"engine": "fake", "languages": "all", "options": {"voice": "other"}},
    }
    write_config(folder, told, "run.yaml")
    found = swept(folder, asked, config_of([{"method": "linear"}]))
    assert {one.name for one in found.beside} == {"germanic", "romance", "base"}
    config = json.loads((folder / "run/run.json").read_text())["config"]["teachers"]
    assert set(config) == {"own", "mine", "base", "base.sweep", "romance", "linear"}
    assert config["mine"]["languages"] == "all", "asked as all others are"
    assert config["base"]["options"]["voice"] == "other"
    by_name = {one.name: one for one in found.beside}
    rows = rewards(folder / "run")
    for name, there in (("germanic", "mine"), ("base", "base.sweep")):
        figures = by_name[name].figures
        assert figures is not None
        mine = rows[rows["teacher"] == there]
        assert figures.mean.value == pytest.approx(mean_of(mine, "reward")[0])


def refusing(config: Any, target: Path, tell: Any, stop: Any = None) -> Any:
    """Merges all but TIES."""
    if config.method == "ties":
        raise UsageError("the models cannot be merged like this")
    return merge.merge(config, target, tell, stop)


def test_a_point_that_is_refused_is_set_aside_with_its_reasons(folder: Path, asked: Asked) -> None:
    found = swept(folder, asked, merger=refusing)
    assert {one.name for one in found.refused} == {"ties-density0.2", "ties-density0.5"}
    assert found.refused[0].reasons == ("the models cannot be merged like this",)
    assert [one.state for one in found.points] == ["evaluated"] * 5 + ["refused"] * 2
    assert "refused: ties-density0.2: the models cannot" in shown(found)
    with pytest.raises(Exception, match="no point of the grid could be merged: the models cannot"):
        swept(folder, asked, config_of([{"method": "ties", "density": 0.9}]), merger=refusing)


def test_what_the_headers_speak_against_is_told_before_and_after(
    folder: Path, asked: Asked
) -> None:
    shapes = {**models.SHAPES, "model.norm.weight": (17,)}
    models.save(folder / "models/odd", models.tensors(5, shapes))
    both = ["models/germanic", "models/odd"]
    grid = [{"method": "ties", "density": 0.5, "models.germanic.model": both}]
    config = config_of(grid, evaluate={"beside": {"start": "models/base"}})
    ahead = outlook_of(load_sweep(write_config(folder, config, "sweep.yaml")))
    assert [one.state for one in ahead.points] == ["to be merged", "would be refused"]
    assert (ahead.coming, ahead.beside) == (1, {"start": str(folder / "models/base")})
    found = swept(folder, asked, config)
    [refused] = found.refused
    assert refused.reasons == ahead.points[1].reasons
    assert any("model.norm.weight" in why and "17" in why for why in refused.reasons)
    assert refused.name == "ties-germanic.model-odd"
    told = shown(found)
    assert f'{refused.name}: models.germanic.model "{folder}/models/odd"' in told.replace("\n", "")
    assert (found.base, found.single) == ("start", "start")
    assert found.best is not None
    assert found.best.name == "ties-germanic.model-germanic"


def test_told_to_stop_it_ends_between_two_merges_and_goes_on(folder: Path, asked: Asked) -> None:
    stop = threading.Event()

    def merger(config: Any, target: Path, tell: Any, stopping: Any = None) -> Any:
        made = merge.merge(config, target, tell, stopping)
        if config.method == "ties":
            stop.set()
        return made

    with pytest.raises(Stopped):
        swept(folder, asked, merger=merger, stop=stop)
    assert asked.merged == NAMES[:2]
    assert not (folder / "run").exists()
    swept(folder, asked)
    assert asked.merged == NAMES
    assert len(list((folder / "merges").glob("*/merge.json"))) == len(NAMES)


def test_all_but_the_best_are_removed_and_neither_made_nor_asked_again(
    folder: Path, asked: Asked
) -> None:
    full = swept(folder, asked)
    worst = full.points[-1]
    content = (Path(worst.folder) / "model.safetensors").read_bytes()
    told = json.loads((folder / "merges/points.json").read_text())
    told[full.points[-2].fingerprint]["made"] = False
    (folder / "merges/points.json").write_text(json.dumps(told))
    kept = swept(folder, asked, config_of(keep=2))
    left = {path.parent for path in (folder / "merges").glob("*/merge.json")}
    assert left == {Path(full.points[n].folder) for n in (0, 1, -2)}, "what it made, and no more"
    assert [one.state for one in kept.points] == [
        *("evaluated", "evaluated", "removed", "removed", "removed", "evaluated", "removed")
    ]
    assert [one.figures for one in kept.points] == [one.figures for one in full.points]
    gone = [one.name for one in kept.points if one.state == "removed"]
    assert f"removed once they were evaluated (`keep:`): {', '.join(gone)}" in shown(kept)
    again = swept(folder, asked, config_of(keep=2))
    assert (len(asked.merged), asked.tasks[-1]) == (len(NAMES), [])
    assert again == kept
    other = config_of(keep="all", evaluate={"as": {**harness.FAKE, "options": {"words": 5}}})
    swept(folder, asked, other)
    assert len(asked.merged) == len(NAMES) + 4, "another evaluation needs them"
    assert (Path(worst.folder) / "model.safetensors").read_bytes() == content


def test_win_rates_of_merges(folder: Path, asked: Asked) -> None:
    grid = [{"method": "ties", "density": [0.2, 0.5]}]
    config = config_of(grid, evaluate={"run": None, "winrate": "winrate.yaml"})
    found = swept(folder, asked, config)
    results = evaluated(folder)
    for one in found.points:
        row = results.row(one.name, "base", "languages")
        assert row is not None
        assert one.figures is not None
        assert one.figures.mean == row.rate
        assert one.figures.gains["base"].value == pytest.approx(row.rate.value - 0.5)
        assert one.figures.gains["base"].low == pytest.approx(row.rate.low - 0.5)
        other = results.row("romance", "base", "languages")
        assert other is not None
        gap = one.figures.gains["romance"]
        assert gap.value == pytest.approx(row.rate.value - other.rate.value)
        assert math.isnan(gap.low), "they never met"
    base = next(one for one in found.beside if one.name == "base").figures
    assert base is not None
    assert base.mean.value == 0.5
    assert "win rate" in shown(found)
    again = swept(folder, asked, config)
    assert asked.tasks[-1] == []
    assert [one.name for one in again.points] == [one.name for one in found.points]


def evaluated(folder: Path) -> Any:
    """The results as the evaluation sums them up."""
    from arbitrage.winrate import evaluation
    from arbitrage.winrate.contest import contest_of
    from arbitrage.winrate.loading import Loaded
    from arbitrage.winrate.planner import read_contest

    plan = sweep.planned(load_sweep(folder / "sweep.yaml"))
    assert isinstance(plan.entry.loaded, Loaded)
    contest = contest_of(plan.entry.loaded.config)
    planner, _ = read_contest(contest, sweep.Store(folder / "winrate"), again=False)
    return evaluation.summed_up(planner, sweep.Store(folder / "winrate"), plan.entry.loaded)


def test_what_would_be_done_is_told_and_nothing_is_done(folder: Path, asked: Asked) -> None:
    path = write_config(folder, config_of(), "sweep.yaml")
    found = outlook_of(load_sweep(path))
    assert (found.coming, found.prompts) == (7, 36)
    size = sum(t.numel() * 4 for t in models.tensors(0).values())
    assert found.write_bytes == 7 * size
    assert found.asked["generate"] == 3 * 36 + 24, "three beside, and the run's own"
    assert not (folder / "merges").exists()
    assert not (folder / "run").exists()
    swept(folder, asked, config_of(GRID[:1]))
    write_config(folder, config_of(), "sweep.yaml")
    found = outlook_of(load_sweep(path))
    assert (found.coming, found.asked) == (6, {})
    assert [one.state for one in found.points][:2] == ["there", "to be merged"]
    text = rendered(tables_sweep.of_outlook(found), 120)
    assert "each of the 6 merges to come is asked 36 prompts" in text


def test_pairs_that_will_meet_and_merges_of_another_grid_are_told(
    folder: Path, asked: Asked
) -> None:
    swept(folder, asked, config_of([{"method": "ties", "density": 0.3}]))
    config = config_of(GRID, evaluate={"run": None, "winrate": "winrate.yaml"})
    found = outlook_of(load_sweep(write_config(folder, config, "sweep.yaml")))
    assert found.pairs == len(NAMES) + 3 - 1, "all meet the baseline"
    [other] = found.others
    assert Path(other).name.startswith("ties-")
    told = yaml.safe_load((folder / "winrate.yaml").read_text())
    del told["baseline"]
    write_config(folder, told, "winrate.yaml")
    assert outlook_of(load_sweep(folder / "sweep.yaml")).pairs == 10 * 9 // 2


def test_an_evaluation_that_could_not_begin_is_known_before_anything_is_merged(
    folder: Path, asked: Asked
) -> None:
    found = swept(folder, asked, config_of(GRID[:1], evaluate={"beside": {}}))
    assert (found.beside, found.single) == ((), ""), "merges alone cover all languages"
    shutil.rmtree(folder / "merges")
    shutil.rmtree(folder / "run")
    asked.merged.clear()
    (folder / "prompts.jsonl").unlink()
    with pytest.raises(UsageError, match="prompts"):
        swept(folder, asked)
    assert asked.merged == []
    assert not (folder / "merges").exists()


def test_merges_that_do_not_fit_are_not_begun(
    folder: Path, asked: Asked, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep.Planned, "free_bytes", 1000)
    with pytest.raises(UsageError, match="the 7 merges that are to be made take"):
        swept(folder, asked)
    assert asked.merged == []


def test_a_leaderboard_tells_merged_models_from_others(folder: Path, asked: Asked) -> None:
    swept(folder, asked, config_of(GRID[:1]))
    board = leaderboard.leaderboard([str(folder / "run")])
    kinds = {entry.name: entry.kind for entry in board.entries}
    assert kinds["linear"] == "merged"
    assert (kinds["germanic"], kinds["own"], kinds["selected"]) == (
        *("teacher", "teacher", "arbitrage"),
    )


# What is shown.


def rendered(told: Any, width: int = 80) -> str:
    console = Console(width=width, file=io.StringIO())
    with console.capture() as capture:
        console.print(told)
    return capture.get()


def shown(found: Swept) -> str:
    return rendered(tables_sweep.of_sweep(found), 250)


def figures(value: float, gain: float, half: float, languages: int = 2) -> Figures:
    told = {f"x{n}": Estimate(value + n / 10, value, value) for n in range(languages)}
    gains = {"base": Estimate(gain, gain - half, gain + half)}
    return Figures(Estimate(value, value - half, value + half), told, gains, 1.0, languages == 2)


def swept_of(*told: Figures) -> Swept:
    names = [f"ties-density{n}" for n in range(len(told))]
    made = [
        Outcome(name, "evaluated", "x", "ties", f"{n}" * 12, varied={"density": n}, figures=one)
        for n, (name, one) in enumerate(zip(names, told, strict=True))
    ]
    base = Outcome("base", "as it is", "y", figures=figures(0.5, 0.0, 0.0))
    return Swept("reward", "run", tuple(made), (base,), "base")


def test_the_table_tells_what_is_sure() -> None:
    text = shown(swept_of(figures(0.7, 0.2, 0.1), figures(0.6, 0.1, 0.2)))
    assert "*0.700 \u00b1 0.100" in text
    assert "+0.200 \u00b1 0.100, surely better, even as the best of 2." in text
    assert "Chosen among 2 on these very prompts" in text
    close = [figures(0.7, 0.2, 0.19), *(figures(0.6, 0.1, 0.2) for _ in range(5))]
    assert "if tried alone; as the best of 6" in shown(swept_of(*close))
    assert "+0.200 \u00b1 0.190, surely better." in shown(swept_of(close[0]))
    assert "not told apart" in shown(swept_of(figures(0.7, 0.1, 0.2)))
    assert "surely worse" in shown(swept_of(figures(0.4, -0.2, 0.1)))
    assert "Chosen among" not in shown(swept_of(figures(0.7, 0.1, 0.2)))
    alone = shown(swept_of(figures(0.9, 0.2, 0.1, languages=1)))
    assert "No merge can be compared yet." in alone
    assert "not compared: ties-density0" in alone


@pytest.mark.parametrize(("count", "quantile"), [(1, 1.959964), (5, 2.575829), (50, 3.290527)])
def test_the_best_of_many_needs_a_wider_interval(count: int, quantile: float) -> None:
    assert tables_sweep.widened(count) == pytest.approx(quantile / 1.959964, abs=1e-6)


def test_names_of_others_are_text() -> None:
    hostile = "[red]\x1b[31mx"
    found = swept_of(figures(0.7, 0.2, 0.1))
    bad = Outcome("ties", "refused", "x", "ties", "0" * 12, reasons=(hostile,))
    text = shown(Swept("reward", "run", (*found.points, bad), found.beside, "base", (hostile,)))
    assert "\x1b" not in text
    assert text.count("[red]\\x1b[31mx") == 2


# The command itself.


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (config_of(evaluate={"as": {"engine": "fak"}}), "evaluate.as: engine: unknown engine"),
        (config_of(evaluate={"as": {"engine": "fake", "model": "x"}}), "drop `model:`"),
        (config_of(evaluate={"us": {}}), "unknown key 'us'; did you mean 'as'?"),
        (config_of(evaluate={"winrate": "winrate.yaml"}), "either `run:` or `winrate:`"),
        (config_of(merge={"base": "./nowhere"}), "there is no model folder"),
        (config_of(evaluate={"beside": {"x": "./nowhere"}}), "there is no model folder"),
        (config_of(keep=0), "keep: should be `all`, or how many"),
        (config_of(sweep="s3://bucket/x"), "is no folder"),
        (config_of(sweep="models/base"), "holds a model; give a folder of its own"),
        (config_of(evaluate={"run": "none.yaml"}), "there is no config file"),
        ({"method": "ties", "models": {"a": "b"}}, "describes one merge; `arbitrage merge"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(
    folder: Path, told: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError) as error:
        sweep.planned(load_sweep(write_config(folder, told, "wrong.yaml")))
    assert said in str(error.value)
    assert not (folder / "merges").exists()


def test_a_mistake_is_one_sentence_and_exit_code_2(folder: Path) -> None:
    path = write_config(folder, config_of([{"method": "ties", "densty": 1}]), "wrong.yaml")
    ended = cli("merge", "sweep", path, "--dry-run")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "grid 1: unknown key 'densty'" in ended.stderr
    assert "Traceback" not in ended.stderr


def merged_in(folder: Path) -> list[Path]:
    """The manifests of whole merges."""
    return [p for p in folder.glob("merges/*/merge.json") if p.parent.suffix != ".merging"]


def test_killed_while_it_merges_it_goes_on_with_the_same_command(
    folder: Path, asked: Asked
) -> None:
    grid = [{"method": "ties", "density": [n / 20 for n in range(1, 20)]}]
    path = write_config(folder, config_of(grid), "sweep.yaml")
    process = start("merge", "sweep", path, "-q")
    deadline = time.monotonic() + 60
    while len(merged_in(folder)) < 3:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.kill()
    process.communicate()
    there = {str(p): p.stat().st_mtime_ns for p in merged_in(folder)}
    assert 3 <= len(there) < 19
    plan = sweep.planned(load_sweep(path))
    assert sum(plan.is_there(point) for point in plan.points) == len(there)
    found = swept(folder, asked, config_of(grid))
    assert len(asked.merged) == 19 - len(there)
    assert {p: Path(p).stat().st_mtime_ns for p in there} == there
    assert [one.state for one in found.points] == ["evaluated"] * 19
    assert list(folder.glob("merges/*.merging")) == []


# The real thing: Ray, transformers, a rule.

RULE = """
def right(prompt, completion):
    return float(len(completion) % 7) / 6
"""


@pytest.mark.cluster
@pytest.mark.engine("transformers")
def test_real_models_are_merged_and_evaluated_by_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    micro = pytest.importorskip("micro_models")
    texts = ["user: what is 2 and 2?", "assistant: four, I think"]
    for number, name in enumerate(("germanic", "romance")):
        micro.make_teacher(tmp_path / name, texts, seed=number)
    (tmp_path / "sweep_rule.py").write_text(RULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(12, ("de", "fr")))
    run = {
        "run": "run",
        "prompts": {"sources": [{"path": "prompts.jsonl"}], "detect": False},
        "arbiter": {"engine": "rule", "options": {"function": "sweep_rule:right"}},
        "gates": dict.fromkeys(("language", "truncated", "empty", "repetition"), False),
    }
    write_config(tmp_path, run, "run.yaml")
    served = {"engine": "transformers", "sampling": {"temperature": 0, "max_tokens": 8}}
    told = {
        "sweep": "merges",
        "merge": {"models": {"germanic": "germanic", "romance": "romance"}},
        "grid": [{"method": "linear", "models.germanic.weight": [1, 3]}, {"method": "slerp"}],
        "evaluate": {"run": "run.yaml", "as": {**served, "options": {"dtype": "float32"}}},
    }
    path = write_config(tmp_path, told, "sweep.yaml")
    ended = cli("merge", "sweep", path)
    assert ended.returncode == 0, ended.stderr
    assert "is the best of 3 merges" in ended.stdout
    found = json.loads((tmp_path / "merges/sweep.json").read_text())
    rows = rewards(tmp_path / "run")
    assert set(rows["teacher"]) == {
        *("linear-germanic.weight1", "linear-germanic.weight3", "slerp", "germanic", "romance")
    }
    for one in (*found["points"], *found["beside"]):
        mine = rows[rows["teacher"] == one["name"]]
        assert one["mean"]["value"] == pytest.approx(mean_of(mine, "reward")[0])
    before = states(tmp_path)
    again = cli("merge", "sweep", path, "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout) == found
    assert states(tmp_path) == before
