"""What a run tells Prometheus: against its files, through Ray's own metrics, and the dashboard."""

from __future__ import annotations

import json
import re
import socket
import time
import urllib.error
import urllib.request
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import ray
import yaml

from arbitrage import ray_metrics
from arbitrage.errors import ConfigError, Stopped
from arbitrage.events import Done, Failed, Loaded, LoadFailed
from arbitrage.metrics import METRICS, Metric, Metrics, RoleState, RunState, exported, run_label
from arbitrage.ray_metrics import RayMeter, require_port
from arbitrage.settings import ClusterConfig
from command_line import running, write_config
from command_line import write_prompts as write_plain
from harness import fake, make_config, numbered_prompts, write_prompts
from harness import run as run_all

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = Path(__file__).resolve().parents[1] / "configs" / "cluster"
SECRET_ADDRESS = "s3://bucket/folder/mine?endpoint_override=host:9000&access_key=hush"
EMPTY = RunState((), 0, {})


class Recorder:
    """A meter that adds up as Prometheus would."""

    def __init__(self) -> None:
        self.values: dict[tuple[str, frozenset[tuple[str, str]]], float] = {}
        self.updates = 0

    def record(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        assert set(labels) == set(metric.labels), metric.name
        assert value == value
        self.updates += 1
        key = (metric.name, frozenset(labels.items()))
        added = self.values.get(key, 0.0) if metric.kind == "counter" else 0.0
        self.values[key] = added + value

    def sums(self, name: str, *labels: str) -> dict[Any, float]:
        """By the values of some labels."""
        found: Counter[Any] = Counter()
        for (metric, told), value in self.values.items():
            if metric == name:
                known = dict(told)
                found[tuple(known[label] for label in labels)] += value
        return {key[0] if len(labels) == 1 else key: value for key, value in found.items()}


def state_of(made: Any) -> RunState:
    roles = tuple(
        RoleState(owner, len(r.ready), len(r.held), len(r.in_flight), len(r.waiting), 1, 0, False)
        for owner, r in made.board.roles.items()
    )
    return RunState(roles, made.board.prompts, {"requests": (3.0, 9.0)})


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Recorder]:
    """A run with errors, told to a meter as the driver does it."""
    folder = tmp_path_factory.mktemp("metrics")
    write_prompts(folder / "prompts.jsonl", numbered_prompts(30))
    price = {"fail": 0.2}
    teachers = {
        "good": fake(0.8, options=price),
        "other": fake(0.4, ["de"], sampling={"n": 2}, options={"voice": "o", "empty": 0.5}),
    }
    made = run_all(make_config(folder, teachers))
    recorder = Recorder()
    metrics = Metrics(recorder, made.store.address(), made.board.names)
    for task, report in made.done:
        metrics.note(Done("replica", task, report), made.board.given_up)
    metrics.show(lambda: state_of(made), last=True)
    return made, recorder


def test_rows_errors_requests_and_tokens_are_those_of_the_files(told: tuple[Any, Recorder]) -> None:
    made, recorder = told
    rows = recorder.sums("arbitrage_rows_total", "stage")
    candidates = made.frame("candidates")
    assert rows["generate"] == len(candidates)
    assert rows["gate"] == rows["score"] == len(candidates)
    assert rows["read"] == rows["route"] == 30
    assert rows["select"] == len(made.frame("selected"))
    errors = recorder.sums("arbitrage_errors_total", "stage")
    assert errors["generate"] == candidates["error"].notna().sum() > 0
    assert errors.keys() <= {"generate", "score"}
    requests = recorder.sums("arbitrage_requests_total", "role", "stage")
    assert requests["good", "generate"] == 30
    assert requests["other", "generate"] == 2 * 10
    for name in ("prompt_tokens", "completion_tokens"):
        by_role = recorder.sums(f"arbitrage_{name}_total", "role")
        assert sum(by_role.values()) == candidates[name].sum() > 0


