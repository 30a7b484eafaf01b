"""What a budget lets go out: as values, and in whole runs of numbers without a cluster."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arbitrage.budget import Budget, open_budget
from arbitrage.config import RunConfig
from arbitrage.plan import CLERK, Task
from arbitrage.resolve import resolve
from arbitrage.usage import Usage
from harness import imagined, pretend

if TYPE_CHECKING:
    from collections.abc import Callable

JUDGE = "judge"


def asked(owner: str, shard: int = 0, requests: int = 10, stage: str = "generate") -> Task:
    output = f"{stage}/{owner}/{shard}"
    return Task(stage, owner, shard, (), output, rows=requests, requests=requests)


def made(budget: Budget, *tasks: Task, tokens: int = 0, cost: float = 0.0) -> None:
    """Tasks that went out and are done, each at so many tokens and so much money."""
    for task in tasks:
        budget.reserve(task)
        budget.settle(task, Usage(task.requests, tokens, 0, cost))


def goes(budget: Budget, *ready: Task, waiting: tuple[Task, ...] = ()) -> list[Task]:
    dear = budget.too_dear(ready, waiting)
    return [task for task in ready if task not in dear]


# --- decisions ------------------------------------------------------------------------------------


def test_without_a_limit_everything_goes_out() -> None:
    tasks = [asked("a", n) for n in range(5)]
    assert goes(Budget({}, {}, {}), *tasks) == tasks


def test_requests_are_exact_from_the_first_task_on() -> None:
    budget = Budget({"requests": 25}, {}, {})
    one, two, three = (asked("a", n) for n in range(3))
    assert goes(budget, one, two, three) == [one, two]
    budget.reserve(one)
    assert goes(budget, two, three) == [two]
    budget.settle(one, Usage(3))
    assert goes(budget, two, three) == [two, three], "it made fewer requests than it might have"


def test_a_limit_can_be_spent_to_the_last_request() -> None:
    assert goes(Budget({"requests": 20}, {}, {}), asked("a", 0), asked("a", 1)) != []
    budget = Budget({"requests": 10}, {"gone": Usage(10)}, {})
    assert goes(budget, asked("a", requests=1)) == [], "others have spent it"


def test_what_follows_in_a_shard_must_fit_too() -> None:
    """Answers that nobody can pay to have scored would be paid for in vain."""
    budget = Budget({"requests": 30}, {}, {})
    one, other = asked("a"), asked("b")
    scores = (asked(JUDGE, stage="score"), asked(JUDGE, 0, 11, stage="score"))
    assert goes(budget, one, other, waiting=scores[:1]) == [one, other]
    assert goes(budget, one, other, waiting=scores) == []


def test_a_fast_teacher_does_not_spend_what_the_shards_before_need() -> None:
    budget = Budget({"requests": 40}, {}, {})
    slow = asked("slow", 0, 25)
    fast = [asked("fast", n) for n in range(5)]
    assert goes(budget, *fast, waiting=(slow,)) == fast[:1]
    made(budget, fast[0])
    assert goes(budget, *fast[1:], slow) == [slow]


def test_a_later_shard_that_would_fit_does_not_overtake() -> None:
    budget = Budget({"requests": 10}, {}, {})
    assert goes(budget, asked("a", 0, 11), asked("a", 1, 5)) == []


@pytest.mark.parametrize("limited", ["tokens", "money"])
def test_an_owner_of_whom_nothing_is_known_has_one_probe_in_flight(limited: str) -> None:
    budget = Budget({limited: 100}, {}, {})
    a = [asked("a", n) for n in range(3)]
    b = [asked("b", n) for n in range(3)]
    assert goes(budget, *a, *b) == [a[0], b[0]]
    budget.reserve(a[0])
    assert goes(budget, *a[1:], *b) == [b[0]]
    budget.settle(a[0], Usage(10, 20, 0, 20))
    assert goes(budget, *a[1:], *b) == [b[0]], "a waits until b is known"
    budget.reserve(b[0])
    assert goes(budget, *a[1:], *b[1:]) == []
    budget.fail(b[0])
    assert goes(budget, *a[1:], *b) == [b[0]], "still nothing is known of it"
    made(budget, b[0], tokens=10, cost=10)
    assert goes(budget, *a[1:], *b[1:]) == [a[1], b[1]], "50 of 100 are spent, 30 a shard"


def test_an_unknown_owner_is_taken_to_cost_what_the_dearest_does() -> None:
    budget = Budget({"tokens": 100}, {"a": Usage(10, 20), "b": Usage(10, 30)}, {})
    assert goes(budget, asked("c", 0, 16)) == [asked("c", 0, 16)]
    assert goes(budget, asked("c", 0, 17)) == []


def test_a_probe_that_failed_counts_at_what_was_expected() -> None:
    budget = Budget({"tokens": 100}, {"a": Usage(10, 30)}, {})
    task = asked("a", 1)
    for left in (True, True, False):
        assert (goes(budget, task) == [task]) is left
        budget.reserve(task)
        budget.fail(task)


def test_the_probe_of_a_shard_that_does_not_fit_stays_back() -> None:
    budget = Budget({"tokens": 100}, {"a": Usage(10, 95)}, {})
    assert goes(budget, asked("b")) == []
    assert goes(Budget({"tokens": 95}, {"gone": Usage(0, 95)}, {}), asked("b")) == []


def test_with_a_limit_of_requests_alone_nobody_is_probed() -> None:
    tasks = [asked("a", n) for n in range(4)]
    assert goes(Budget({"requests": 100}, {}, {}), *tasks) == tasks


def test_what_costs_nothing_that_is_limited_goes_out_when_all_is_spent() -> None:
    free = {"local": {"money"}, JUDGE: {"money", "tokens"}}
    budget = Budget({"money": 1.0}, {"hosted": Usage(10, 1, 1, 2.0)}, free)
    local = [asked("local", n) for n in range(3)]
    clerk = Task("route", CLERK, 0, (), "routes")
    tasks = [asked("hosted"), *local, asked(JUDGE, stage="score"), clerk]
    assert goes(budget, *tasks) == tasks[1:]
    both = Budget({"money": 1.0, "requests": 12}, {"hosted": Usage(10, 1, 1, 2.0)}, free)
    assert goes(both, asked("local", 0, 2), clerk) == [asked("local", 0, 2), clerk]
    assert goes(both, asked("local", 0, 3), clerk) == [clerk]


def test_money_that_adds_up_to_the_limit_fits() -> None:
    budget = Budget({"money": 0.3}, {"a": Usage(10, 0, 0, 0.1)}, {})
    made(budget, asked("a", 0), cost=0.1)
    assert goes(budget, asked("a", 1)) == [asked("a", 1)], "0.1 + 0.1 + 0.1 is more than 0.3"


def test_a_server_that_does_not_tell_is_told_of_once_and_only_where_it_matters() -> None:
    untold = Usage(10, untold=10)
    budget = Budget({"tokens": 5}, {}, {"local": {"tokens"}})
    assert [budget.settle(asked("a"), usage) for usage in (Usage(10), untold, untold)] == [
        False,
        True,
        False,
    ]
    assert budget.settle(asked("b"), untold)
    assert not budget.settle(asked("local"), untold)
    assert not Budget({"requests": 5}, {}, {}).settle(asked("a"), untold)


def test_who_costs_what_comes_from_the_config() -> None:
    options = {"base_url": "http://h/v1"}
    priced = {**options, "price_per_million_output": 2}
    hosted = {"engine": "endpoint", "languages": "all"}
    told = {
        "run": "r",
        "prompts": "p",
        "teachers": {
            "paid": {**hosted, "model": "a", "options": priced},
            "own": {**hosted, "model": "b", "options": {**priced, "price_per_million_output": 0}},
            "fake": {"engine": "fake", "languages": "all"},
        },
        "arbiter": {"engine": "fake"},
        "budget": {"money": 1},
    }

    def goes_out(spent: Usage, **changes: Any) -> list[str]:
        config = RunConfig.model_validate({**told, **changes})
        parts = resolve(config)
        named = {part.fingerprint: part.name for part in (*parts.teachers, parts.arbiter)}
        budget = open_budget(config.budget, parts, {"gone": spent})
        return [named[task.owner] for task in goes(budget, *map(asked, named))]

    everyone = ["paid", "own", "fake", "arbiter"]
    assert goes_out(Usage(1, 1, 0, 0.0)) == everyone
    assert goes_out(Usage(1, 1, 0, 5.0)) == everyone[1:], "a price of nought costs nothing"
    assert goes_out(Usage(1, 1, 0, 5.0), budget={"tokens": 1000}) == everyone
    spent = Usage(1, 1001)
    assert goes_out(spent, budget={"tokens": 1000}) == ["arbiter"], "it tells no tokens"
    options = {**priced, "score_api": "judge"}
    judge = {"engine": "endpoint", "model": "j", "options": options}
    assert goes_out(spent, budget={"tokens": 1000}, arbiter=judge) == []
    assert goes_out(Usage(1, 1, 0, 5.0), arbiter=judge) == ["own", "fake"]


# --- the board ------------------------------------------------------------------------------------


def test_a_board_holds_back_what_is_too_dear_and_lets_it_go_again() -> None:
    components, board = imagined(2)
    while any(board.roles[owner].ready for owner in ("reader", CLERK)):
        owner = next(o for o in ("reader", CLERK) if board.roles[o].ready)
        task = board.take(owner)
        board.finished(task, pretend(task, components, 4))
    order = {o: list(role.ready) for o, role in board.roles.items()}
    board.hold_back(lambda ready, waiting: set(ready))
    assert not board.is_open()
    assert board.held_prompts() == 40
    assert board.roles[components.teachers[0].fingerprint].left == 4
    for shard in list(board._shards.values()):
        board._refresh(shard)
    assert not board.is_open(), "what is held back does not become ready by itself"
    board.hold_back(lambda ready, waiting: {task for task in ready if task.shard > 1})
    assert board.held_prompts() == 20
    board.hold_back(lambda ready, waiting: ())
    assert {o: list(role.ready) for o, role in board.roles.items()} == order
    assert board.held_prompts() == 0
    board.hold_back(lambda ready, waiting: set(ready))
    board.set_aside(components.teachers[0].fingerprint, "broken")
    assert not board.roles[components.teachers[0].fingerprint].held


# --- whole runs of numbers ------------------------------------------------------------------------


class Played:
    """A run of two teachers and a judge: who is at work and what is spent, at random."""

    def __init__(
        self, budget: Budget, rng: random.Random, shards: int, cost: Callable[[Task], int]
    ) -> None:
        self.budget, self.rng, self.cost = budget, rng, cost
        self.spent: Counter[str] = Counter()
        self.owned: Counter[str] = Counter()
        self.out: list[Task] = []
        self.done: list[Task] = []
        self.at_last: list[Task] = []
        sizes = {(owner, n): rng.randint(1, 20) for owner in "ab" for n in range(shards)}
        self.missing = [asked(o, n, size) for (o, n), size in sizes.items()]
        self.scores = {
            asked(o, n, size): Task("score", JUDGE, n, (), f"{o}/{n}", requests=size)
            for (o, n), size in sizes.items()
        }
        self.known: set[str] = set(budget._spent)
        self.probes: list[Task] = []

    def run(self, fails: float = 0.0) -> Played:
        while True:
            ready = [task for task in self.missing if task not in self.out]
            free = goes(self.budget, *ready, waiting=tuple(self.scores.values()))
            if not free and not self.out:
                return self
            if free and (not self.out or self.rng.random() < 0.7):
                self._send(self.rng.choice(free))
            else:
                self._end(self.out.pop(self.rng.randrange(len(self.out))), fails)

    def _send(self, task: Task) -> None:
        self.missing.remove(task)
        self.out.append(task)
        self.at_last = list(self.out)
        if "tokens" in self.budget.limits and task.owner not in self.known:
            assert task.owner not in {t.owner for t in self.out[:-1]}, "more than one probe"
            self.probes.append(task)
        self.budget.reserve(task)

    def _end(self, task: Task, fails: float) -> None:
        requests = self.rng.randint(0, task.requests) if self.rng.random() < 0.2 else task.requests
        tokens = requests * self.cost(task)
        if self.rng.random() < fails:
            self.spent["requests"] += requests
            self.budget.fail(task)
            self.missing.append(task)
            return
        self.spent += Counter(requests=requests, tokens=tokens)
        self.known |= {task.owner} if requests else set()
        self.budget.settle(task, Usage(requests, tokens))
        self.done.append(task)
        if task.stage == "generate":
            self.missing.append(self.scores.pop(task))


seeds = st.integers(0, 2**32)
limits = st.integers(1, 3000)


@given(seeds, limits, st.integers(0, 12), st.sampled_from([0.0, 0.3]))
@settings(max_examples=80, deadline=None)
def test_requests_never_pass_their_limit(seed: int, limit: int, shards: int, fails: float) -> None:
    budget = Budget({"requests": limit}, {}, {})
    run = Played(budget, random.Random(seed), shards, lambda task: 1).run(fails)
    assert run.spent["requests"] <= limit
    if not fails:
        left = {task.shard for task in (*run.missing, *run.scores, *run.scores.values())}
        assert not left & {task.shard for task in run.done}, "a shard that is begun is finished"
        first = [
            t for t in (*run.missing, *run.scores.values()) if t.shard == min(left, default=-1)
        ]
        need = sum(task.requests for task in first)
        assert not left or run.spent["requests"] + need > limit


@given(seeds, limits, st.integers(0, 12))
@settings(max_examples=80, deadline=None)
def test_tokens_that_cost_the_same_pass_their_limit_by_the_probes_at_most(
    seed: int, limit: int, shards: int
) -> None:
    rng = random.Random(seed)
    rates = {owner: rng.randint(0, 40) for owner in ("a", "b", JUDGE)}
    run = Played(
        Budget({"tokens": limit}, {}, {}), rng, shards, lambda task: rates[task.owner]
    ).run()
    assert run.spent["tokens"] <= limit + sum(t.requests * rates[t.owner] for t in run.probes)
    earlier = {owner: Usage(1, rate) for owner, rate in rates.items()}
    known = Played(
        Budget({"tokens": limit + sum(rates.values())}, earlier, {}),
        random.Random(seed),
        shards,
        lambda task: rates[task.owner],
    ).run()
    assert known.spent["tokens"] <= limit, "who is known is never mistaken"


@given(seeds, limits, st.integers(0, 12), st.sampled_from([0.0, 0.3]))
@settings(max_examples=80, deadline=None)
def test_tokens_that_vary_pass_their_limit_by_what_was_in_flight_at_most(
    seed: int, limit: int, shards: int, fails: float
) -> None:
    rng = random.Random(seed)
    rates = {(owner, n): rng.randint(5, 40) for owner in ("a", "b", JUDGE) for n in range(shards)}
    budget = Budget({"tokens": limit}, {}, {})
    run = Played(budget, rng, shards, lambda task: rates[task.owner, task.shard]).run(fails)
    most = sum(task.requests * rates[task.owner, task.shard] for task in run.at_last)
    assert run.spent["tokens"] <= limit + most
