"""What `plan` and `run --dry-run` tell, held against a run; and that they leave no trace."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from rich.console import Console

from arbitrage.demand import MEND_MISFIT, demand_of, machine_of, misfit
from arbitrage.estimate import Costs, Figures
from arbitrage.preview import preview
from arbitrage.resolve import resolve
from arbitrage.tables_plan import of_plan
from command_line import cli, write_config
from harness import fake, make_config, numbered_prompts, run, write_prompts

if TYPE_CHECKING:
    from arbitrage.config import RunConfig
    from arbitrage.preview import Preview, RolePlan

POOL = {
    "one": fake(sampling=[{"temperature": 0}, {"n": 2, "temperature": 0.9}]),
    "two": fake(languages=["de"], options={"voice": "2"}),
}


def config_of(folder: Path, teachers: dict[str, Any] | None = None, **blocks: Any) -> RunConfig:
    if not (folder / "prompts.jsonl").exists():
        write_prompts(folder / "prompts.jsonl", numbered_prompts(20))
    return make_config(folder, teachers or POOL, **blocks)


def roles_of(found: Preview) -> dict[str, RolePlan]:
    return {role.name: role for role in found.roles}


def told(found: Preview) -> str:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(of_plan(found), soft_wrap=True)
    output: str = console.file.getvalue()  # type: ignore[attr-defined]
    return output


def everything(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        path.relative_to(folder).as_posix(): (path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in sorted(folder.rglob("*"))
    }


def test_before_a_run_requests_are_those_it_makes(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    before = roles_of(preview(config))
    made = run(config)
    asked = {
        name: sum(r.spent.requests for t, r in made.done if t.owner == owner)
        for name, owner in [(t.name, t.fingerprint) for t in made.components.teachers]
        + [("arbiter", made.components.arbiter.fingerprint)]
    }
    assert asked == {"one": 60, "two": 7, "arbiter": 67}
    assert {name: before[name].requests for name in asked} == asked
    assert {name: before[name].costs.source for name in asked} == dict.fromkeys(asked, "bound")
    assert before["one"].costs.completion_tokens == 60 * 512
    after = roles_of(preview(config))
    assert {name: after[name].stored_requests for name in asked} == asked
    assert preview(config).is_empty
    assert told(preview(config)).startswith("nothing to do: 20 prompts are complete")


def test_languages_count_prompts_that_somebody_still_works_on(tmp_path: Path) -> None:
    assert preview(config_of(tmp_path)).languages == {"de": 7, "ja": 6, "sw": 7}
    run(config_of(tmp_path))
    more = {**POOL, "three": fake(languages=["sw"], options={"voice": "3"})}
    assert preview(config_of(tmp_path, more)).languages == {"sw": 7}


def test_tokens_of_what_is_remade_alike_are_right_to_the_digit(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    made = run(config)
    for path in [*made.store.root.rglob("00001.*.parquet"), *made.store.root.rglob("00002.*")]:
        if "candidates" in path.parts:
            path.unlink()
    found = roles_of(preview(config))
    assert found["one"].requests == 36
    spent = [r.spent for t, r in made.done if t.stage == "generate" and t.shard == 0]
    one = made.components.teachers[0].fingerprint
    first = next(r.spent for t, r in made.done if t.owner == one and t.shard == 0)
    assert first in spent
    costs = found["one"].costs
    assert costs.source == "earlier"
    assert costs.prompt_tokens == round(36 * first.prompt_tokens / first.requests)
    assert costs.completion_tokens == round(36 * first.completion_tokens / first.requests)
    assert costs.bytes == pytest.approx(36 / 24 * size_of(made.store.root, one), abs=1)
    assert "earlier: from what this run has made" in told(preview(config))


def size_of(root: Path, owner: str) -> int:
    (path,) = root.glob(f"candidates/*-{owner}/00000.*")
    return path.stat().st_size


def test_figures_of_a_probe_serve_only_who_has_none_of_its_own(tmp_path: Path) -> None:
    run(config_of(tmp_path))
    more = config_of(tmp_path, {**POOL, "three": fake(options={"voice": "3"})})
    three = roles_of_parts(more)["three"]
    probed = {owner: Figures("probe", 5.0, 7.0, 0.5, 11.0, 2.0) for owner in [three]}
    found = preview(more, probed)
    costs = roles_of(found)["three"].costs
    assert (costs.source, costs.prompt_tokens, costs.completion_tokens) == ("probe", 100, 140)
    assert (costs.time_s, costs.bytes) == (10.0, 220)
    assert roles_of(found)["arbiter"].costs.source == "earlier"


def roles_of_parts(config: RunConfig) -> dict[str, str]:
    return {part.name: part.fingerprint for part in resolve(config).teachers}


def test_a_role_that_never_fits_is_told_as_the_run_tells_it(tmp_path: Path) -> None:
    teachers = {"one": fake(resources={"gpus": 2})}
    config = config_of(tmp_path, teachers, cluster={"cpus": 2, "gpus": 1})
    found = preview(config)
    machine = machine_of(config.cluster)
    assert machine is not None
    assert found.misfits == [
        f"{misfit('one', demand_of(config.teachers['one']), machine)}; {MEND_MISFIT}"
    ]
    assert found.forecast is None
    assert "never fits: a replica of 'one' needs" in told(found)


def test_a_disk_that_is_too_small_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("arbitrage.preview._free_bytes", lambda run: 10)
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(20))
    run(config_of(tmp_path))
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(60))
    (warning,) = preview(config_of(tmp_path)).warnings
    assert "make room, or name another `run:`" in warning


def test_a_budget_that_does_not_pay_for_all_is_a_warning(tmp_path: Path) -> None:
    write_prompts(tmp_path / "prompts.jsonl", numbered_prompts(20))
    found = preview(config_of(tmp_path, budget={"requests": 130}))
    (warning,) = found.warnings
    assert warning.startswith(
        "the budget pays for a part: 134 requests are needed and 130 are left"
    )
    assert "budget: 0 of 130 requests are spent" in told(found)
    assert not preview(config_of(tmp_path, budget={"requests": 134})).warnings


def test_a_plan_fits_80_columns(tmp_path: Path) -> None:
    price = {"price_per_million_input": 1, "price_per_million_output": 2.5}
    hosted = {"base_url": "http://127.0.0.1:9/v1", **price}
    teachers = {
        "a-teacher-with-a-name-that-is-far-too-long-for-any-table": fake(),
        "hosted": {"engine": "endpoint", "model": "m", "languages": "all", "options": hosted},
    }
    found = preview(config_of(tmp_path, teachers))
    found.unread = ["prompts.jsonl"]
    text = told(found)
    assert max(map(len, text.splitlines())) <= 80
    assert "money" in text
    assert "<=" in text
    assert "all " in text


def test_large_figures_are_whole_in_80_columns(tmp_path: Path) -> None:
    found = preview(config_of(tmp_path))
    found.unread = []
    for role in found.roles:
        role.tasks, role.prompts, role.requests = 97_700, 100_000_000, 400_000_000
        role.stored, role.stored_requests = 97_700, 400_000_000
        role.costs = Costs("earlier", 123_456_789_012, 98_765_432_101, 12_345.678, 1.2e6, 10**13)
    found.total = role.costs
    text = told(found)
    assert max(map(len, text.splitlines())) <= 80
    for part in ("123 G", "98.8 G", "12,346", "13 d 21 h", "10 TB", "earlier", "400,000,000"):
        assert part in text


def test_a_dry_run_says_what_plan_says_and_writes_nothing(tmp_path: Path) -> None:
    config_of(tmp_path)
    config = {
        "run": "run",
        "prompts": {"sources": [{"path": "prompts.jsonl"}], "shard_size": 8, "detect": False},
        "teachers": POOL,
        "arbiter": {"engine": "fake"},
    }
    path = write_config(tmp_path, config)
    before = everything(tmp_path)
    dry = json.loads(cli("run", path, "--dry-run", "--json").stdout)
    plan = json.loads(cli("plan", path, "--json").stdout)
    assert everything(tmp_path) == before
    for one in (dry, plan):
        one.pop("free_bytes")  # others write to the same disk
    assert dry == plan
    assert dry["total"]["completion_tokens"] == 67 * 512


@pytest.mark.cluster
def test_a_probe_gives_figures_and_leaves_the_run_directory_alone(tmp_path: Path) -> None:
    config_of(tmp_path)
    config = {
        "run": "run",
        "prompts": {"sources": [{"path": "prompts.jsonl"}], "shard_size": 8, "detect": False},
        "teachers": POOL,
        "arbiter": {"engine": "fake"},
        "budget": {"requests": 1},
    }
    path = write_config(tmp_path, config)
    before = everything(tmp_path)
    done = cli("plan", path, "--probe", "4", "--json")
    assert done.returncode == 0, done.stderr
    assert everything(tmp_path) == before
    found = json.loads(done.stdout)
    served = [role for role in found["roles"] if role["stage"] in ("generate", "score")]
    assert [role["costs"]["source"] for role in served] == ["probe"] * 3
    assert all(role["costs"]["time_s"] > 0 for role in served)
    assert found["forecast"]["time_s"] > 0
    assert found["budget"] == {"requests": [0, 1]}
    assert not found["nothing_to_do"]