def test_gauges_are_the_state_and_the_product_is_counted_by_prompts(
    told: tuple[Any, Recorder],
) -> None:
    made, recorder = told
    prompts = recorder.sums("arbitrage_prompts", "state")
    selected, lost = made.frame("selected"), made.frame("quarantine")
    assert prompts == {
        "known": 30,
        "selected": selected["prompt_id"].nunique(),
        "quarantined": len(lost),
    }
    assert len(lost) > 0
    assert recorder.sums("arbitrage_queue_tasks", "state").keys() == {
        *("ready", "held", "in_flight", "waiting")
    }
    assert sum(recorder.sums("arbitrage_queue_tasks", "role").values()) == 0
    assert recorder.sums("arbitrage_budget_spent", "measure") == {"requests": 3}
    assert recorder.sums("arbitrage_budget_limit", "measure") == {"requests": 9}
    assert set(recorder.sums("arbitrage_set_aside", "run")) == {"run"}


def test_each_task_counts_once_by_what_became_of_it(told: tuple[Any, Recorder]) -> None:
    made, _ = told
    task, report = next(one for one in made.done if one[0].stage == "generate")
    recorder = Recorder()
    metrics = Metrics(recorder, "/runs/mine", made.board.names)
    metrics.note(Failed("r", task, RuntimeError("x"), lost=True), {})
    metrics.note(Failed("r", task, RuntimeError("x"), lost=False), {task: "why"})
    metrics.note(Failed("r", task, Stopped("x"), lost=False), {})
    metrics.note(Done("r", task, report), {})
    metrics.note(Loaded("r", task.owner, fresh=True), {})
    metrics.note(LoadFailed("r", task.owner, RuntimeError("x"), lost=False), {})
    outcomes = recorder.sums("arbitrage_tasks_total", "outcome")
    assert outcomes == {"retried": 1, "failed": 1, "stopped": 1, "done": 1}
    assert sum(recorder.sums("arbitrage_load_failures_total", "role").values()) == 1


def test_a_shard_that_is_selected_again_is_not_counted_again(told: tuple[Any, Recorder]) -> None:
    made, before = told
    recorder = Recorder()
    metrics = Metrics(recorder, "/runs/mine", made.board.names)
    for task, report in [*made.done, *made.done]:
        metrics.note(Done("r", task, report), {})
    metrics.show(lambda: state_of(made))
    assert recorder.sums("arbitrage_prompts", "state") == before.sums("arbitrage_prompts", "state")


def test_gauges_are_set_once_a_second_and_at_the_end() -> None:
    now = [100.0]
    recorder = Recorder()
    metrics = Metrics(recorder, "/runs/mine", {}, lambda: now[0])
    asked = []

    def state() -> RunState:
        asked.append(now[0])
        return EMPTY

    for _ in range(50):
        metrics.show(state)
        now[0] += 0.1
    assert len(asked) == 5
    metrics.show(state, last=True)
    assert asked[-1] == now[0]
    now[0] -= 3600  # the clock is set back
    metrics.show(state)
    assert asked[-1] == now[0]
    assert recorder.sums("arbitrage_last_event_timestamp_seconds", "run") == {"mine": 100.0}


def test_the_run_is_named_by_the_end_of_its_place_and_nothing_else() -> None:
    assert run_label("/home/me/runs/mine") == "mine"
    assert run_label(SECRET_ADDRESS) == "mine"
    assert run_label("gs://bucket/mine/") == "mine"
    assert run_label("/") == "run"


def test_a_teacher_and_an_arbiter_of_one_name_are_told_apart() -> None:
    recorder = Recorder()
    metrics = Metrics(recorder, "x/mine", {"a1": "same", "b2": "same", "c3": "own"})
    roles = tuple(RoleState(o, n, 0, 0, 0, 0, 0, False) for n, o in enumerate(("a1", "b2", "c3")))
    metrics.show(lambda: RunState(roles, 0, {}))
    queue = recorder.sums("arbitrage_queue_tasks", "role")
    assert queue == {"same-a1": 0, "same-b2": 1, "own": 2}


