"""Decisions as values, and then a whole cluster on a clock of numbers.

The simulation is small: the real board, `decide` and `assign` in the pipeline's own order, replicas
that take time to load and tasks that take time to do, and accidents where a test asks for them.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from arbitrage import scheduler
from arbitrage.budget import Budget
from arbitrage.placement import Node, Room, Share, Slots
from arbitrage.plan import CLERK, READER, Task
from arbitrage.scheduler import (
    IN_FLIGHT_PER_REPLICA,
    Drain,
    RoleView,
    Start,
    Stop,
    assign,
)
from arbitrage.turns import Prepare, Swap, preparations, with_swaps
from harness import imagined, pretend

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from arbitrage.board import Board
    from arbitrage.components import Components
    from arbitrage.placement import Place
    from arbitrage.scheduler import Decision

NOTHING = Slots()
GPU = Slots(gpus=1)


def role(name: str, demand: Slots = GPU, ready: int = 0, **more: object) -> RoleView:
    told: dict[str, object] = {"expected": False, "replicas": 0, **more}
    view = RoleView(name, demand, ready, **told)  # type: ignore[arg-type]
    return replace(view, at=placed(view))


def placed(view: RoleView) -> dict[str, Place]:
    """All replicas of a role on the one node."""
    busy = [f"{view.name}/busy{n}" for n in range(view.replicas - len(view.idle))]
    return dict.fromkeys([*view.idle, *busy], on("one", view.demand))


def on(node: str, demand: Slots) -> Place:
    return (Share(node, demand),) if any(demand) else ()


def decide(roles: Sequence[RoleView], free: Slots) -> list[Decision]:
    """Decisions on a cluster of one large node."""
    return scheduler.decide(roles, [Node("one", free, Slots(1e6, 1e6, 1e6))])


def begin(name: str, demand: Slots = GPU) -> Start:
    return Start(name, on("one", demand))


# decide


amounts = st.sampled_from([0.0, 0.1, 0.5, 1.0, 2.0, 4.0])
demands = st.builds(Slots, amounts, amounts, st.sampled_from([0.0, 8.0, 40.0]))


@st.composite
def role_views(draw: st.DrawFn, name: str) -> RoleView:
    most = draw(st.integers(1, 4))
    replicas = draw(st.integers(0, most))
    idle = draw(st.integers(0, replicas))
    names = tuple(f"{name}/{n}" for n in range(idle))
    demand = draw(st.one_of(demands, st.just(NOTHING)))
    ready, expected = draw(st.integers(0, 6)), draw(st.booleans())
    view = RoleView(name, demand, ready, expected, replicas, names, most)
    ending = not ready and idle < replicas and draw(st.booleans())
    return replace(view, at=placed(view), ending=ending)


pools = st.integers(1, 6).flatmap(
    lambda count: st.tuples(*(role_views(name=f"r{n}") for n in range(count)))
)
free_slots = st.builds(
    Slots, st.integers(0, 8).map(float), st.integers(0, 8).map(float), st.sampled_from([0.0, 80.0])
)


def applied(
    roles: Sequence[RoleView], free: Slots, decisions: Sequence[Decision]
) -> tuple[list[RoleView], Slots]:
    """The cluster after the decisions: new replicas are loading, so they are not idle."""
    after = {view.name: view for view in roles}
    for decision in decisions:
        view = after[decision.role]
        if isinstance(decision, Drain):
            after[view.name] = replace(view, draining=view.draining | {decision.replica})
        elif isinstance(decision, Stop):
            assert decision.replica in view.idle, "only an idle replica may be stopped"
            left = tuple(name for name in view.idle if name != decision.replica)
            at = {name: place for name, place in view.at.items() if name != decision.replica}
            after[view.name] = replace(view, replicas=view.replicas - 1, idle=left, at=at)
            free = free.plus(view.demand)
        else:
            at = {**view.at, f"{view.name}/new{view.replicas}": decision.place}
            after[view.name] = replace(view, replicas=view.replicas + 1, at=at)
            free = free.minus(view.demand)
    return list(after.values()), free


def with_room(roles: Sequence[RoleView], free: Slots) -> Slots:
    """What would be free if every idle replica without work gave its slots back."""
    for view in roles:
        for _ in view.idle if not view.ready else ():
            free = free.plus(view.demand)
    return free


@given(pools, free_slots)
@settings(max_examples=300, deadline=None)
def test_decisions_are_possible(roles: tuple[RoleView, ...], free: Slots) -> None:
    decisions = decide(roles, free)
    kinds = [(Stop, Start, Drain).index(type(decision)) for decision in decisions]
    assert kinds == sorted(kinds), "stops come first, so that their slots are there"
    after, left = applied(roles, free, decisions)
    assert left.holds(NOTHING), "more was started than fits"
    most = {view.name: max(view.most, view.replicas) for view in roles}
    assert all(view.replicas <= most[view.name] for view in after)
    assert decide(roles, free) == decisions


@given(pools, free_slots)
@settings(max_examples=300, deadline=None)
def test_no_slot_idles_while_a_waiting_role_fits(roles: tuple[RoleView, ...], free: Slots) -> None:
    after, left = applied(roles, free, decide(roles, free))
    room = with_room(after, left)
    waiting = [view for view in after if view.ready and not view.replicas]
    assert not [view for view in waiting if room.holds(view.demand)]


@given(pools, free_slots)
@settings(max_examples=300, deadline=None)
def test_a_replica_is_stopped_only_when_its_role_is_done_or_another_waits(
    roles: tuple[RoleView, ...], free: Slots
) -> None:
    named = {view.name: view for view in roles}
    decisions = decide(roles, free)
    stopped = [named[d.role] for d in decisions if isinstance(d, Stop)]
    waited = {view.name for view in roles if view.ready and not view.replicas}
    started = {d.role for d in decisions if isinstance(d, Start)}
    for view in stopped:
        assert not view.ready, "a replica that has work is never stopped"
        assert not view.expected or waited & started, "nobody who waits gained by it"


@given(pools, free_slots)
@settings(max_examples=300, deadline=None)
def test_every_idle_replica_of_a_role_that_is_done_is_stopped(
    roles: tuple[RoleView, ...], free: Slots
) -> None:
    after, _ = applied(roles, free, decide(roles, free))
    assert not [view for view in after if view.idle and not view.ready and not view.expected]


@given(pools, free_slots)
@settings(max_examples=300, deadline=None)
def test_deciding_again_at_the_same_moment_comes_to_rest(
    roles: tuple[RoleView, ...], free: Slots
) -> None:
    now: list[RoleView] = list(roles)
    started: Counter[str] = Counter()
    for turn in range(20):
        decisions = decide(now, free)
        if not decisions:
            return
        drained = {name for view in now for name in view.draining}
        stopped = {d.replica for d in decisions if isinstance(d, Stop)}
        assert turn == 0 or stopped <= drained
        started.update(d.role for d in decisions if isinstance(d, Start))
        now, free = applied(now, free, decisions)
    pytest.fail(f"it never comes to rest: {started}")


@given(pools, free_slots)
@settings(max_examples=300, deadline=None)
def test_a_role_that_works_alone_grows_as_far_as_it_fits_and_may(
    roles: tuple[RoleView, ...], free: Slots
) -> None:
    """With nobody waiting, no slot idles while a role has more than its replicas can hold."""
    now: list[RoleView] = list(roles)
    for _ in range(20):
        now, free = applied(now, free, decide(now, free))
    if any(view.ready and not view.replicas for view in now):
        return
    for view in now:
        held = IN_FLIGHT_PER_REPLICA * view.replicas
        busy = view.replicas and not view.idle and view.ready > held
        assert not (busy and view.replicas < view.most and free.holds(view.demand)), view


def test_the_role_with_most_work_ready_has_its_turn_first() -> None:
    roles = [role("few", ready=2), role("many", ready=9), role("some", ready=5)]
    assert decide(roles, Slots(gpus=2)) == [begin("many"), begin("some")]


def test_a_small_role_takes_the_slots_that_a_large_one_cannot_use() -> None:
    roles = [role("large", Slots(gpus=8), ready=9), role("small", GPU, ready=1)]
    assert decide(roles, Slots(gpus=4)) == [begin("small")]


def test_an_idle_replica_makes_room_for_a_role_that_waits() -> None:
    idle = role("idle", ready=0, expected=True, replicas=1, idle=("idle/1",))
    assert decide([idle, role("waits", ready=3)], NOTHING) == [
        Stop("idle", "idle/1"),
        begin("waits"),
    ]
    assert decide([idle, role("later", expected=True)], NOTHING) == []


def test_idle_replicas_are_kept_when_even_all_of_them_would_not_make_room() -> None:
    idle = role("idle", ready=0, expected=True, replicas=1, idle=("idle/1",))
    assert decide([idle, role("huge", Slots(gpus=4), ready=3)], Slots(gpus=2)) == []


def test_a_replica_whose_slots_do_not_help_is_not_stopped() -> None:
    """An Arbiter on the CPU gives no accelerator back, and would have to be loaded again."""
    on_cpu = role("cpu", Slots(cpus=4), expected=True, replicas=1, idle=("cpu/1",))
    on_gpu = role("gpu", GPU, expected=True, replicas=1, idle=("gpu/1",))
    waits = role("waits", GPU, ready=1)
    assert decide([on_cpu, on_gpu, waits], NOTHING) == [Stop("gpu", "gpu/1"), begin("waits")]


@st.composite
def crowded(draw: st.DrawFn) -> tuple[RoleView, ...]:
    """Idle replicas that expect work, and roles that wait for their slots, in any order."""
    size = st.sampled_from([0.0, 1.0, 2.0])
    sizes = st.builds(Slots, size, size, st.sampled_from([0.0, 40.0]))
    views = []
    for number in range(draw(st.integers(1, 4))):
        idle = tuple(f"idle{number}/{n}" for n in range(draw(st.integers(1, 3))))
        view = RoleView(f"idle{number}", draw(sizes), 0, True, len(idle), idle, 3)
        views.append(replace(view, at=placed(view)))
    views += [
        RoleView(f"waits{number}", draw(sizes), draw(st.integers(1, 9)), True, 0)
        for number in range(draw(st.integers(1, 3)))
    ]
    return tuple(draw(st.permutations(views)))


@given(crowded(), st.sampled_from([NOTHING, GPU, Slots(1.0), Slots(1.0, 1.0)]))
@settings(max_examples=200, deadline=None)
def test_room_is_made_wherever_it_can_be_and_no_stop_could_be_spared(
    roles: tuple[RoleView, ...], free: Slots
) -> None:
    decisions = decide(roles, free)
    after, left = applied(roles, free, decisions)
    room = with_room(after, left)
    waiting = [view for view in after if view.ready and not view.replicas]
    assert not [view for view in waiting if room.holds(view.demand)]
    demand = {view.name: view.demand for view in roles}
    ahead = [d for d in decisions if isinstance(d, Start) and d.role.startswith("idle")]
    for stop in [d for d in decisions if isinstance(d, Stop)]:
        assert ahead or not left.holds(demand[stop.role]), f"{stop} frees nothing that was used"


def test_a_role_grows_beside_another_that_waits_for_other_slots() -> None:
    """What a waiting role has no use for must not lie idle."""
    arbiter = role("arbiter", Slots(cpus=1), ready=20, replicas=1, most=4)
    waits = role("waits", Slots(gpus=8), ready=5)
    busy = role("busy", Slots(gpus=8), ready=5, replicas=1)
    assert decide([busy, waits, arbiter], Slots(cpus=3)) == [begin("arbiter", Slots(cpus=1))] * 3


def test_a_role_grows_into_what_is_plenty_though_it_is_asked_for_too() -> None:
    """Every engine takes some CPUs: one that waits for accelerators leaves the other CPUs free."""
    arbiter = role("arbiter", Slots(cpus=1), ready=20, replicas=1, most=4)
    waits = role("waits", Slots(cpus=2, gpus=8), ready=5)
    busy = role("busy", Slots(cpus=2, gpus=8), ready=5, replicas=1)
    assert decide([busy, waits, arbiter], Slots(cpus=60)) == [begin("arbiter", Slots(cpus=1))] * 3
    assert decide([busy, waits, arbiter], Slots(cpus=4)) == [begin("arbiter", Slots(cpus=1))] * 2
    assert decide([busy, waits, arbiter], Slots(cpus=2)) == [], "two are kept for who waits"


def test_a_role_that_waits_is_not_overtaken_by_the_growth_of_another() -> None:
    growing = role("growing", ready=50, replicas=1, most=8)
    waits = role("waits", Slots(gpus=4), ready=5)
    assert decide([growing, waits], Slots(gpus=3)) == []


def test_a_role_is_loaded_ahead_only_where_nobody_waits() -> None:
    later = role("later", expected=True)
    assert decide([later], Slots(gpus=1)) == [begin("later")]
    assert decide([later, role("now", ready=1)], Slots(gpus=1)) == [begin("now")]
    assert decide([later, role("now", ready=1)], Slots(gpus=2)) == [begin("now"), begin("later")]


def test_memory_and_cpus_bound_as_accelerators_do() -> None:
    demand = Slots(cpus=2, gpus=1, memory_gb=60)
    eager = role("eager", demand, ready=50, replicas=1, most=9)
    assert decide([eager], Slots(8, 8, 130)) == [begin("eager", demand)] * 2
    assert decide([eager], Slots(3, 8, 999)) == [begin("eager", demand)]
    assert decide([eager], Slots(8, 0, 999)) == []


def test_tenths_of_a_processor_add_up() -> None:
    free = Slots(1.0)
    for _ in range(10):
        assert free.holds(Slots(0.1))
        free = free.minus(Slots(0.1))
    assert not free.holds(Slots(0.1))


def test_reader_and_clerk_start_on_a_machine_that_is_full() -> None:
    roles = [role("reader", NOTHING, ready=1), role("clerk", NOTHING, ready=1), role("t", ready=4)]
    started = {d.role for d in decide(roles, NOTHING) if isinstance(d, Start)}
    assert started == {"reader", "clerk"}


# with_swaps


@given(pools, free_slots, st.lists(st.sampled_from("ab"), min_size=6, max_size=6))
@settings(max_examples=300, deadline=None)
def test_what_stops_and_starts_of_one_kind_is_a_swap_and_nothing_else_changes(
    roles: tuple[RoleView, ...], free: Slots, drawn: list[str]
) -> None:
    kinds = {view.name: (kind, view.demand) for view, kind in zip(roles, drawn, strict=False)}
    at = {name: place for view in roles for name, place in view.at.items()}
    decisions = decide(roles, free)
    found = with_swaps(decisions, kinds, at)
    owner = {d.replica: d.role for d in decisions if isinstance(d, Stop)}
    split: list[Decision] = []
    for decision in found:
        if isinstance(decision, Swap):
            assert kinds[owner[decision.replica]] == kinds[decision.role]
            split += [
                Stop(owner[decision.replica], decision.replica),
                Start(decision.role, at[decision.replica]),
            ]
        else:
            split.append(decision)
    assert sorted(split, key=str) == sorted(decisions, key=str)
    left = [{kinds[d.role] for d in found if isinstance(d, kind)} for kind in (Start, Stop)]
    assert not left[0] & left[1], "no process ends while one of its kind begins"
    is_stop = [isinstance(decision, Stop) for decision in found]
    assert is_stop == sorted(is_stop, reverse=True), "what ends frees what begins"


# preparations


@given(pools, free_slots)
@settings(max_examples=300, deadline=None)
def test_only_a_role_that_waits_is_prepared_and_only_where_a_turn_ends(
    roles: tuple[RoleView, ...], free: Slots
) -> None:
    nodes = [Node("one", free, Slots(1e6, 1e6, 1e6))]
    decisions = scheduler.decide(roles, nodes)
    found = preparations(roles, nodes, decisions)
    assert scheduler.decide(roles, nodes) == decisions, "nothing else is decided by it"
    named = {view.name: view for view in roles}
    after, left = applied(roles, free, decisions)
    waiting = {view.name for view in after if view.ready and not view.replicas}
    ending = {
        name: view.demand
        for view in roles
        if view.ending
        for name in view.at
        if name not in view.idle
    }
    assert {prepare.role for prepare in found} <= waiting
    assert {prepare.replica for prepare in found} <= ending.keys()
    assert len({prepare.role for prepare in found}) == len(found)
    assert len({prepare.replica for prepare in found}) == len(found)
    for prepare in found:
        assert any(ending[prepare.replica]), "it gives nothing back"
    for demand in ending.values():
        left = left.plus(demand)
    for prepare in found:
        left = left.minus(named[prepare.role].demand)
    assert left.holds(NOTHING), "not all of them fit when those turns have ended"
    assert {p.role for p in found} or not [n for n in waiting if left.holds(named[n].demand)]


def last_of(name: str, demand: Slots = GPU, replicas: int = 1) -> RoleView:
    """A role with nothing left but what is in flight; that may fail, so more may be ready."""
    return role(name, demand, expected=True, replicas=replicas, ending=True)


def prepares(*roles: RoleView, free: Slots = NOTHING) -> list[Prepare]:
    nodes = [Node("one", free, Slots(1e6, 1e6, 1e6))]
    return preparations(roles, nodes, scheduler.decide(roles, nodes))


def test_the_role_that_is_first_in_line_is_prepared_by_the_replica_that_makes_way() -> None:
    last = last_of("last")
    few, many = role("few", ready=2), role("many", ready=9)
    assert prepares(few, last, many) == [Prepare("many", "last/busy0")]
    assert prepares(few, last_of("last", replicas=2), many) == [
        Prepare("many", "last/busy0"),
        Prepare("few", "last/busy1"),
    ]


def test_nobody_is_prepared_before_a_turn_ends_or_where_none_waits() -> None:
    waits = role("waits", ready=9)
    assert prepares(role("works", replicas=1, ready=1), waits) == []
    assert prepares(role("expects", replicas=1, expected=True), waits) == []
    assert prepares(last_of("last"), waits, free=GPU) == [], "it is started"
    assert prepares(last_of("last"), role("later", expected=True)) == []
    assert prepares(role("idle", replicas=1, idle=("idle/1",)), waits) == [], "it is swapped"


def test_a_drained_replica_prepares_who_gets_its_place() -> None:
    works = role("works", replicas=2, ready=9)
    drained = replace(works, draining=frozenset({"works/busy1"}))
    assert prepares(drained, role("waits", ready=9)) == [Prepare("waits", "works/busy1")]


def test_a_role_that_needs_the_places_of_two_is_prepared_by_the_second() -> None:
    on_cpu = last_of("cpu", Slots(cpus=1))
    last, wide = last_of("last", replicas=2), role("wide", Slots(gpus=2), ready=9)
    assert prepares(on_cpu, last, wide) == [Prepare("wide", "last/busy1")]
    assert prepares(on_cpu, last_of("last"), wide) == []


def test_a_role_is_prepared_on_the_node_where_it_will_be() -> None:
    last = last_of("last", replicas=2)
    at = dict(zip(last.at, [on("one", GPU), on("two", GPU)], strict=True))
    roles = [replace(last, at=at), role("wide", Slots(gpus=2), ready=9)]
    nodes = [Node("one", NOTHING, GPU), Node("two", GPU, Slots(gpus=2))]
    decisions = scheduler.decide(roles, nodes)
    assert preparations(roles, nodes, decisions) == [Prepare("wide", "last/busy1")]


# assign


@given(st.integers(0, 30), st.dictionaries(st.text("abc", min_size=1), st.integers(0, 3)))
def test_tasks_go_to_the_least_loaded_replicas_and_never_too_many(
    ready: int, load: dict[str, int]
) -> None:
    names = assign(ready, load)
    room = sum(max(0, IN_FLIGHT_PER_REPLICA - count) for count in load.values())
    assert len(names) == min(ready, room)
    after = Counter(load) + Counter(names)
    for name in names:
        assert after[name] <= IN_FLIGHT_PER_REPLICA
    if names:
        least = min(after[name] for name in load)
        assert max(after[name] for name in names) <= least + 1
    assert assign(ready, dict(reversed(load.items()))) == names


# A whole cluster


@dataclass
class Replica:
    name: str
    owner: str
    loaded_at: float
    tasks: dict[Task, float] = field(default_factory=dict)
    draining: bool = False


@dataclass
class Machine:
    """What the simulated cluster is like. All times in seconds."""

    total: Slots
    demand: dict[str, Slots]
    most: dict[str, int]
    load_s: dict[str, float]
    task_s: Callable[[Task], float]
    fails: Callable[[Task], bool] = lambda task: False
    dies_loading: Callable[[str], bool] = lambda owner: False


class Simulation:
    """The pipeline's loop: decide, hand out, wait for the next event, settle."""

    def __init__(
        self,
        machine: Machine,
        components: Components,
        board: Board,
        shards: int,
        limits: dict[str, float],
    ) -> None:
        self.machine, self.components, self.board = machine, components, board
        self.shards = shards
        self.budget = Budget(limits, {}, {})
        self.spent: Counter[str] = Counter()
        self.now = 0.0
        self.replicas: dict[str, Replica] = {}
        self.starts: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self.done: list[Task] = []
        self.idle_slots_s = 0.0

    @property
    def free(self) -> Slots:
        free = self.machine.total
        for replica in self.replicas.values():
            free = free.minus(self.machine.demand[replica.owner])
        return free

    def of(self, owner: str) -> list[Replica]:
        return [replica for replica in self.replicas.values() if replica.owner == owner]

    def views(self) -> list[RoleView]:
        views = []
        for owner, work in self.board.roles.items():
            replicas = self.of(owner)
            idle = tuple(r.name for r in replicas if r.loaded_at <= self.now and not r.tasks)
            expected = self.board.expects_more(owner)
            if work.held and not work.ready:
                expected = bool(replicas) and self.board.in_flight()
            views.append(
                RoleView(
                    owner,
                    self.machine.demand[owner],
                    len(work.ready),
                    expected,
                    len(replicas),
                    idle,
                    self.machine.most[owner],
                    left=work.left,
                    load_s=self.machine.load_s[owner],
                    at={r.name: on("one", self.machine.demand[owner]) for r in replicas},
                    draining=frozenset(r.name for r in replicas if r.draining),
                )
            )
        return views

    def run(self) -> Simulation:
        for _ in range(200_000):
            if self.budget.limits:
                self.board.hold_back(self.budget.too_dear)
            if not (self.board.is_open() or self.board.in_flight()):
                return self
            self._act()
            self._check()
            self._hand_out()
            self._advance()
        raise AssertionError("the run does not end")

    def _act(self) -> None:
        for decision in decide(self.views(), self.free):
            if isinstance(decision, Stop):
                assert not self.replicas.pop(decision.replica).tasks
                continue
            if isinstance(decision, Drain):
                self.replicas[decision.replica].draining = True
                continue
            owner = decision.role
            self.starts[owner] += 1
            name = f"{owner}/{self.starts[owner]}"
            self.replicas[name] = Replica(name, owner, self.now + self.machine.load_s[owner])

    def _check(self) -> None:
        assert self.free.holds(NOTHING), "over capacity"
        for owner, count in Counter(r.owner for r in self.replicas.values()).items():
            assert count <= self.machine.most[owner]
            self.peak[owner] = max(self.peak[owner], count)
        views = self.views()
        room = with_room(views, self.free)
        waiting = [view for view in views if view.ready and not view.replicas]
        assert not [view for view in waiting if room.holds(view.demand)], "a slot idles"

    def _hand_out(self) -> None:
        for owner, work in self.board.roles.items():
            loaded = [r for r in self.of(owner) if r.loaded_at <= self.now and not r.draining]
            load = {r.name: len(r.tasks) for r in loaded}
            for name in assign(len(work.ready), load):
                task = self.board.take(owner)
                self.budget.reserve(task)
                self.replicas[name].tasks[task] = self.now + self.machine.task_s(task)

    def _advance(self) -> None:
        """To the next event; loads that end just now are events too."""
        ends = [end for r in self.replicas.values() for end in r.tasks.values()]
        loads = [r.loaded_at for r in self.replicas.values() if r.loaded_at > self.now]
        assert ends or loads, "nothing will ever happen again"
        self.now = min([*ends, *loads])
        for replica in list(self.replicas.values()):
            if replica.loaded_at == self.now and self.machine.dies_loading(replica.owner):
                del self.replicas[replica.name]
                if self.board.load_lost(replica.owner):
                    self.board.set_aside(replica.owner, "it dies while loading")
            for task in [task for task, end in replica.tasks.items() if end <= self.now]:
                del replica.tasks[task]
                self._settle(task)

    def _settle(self, task: Task) -> None:
        if self.machine.fails(task):
            self.budget.fail(task)
            self.board.failed(task, "an accident")
            return
        report = pretend(task, self.components, self.shards)
        self.board.finished(task, report)
        self.budget.settle(task, report.spent)
        self.spent.update(report.spent.measured())
        self.done.append(task)


