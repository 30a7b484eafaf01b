"""What a run tells a monitoring system while it works: one table of metrics, and their updates.

Knows no Ray and no Prometheus: a `Meter` takes the numbers. But for the budget they are about this
call of the run alone, not about what earlier ones made. Updates come once a second at most, and
nothing in here ends or holds up a run. Labels hold names, never an address or a setting.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

from arbitrage.errors import Stopped
from arbitrage.events import Done, Failed, LoadFailed

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping

    from arbitrage.events import Event
    from arbitrage.plan import Report, Task

EVERY_S = 1.0
BOUNDARIES_S = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)
"""Tasks take from a blink to hours, so buckets grow by a factor of about three."""


class Metric(NamedTuple):
    """A metric as Prometheus wants it: the unit is in the name, a counter's ends with `_total`."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    help: str


WORK = ("run", "role", "stage")
ROLE = ("run", "role")

METRICS = {
    metric.name: metric
    for metric in (
        Metric(
            "arbitrage_rows_total", "counter", WORK, "Rows written, by the stage that wrote them"
        ),
        Metric("arbitrage_errors_total", "counter", WORK, "Answers and scores that are errors"),
        Metric(
            "arbitrage_requests_total",
            "counter",
            WORK,
            "Completions asked for, and candidates scored",
        ),
        Metric(
            "arbitrage_prompt_tokens_total", "counter", WORK, "Tokens of prompts that engines told"
        ),
        Metric(
            "arbitrage_completion_tokens_total",
            "counter",
            WORK,
            "Tokens of completions that engines told",
        ),
        Metric(
            "arbitrage_money_total", "counter", WORK, "Money by the endpoints' prices per token"
        ),
        Metric(
            "arbitrage_tasks_total",
            "counter",
            (*WORK, "outcome"),
            "Tasks by what became of them: done, retried, failed for good, or stopped on request",
        ),
        Metric(
            "arbitrage_task_seconds", "histogram", WORK, "Seconds that a task took on its replica"
        ),
        Metric("arbitrage_load_failures_total", "counter", ROLE, "Replicas that could not load"),
        Metric(
            "arbitrage_queue_tasks",
            "gauge",
            (*ROLE, "state"),
            "Tasks not done: ready, held back by the budget, in flight, or waiting for others",
        ),
        Metric(
            "arbitrage_replicas",
            "gauge",
            (*ROLE, "state"),
            "Replicas: loaded, or loading",
        ),
        Metric("arbitrage_set_aside", "gauge", ROLE, "1 where the role was given up in this call"),
        Metric(
            "arbitrage_prompts",
            "gauge",
            ("run", "state"),
            "Prompts: known so far; selected and quarantined by this call",
        ),
        Metric(
            "arbitrage_budget_spent",
            "gauge",
            ("run", "measure"),
            "What the run directory has spent of what is limited, earlier calls too",
        ),
        Metric("arbitrage_budget_limit", "gauge", ("run", "measure"), "What it may spend in all"),
        Metric(
            "arbitrage_last_event_timestamp_seconds",
            "gauge",
            ("run",),
            "Unix time at which a replica last told anything; at first that of the start",
        ),
    )
}
"""Every metric by its name. Ray exports each with `ray_` before it."""


class Meter(Protocol):
    """Takes numbers, and never raises for what goes wrong on their way."""

    def record(self, metric: Metric, value: float, labels: Mapping[str, str]) -> None:
        """Adds to a counter, sets a gauge, or counts a value in a histogram."""


class RoleState(NamedTuple):
    """One role now: tasks by their state, and replicas."""

    owner: str
    ready: int
    held: int
    in_flight: int
    waiting: int
    loaded: int
    loading: int
    set_aside: bool


class RunState(NamedTuple):
    """A run now. `budget` maps what is limited to (spent, limit)."""

    roles: tuple[RoleState, ...]
    prompts: int
    budget: Mapping[str, tuple[float, float]]


def run_label(address: str) -> str:
    """The last part of a run's place: no folder, host or setting of its address."""
    return address.partition("?")[0].rstrip("/").rpartition("/")[2] or "run"