def test_names_are_as_prometheus_wants_them() -> None:
    for name, metric in METRICS.items():
        assert re.fullmatch(r"arbitrage_[a-z]+(_[a-z]+)*", name)
        assert name.endswith("_total") == (metric.kind == "counter")
        assert metric.help
        assert metric.labels[0] == "run"
        assert len(set(metric.labels)) == len(metric.labels)
    assert METRICS["arbitrage_task_seconds"].kind == "histogram"


def test_rays_own_metrics_take_every_update_and_what_they_refuse_is_left_out() -> None:
    meter = RayMeter()
    for metric in METRICS.values():
        labels = dict.fromkeys(metric.labels, "x")
        meter.record(metric, 2.0, labels)
        meter.record(metric, 3.0, labels)
        assert meter._made[metric.name] is not None, metric.name
    rows = METRICS["arbitrage_rows_total"]
    meter.record(rows, -1.0, dict.fromkeys(rows.labels, "x"))  # Ray raises ValueError
    assert meter._made[rows.name] is None
    meter.record(rows, 1.0, dict.fromkeys(rows.labels, "x"))
    prompts = METRICS["arbitrage_prompts"]
    meter.record(prompts, 1.0, {"run": "x"})  # a label is missing
    assert meter._made[prompts.name] is None


def test_without_rays_metrics_nothing_is_exported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray.util.metrics", None)
    monkeypatch.delattr("ray.util.metrics", raising=False)
    meter = RayMeter()
    metric = METRICS["arbitrage_rows_total"]
    meter.record(metric, 1.0, dict.fromkeys(metric.labels, "x"))
    assert meter._made == {metric.name: None}


def test_a_port_that_nobody_would_serve_or_that_is_taken_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray_metrics, "AGENT_NEEDS", ("json", "no_such_library"))
    with pytest.raises(ConfigError, match=r"of which no_such_library is not there; pip install"):
        require_port(8080)
    require_port(None)
    monkeypatch.setattr(ray_metrics, "AGENT_NEEDS", ("json",))
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"`cluster\.metrics_port`: {port} cannot be had"):
            require_port(port)
    require_port(port)


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "grafana.json").read_text(encoding="utf-8"))
    return found


def expressions() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def named(text: str) -> set[str]:
    return set(re.findall(r"\bray_[a-z_]+", text))


def test_the_dashboard_asks_for_metrics_that_there_are_and_leaves_none_out() -> None:
    known = exported(METRICS)
    variables = [one["definition"] for one in dashboard()["templating"]["list"][1:]]
    asked = set().union(*map(named, [*expressions(), *variables]))
    assert asked <= known, asked - known
    shown = {name.removesuffix("_bucket") for name in asked}
    assert shown == {f"ray_{name}" for name in METRICS}


def test_the_dashboard_filters_by_labels_that_the_metrics_have() -> None:
    for expression in expressions():
        for name, told in re.findall(r"(ray_[a-z_]+)\{([^}]*)\}", expression):
            metric = METRICS[name.removeprefix("ray_").removesuffix("_bucket")]
            labels = set(re.findall(r"(\w+)=~?\"", told))
            assert "run" in labels
            assert labels <= set(metric.labels), expression
        for by in re.findall(r"by \(([^)]*)\)", expression):
            allowed = {label for m in METRICS.values() for label in m.labels} | {"le"}
            assert set(by.split(", ")) <= allowed
        assert expression.count("(") == expression.count(")")