def simulate(
    teachers: int,
    shards: int,
    gpus: float,
    *,
    demand: Sequence[Slots] | None = None,
    arbiter: Slots = GPU,
    most: int = 1,
    load_s: float = 60.0,
    task_s: Callable[[Task], float] | None = None,
    total: Slots | None = None,
    attempts: int = 3,
    limits: dict[str, float] | None = None,
    **accidents: Callable[..., bool],
) -> Simulation:
    """A run of a pool on a machine; teachers take one accelerator each if nothing else is said."""
    components, board = imagined(teachers, attempts=attempts)
    prints = [t.fingerprint for t in components.teachers]
    judge = components.arbiter.fingerprint
    needs = dict(zip(prints, demand or [GPU] * teachers, strict=True)) | {judge: arbiter}
    served = {*prints, judge}
    lengths = {"read": 0.01, "route": 0.02, "generate": 30.0, "score": 6.0}
    lengths |= {"gate": 0.02, "select": 0.05}
    machine = Machine(
        total or Slots(cpus=64, gpus=gpus, memory_gb=1000),
        {READER: NOTHING, CLERK: NOTHING, **needs},
        {READER: 1, CLERK: 1, **dict.fromkeys(served, most)},
        {READER: 1.0, CLERK: 1.0, **dict.fromkeys(served, load_s)},
        task_s or (lambda task: lengths[task.stage]),
        **accidents,
    )
    return Simulation(machine, components, board, shards, limits or {}).run()