def role_labels(names: Mapping[str, str]) -> dict[str, str]:
    """By owner the name of its role; where a teacher and an Arbiter have one name, with the
    fingerprint, as their folders are called."""
    often = Counter(names.values())
    return {owner: name if often[name] == 1 else f"{name}-{owner}" for owner, name in names.items()}


class Metrics:
    """Turns what happens in a run into updates of a meter."""

    def __init__(
        self,
        meter: Meter,
        address: str,
        roles: Mapping[str, str],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`address`: where the run is; `roles` maps owners to names."""
        self._meter, self._run, self._clock = meter, run_label(address), clock
        self._roles = role_labels(roles)
        self._product: dict[int, tuple[int, int]] = {}
        self._last_event = clock()
        self._shown = float("-inf")

    def note(self, event: Event, given_up: Collection[Task]) -> None:
        """Counts an event that has been settled; `given_up` are all tasks that will not be done."""
        self._last_event = self._clock()
        if isinstance(event, Done):
            self._done(event.task, event.report)
        elif isinstance(event, Failed):
            stopped = isinstance(event.error, Stopped)
            lost = "failed" if event.task in given_up else "retried"
            self._ended(event.task, "stopped" if stopped else lost)
        elif isinstance(event, LoadFailed):
            self._record("arbitrage_load_failures_total", 1, role=self._role(event.owner))

    def show(self, state: Callable[[], RunState], *, last: bool = False) -> None:
        """Sets every gauge, once a second at most; `last`: in any case. `state` is asked then."""
        now = self._clock()
        if not last and 0 <= now - self._shown < EVERY_S:
            return
        self._shown = now
        seen = state()
        for role in seen.roles:
            self._show_role(role)
        self._record("arbitrage_prompts", seen.prompts, state="known")
        for place, name in enumerate(("selected", "quarantined")):
            count = sum(counts[place] for counts in self._product.values())
            self._record("arbitrage_prompts", count, state=name)
        for measure, (spent, limit) in seen.budget.items():
            self._record("arbitrage_budget_spent", spent, measure=measure)
            self._record("arbitrage_budget_limit", limit, measure=measure)
        self._record("arbitrage_last_event_timestamp_seconds", self._last_event)

    def _show_role(self, state: RoleState) -> None:
        role = self._role(state.owner)
        for name in ("ready", "held", "in_flight", "waiting"):
            count = getattr(state, name)
            self._record("arbitrage_queue_tasks", count, role=role, state=name)
        for name in ("loaded", "loading"):
            self._record("arbitrage_replicas", getattr(state, name), role=role, state=name)
        self._record("arbitrage_set_aside", state.set_aside, role=role)

    def _done(self, task: Task, report: Report) -> None:
        if task.stage == "read" and not report.rows:  # the reader's last look
            return
        self._ended(task, "done")
        if task.stage == "select":  # its rows are of prompts, and made anew they are the same ones
            self._product[task.shard] = (task.rows - report.errors, report.errors)
        spent = report.spent
        amounts = {
            "rows": report.rows,
            "errors": report.errors if task.stage in ("generate", "score") else 0,
            "requests": spent.requests,
            "prompt_tokens": spent.prompt_tokens,
            "completion_tokens": spent.completion_tokens,
            "money": spent.cost,
        }
        for name, amount in amounts.items():
            self._record(f"arbitrage_{name}_total", amount, **self._work(task))
        self._record("arbitrage_task_seconds", report.seconds, **self._work(task))

    def _ended(self, task: Task, outcome: str) -> None:
        self._record("arbitrage_tasks_total", 1, **self._work(task), outcome=outcome)

    def _work(self, task: Task) -> dict[str, str]:
        return {"role": self._role(task.owner), "stage": task.stage}

    def _role(self, owner: str) -> str:
        return self._roles.get(owner, owner)

    def _record(self, name: str, value: float, **labels: str) -> None:
        metric = METRICS[name]
        if value > 0 or metric.kind != "counter":
            self._meter.record(metric, float(value), {"run": self._run, **labels})


def exported(names: Iterable[str]) -> set[str]:
    """The names of metrics as Ray exports them, a histogram's three series too."""
    found = set()
    for name in names:
        ends = ("_bucket", "_count", "_sum") if METRICS[name].kind == "histogram" else ("",)
        found |= {f"ray_{name}{end}" for end in ends}
    return found