def test_the_dashboard_is_one_of_grafana_10_and_takes_its_source_from_a_variable() -> None:
    told = dashboard()
    assert told["schemaVersion"] >= 38
    assert [one["name"] for one in told["templating"]["list"]] == ["datasource", "run", "role"]
    source = {"type": "prometheus", "uid": "${datasource}"}
    panels = told["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells: set[tuple[int, int]] = set()
    for panel in panels:
        assert panel["title"]
        assert panel["datasource"] == source
        assert all(target["datasource"] == source for target in panel["targets"])
        place = panel["gridPos"]
        mine = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not mine & cells
        assert max(x for x, _ in mine) < 24
        cells |= mine


def test_the_scrape_config_is_one_and_its_alerts_name_metrics() -> None:
    text = (FOLDER / "prometheus.yml").read_text(encoding="utf-8")
    told = yaml.safe_load(text)
    assert [job["job_name"] for job in told["scrape_configs"]] == ["ray", "arbitrage"]
    assert named(text) <= exported(METRICS) | {"ray_start"}
    rules = "\n".join(line[2:] for line in text.splitlines()[-11:] if line.startswith("#"))
    (group,) = yaml.safe_load(rules)["groups"]
    assert all(named(rule["expr"]) for rule in group["rules"])


def has_agent() -> bool:
    """Whether Ray's agent can export anything in this environment."""
    return ray._private.utils.get_dashboard_dependency_error() is None


@pytest.mark.cluster
@pytest.mark.skipif(not has_agent(), reason="plain Ray: `ray[default]` exports metrics")
def test_a_run_is_read_as_prometheus_does_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_metrics_report_interval_ms", "1000")
    write_plain(tmp_path / "prompts.jsonl", 24)
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    config = {
        "run": "mine",
        "prompts": {"sources": [{"path": "prompts.jsonl"}], "shard_size": 4},
        "teachers": {"slow": fake(0.5, options={"delay_s": 5.0})},
        "arbiter": {"engine": "fake"},
        "gates": {"language": False},
        "budget": {"requests": 1000},
        "cluster": {"metrics_port": port, "cpus": 2},
    }
    found: dict[str, dict[str, float]] = {}
    with running("run", write_config(tmp_path, config)) as process:
        while process.poll() is None and "ray_arbitrage_rows_total" not in found:
            time.sleep(0.5)
            found = scraped(port) or found
    assert set(found) >= {"ray_arbitrage_rows_total", "ray_arbitrage_task_seconds_bucket"}
    assert set(found) <= exported(METRICS)
    assert all('run="mine"' in labels for series in found.values() for labels in series)
    read = [v for k, v in found["ray_arbitrage_rows_total"].items() if 'stage="read"' in k]
    assert read
    assert 0 < read[0] <= 24


def test_the_port_is_one_of_the_things_that_a_joined_cluster_refuses() -> None:
    assert ClusterConfig(metrics_port=8080).of_its_own == "`cluster.metrics_port`"
    told = ClusterConfig(metrics_port=8080, cpus=2).of_its_own
    assert told == "`cluster.cpus` and `cluster.metrics_port`"
    assert ClusterConfig().of_its_own == ""
    assert ClusterConfig(metrics_port=8080).identity() == {}


def test_what_ray_needs_to_export_is_what_is_looked_for() -> None:
    missing = [name for name in ray_metrics.AGENT_NEEDS if find_spec(name) is None]
    assert has_agent() == (not missing)


def scraped(port: int) -> dict[str, dict[str, float]]:
    """Values of this package's metrics, by name and labels; nothing while nobody answers."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return {}
    found: dict[str, dict[str, float]] = {}
    for line in text.splitlines():
        if line.startswith("ray_arbitrage_"):
            series, value = line.rsplit(" ", 1)
            name, _, labels = series.partition("{")
            found.setdefault(name, {})[labels] = float(value)
    return found


def test_a_meter_that_is_gone_does_not_end_a_run(
    told: tuple[Any, Recorder], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = told

    def gone(*_: Any) -> None:
        raise RuntimeError("Ray is shut down")

    monkeypatch.setattr("ray.util.metrics.Counter.__init__", gone)
    monkeypatch.setattr("ray.util.metrics.Gauge.set", lambda *_, **__: gone())
    meter = ray_metrics.RayMeter()
    metrics = Metrics(meter, made.store.address(), made.board.names)
    for task, report in made.done:
        metrics.note(Done("r", task, report), {})
    metrics.show(lambda: state_of(made))
    assert meter._made["arbitrage_rows_total"] is None
    assert meter._made["arbitrage_prompts"] is None
    assert meter._made["arbitrage_task_seconds"] is not None