def starts_of_engines(run: Simulation) -> dict[str, int]:
    return {o: count for o, count in run.starts.items() if o not in (READER, CLERK)}


def assert_complete(run: Simulation, teachers: int) -> None:
    counts = Counter(task.stage for task in run.done)
    wanted = {"read": run.shards + 1, "route": run.shards, "select": run.shards}
    wanted |= dict.fromkeys(("generate", "gate", "score"), teachers * run.shards)
    assert counts == {stage: number for stage, number in wanted.items() if number}
    assert len(set(run.done)) == len(run.done)
    assert not run.board.given_up


def test_a_pool_that_fits_is_loaded_once() -> None:
    run = simulate(teachers=3, shards=20, gpus=4)
    assert_complete(run, 3)
    assert set(run.starts.values()) == {1}


def test_a_pool_that_does_not_fit_takes_turns_and_nobody_is_loaded_for_every_shard() -> None:
    run = simulate(teachers=4, shards=50, gpus=1)
    assert_complete(run, 4)
    starts = starts_of_engines(run)
    arbiter = run.components.arbiter.fingerprint
    assert {starts[t.fingerprint] for t in run.components.teachers} == {1}
    assert starts[arbiter] <= 4


@pytest.mark.parametrize("shards", [10, 100])
def test_the_number_of_loads_does_not_grow_with_the_number_of_shards(shards: int) -> None:
    run = simulate(teachers=4, shards=shards, gpus=3, most=2)
    assert_complete(run, 4)
    bound = 2 * (len(run.components.teachers) + 1)
    assert all(count <= bound for count in starts_of_engines(run).values()), run.starts


def test_a_free_machine_is_used_by_more_replicas_of_the_roles_that_have_work() -> None:
    run = simulate(teachers=1, shards=40, gpus=8, most=6)
    assert_complete(run, 1)
    teacher = run.components.teachers[0].fingerprint
    assert run.peak[teacher] == 6
    work = 40 * 30.0
    assert run.now < 60 + 1.5 * work / 6 / IN_FLIGHT_PER_REPLICA + 60


def test_no_machine_is_left_idle_for_a_teacher_that_has_only_its_last_shards() -> None:
    """Two slots, three teachers: when one is done, the next starts beside the one at work."""
    run = simulate(teachers=3, shards=10, gpus=2, arbiter=Slots(cpus=1), load_s=1.0)
    assert_complete(run, 3)
    one_turn = 10 * 30.0 / IN_FLIGHT_PER_REPLICA
    assert run.now < 2 * one_turn + 30


def test_a_large_teacher_that_needs_the_whole_machine_has_its_turn() -> None:
    big = Slots(gpus=4)
    run = simulate(teachers=3, shards=12, gpus=4, demand=[GPU, big, GPU], most=3)
    assert_complete(run, 3)


def test_memory_keeps_two_large_models_apart_on_one_machine() -> None:
    demand = [Slots(cpus=1, memory_gb=60)] * 3
    run = simulate(
        3, 8, 0, demand=demand, arbiter=Slots(cpus=1, memory_gb=20), total=Slots(8, 0, 100)
    )
    assert_complete(run, 3)


def test_an_empty_prompt_set_ends_at_once() -> None:
    run = simulate(teachers=2, shards=0, gpus=2)
    assert [task.stage for task in run.done] == ["read"]
    assert run.now < 120


@st.composite
def simulations(draw: st.DrawFn) -> dict[str, object]:
    teachers = draw(st.integers(1, 5))
    sizes = st.sampled_from([Slots(cpus=0.1), GPU, Slots(1, 0.5, 10), Slots(4, 2, 40), Slots(2)])
    return {
        "teachers": teachers,
        "shards": draw(st.integers(0, 12)),
        "gpus": draw(st.sampled_from([2, 3, 4, 8])),
        "total": Slots(draw(st.sampled_from([4, 8, 64])), draw(st.sampled_from([2, 3, 8])), 64),
        "demand": [draw(sizes) for _ in range(teachers)],
        "arbiter": draw(sizes),
        "most": draw(st.integers(1, 3)),
        "load_s": draw(st.sampled_from([0.0, 0.5, 60.0])),
    }


LAST_ONE_DRAINED: dict[str, object] = {
    "teachers": 3,
    "shards": 5,
    "gpus": 2,
    "total": Slots(4, 3, 64),
    "demand": [Slots(gpus=1), Slots(gpus=1), Slots(4, 2, 40)],
    "arbiter": Slots(gpus=1),
    "most": 2,
    "load_s": 0.0,
}


@given(simulations(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
@example(LAST_ONE_DRAINED, 69996)
def test_every_run_ends_complete_within_its_slots(told: dict[str, object], seed: int) -> None:
    rng = random.Random(seed)
    run = simulate(**told, task_s=lambda task: rng.choice([0.1, 1.0, 10.0]))  # type: ignore[arg-type]
    assert_complete(run, told["teachers"])  # type: ignore[arg-type]


@given(simulations(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_without_failures_no_role_is_loaded_again_and_again(
    told: dict[str, object], seed: int
) -> None:
    """Prompts are read much faster than they are answered, as in life."""
    rng = random.Random(seed)
    slow = {"generate": (20.0, 40.0), "score": (2.0, 8.0)}
    run = simulate(
        **told,  # type: ignore[arg-type]
        task_s=lambda task: rng.uniform(*slow.get(task.stage, (0.001, 0.01))),
    )
    bound = run.machine.most
    roles = len(run.components.teachers) + 1
    for owner, count in starts_of_engines(run).items():
        assert count <= bound[owner] * (roles + 1), (owner, run.starts, told)


@given(simulations(), st.integers(0, 2**32), st.sampled_from([0.1, 0.5]))
@settings(max_examples=60, deadline=None)
def test_with_accidents_every_task_is_done_or_given_up_and_the_run_ends(
    told: dict[str, object], seed: int, chance: float
) -> None:
    rng = random.Random(seed)
    run = simulate(
        **told,  # type: ignore[arg-type]
        fails=lambda task: rng.random() < chance,
        dies_loading=lambda owner: rng.random() < 0.2,
    )
    done, lost = set(run.done), set(run.board.given_up)
    assert not done & lost
    assert len(run.done) == len(done)
    for task in done:
        if task.stage == "select":
            scored = {t.output for t in done if t.stage == "score" and t.shard == task.shard}
            assert {path for path in task.inputs if path.startswith("scores/")} <= scored
    if not lost:
        assert_complete(run, told["teachers"])  # type: ignore[arg-type]


# With a budget


def whole_shards(run: Simulation) -> int:
    return sum(task.stage == "select" for task in run.done)


@pytest.mark.parametrize("measure", ["requests", "tokens"])
def test_a_pool_that_takes_turns_spends_its_budget_on_whole_shards(measure: str) -> None:
    """A shard of four teachers: 80 requests, or 400 tokens of the teachers."""
    limit = {"requests": 1650.0, "tokens": 8250.0}[measure]
    run = simulate(teachers=4, shards=50, gpus=1, limits={measure: limit})
    assert whole_shards(run) == 20
    assert run.spent[measure] == limit * 1600 / 1650
    assert not run.board.given_up
    assert run.board.held_prompts() == 300
    assert max(starts_of_engines(run).values()) <= 8, "nobody is loaded for every shard"


@given(simulations(), st.integers(0, 2**32), st.integers(1, 2000), st.sampled_from([0.0, 0.3]))
@settings(max_examples=40, deadline=None)
def test_every_run_with_a_budget_ends_and_keeps_it(
    told: dict[str, object], seed: int, limit: int, chance: float
) -> None:
    rng = random.Random(seed)
    measure = rng.choice(["requests", "tokens"])
    run = simulate(
        **told,  # type: ignore[arg-type]
        limits={measure: limit},
        fails=lambda task: rng.random() < chance,
        task_s=lambda task: rng.choice([0.1, 1.0, 10.0]),
    )
    probes = 100 * len(run.components.teachers) if measure == "tokens" else 0
    assert run.spent[measure] <= limit + probes
    if not (run.board.given_up or run.board.held_prompts()):
        assert_complete(run, told["teachers"])  # type: ignore[arg-type]


# enough


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 4)), max_size=12),
    st.sampled_from([GPU, Slots(gpus=3), Slots(1, 4), Slots(gpus=4), Slots(1, 6), Slots(2, 12)]),
)
@settings(max_examples=300, deadline=None)
def test_as_many_places_are_enough_as_must_be_given_back_one_by_one(
    shares: list[tuple[str, int]], demand: Slots
) -> None:
    """Demands of one node and spread ones, and places on a node that is gone."""
    room = Room([Node(name, Slots(cpus=2), Slots(2, 4)) for name in "ab"])
    places = [(Share(name, Slots(gpus=gpus)),) for name, gpus in shares]
    wanted, tried = 0, room.copy()
    for count, place in enumerate(places, 1):
        tried.give(place)
        if tried.place(demand) is not None:
            wanted = count
            break
    assert room.enough(places, demand) == wanted
    assert room.place(demand) is None, "nothing was given back"
