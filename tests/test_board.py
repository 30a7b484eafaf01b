"""The board alone: what is ready, tried again, given up, set aside, and when all is over."""

from __future__ import annotations

import random
from collections import Counter
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arbitrage.plan import CLERK, READER, Report, ShardState, Task
from harness import imagined, lost_first, pretend

if TYPE_CHECKING:
    from arbitrage.board import Board
    from arbitrage.components import Components

SHARDS = 4


def shard_states(count: int = SHARDS) -> list[ShardState]:
    return [ShardState(n, f"prompts/{n:05d}.0.parquet", 10) for n in range(count)]


def next_owner(board: Board) -> str | None:
    return next((owner for owner, role in board.roles.items() if role.ready), None)


def play(board: Board, components: Components, shards: int = SHARDS) -> list[Task]:
    """Does everything that is ready, and what that opens up."""
    done = []
    while (owner := next_owner(board)) is not None:
        task = board.take(owner)
        board.finished(task, pretend(task, components, shards))
        done.append(task)
        assert len(done) < 1000
    return done


def play_until(board: Board, components: Components, stage: str) -> Task:
    """Goes on until a task of this stage is ready, and takes it."""
    while True:
        owner = next(o for o, r in board.roles.items() if r.ready)
        task = board.take(owner)
        if task.stage == stage:
            return task
        board.finished(task, pretend(task, components, SHARDS))


def is_over(board: Board) -> bool:
    return not board.is_open() and not board.in_flight()


def test_every_stage_of_every_shard_is_done_once_and_then_all_is_over() -> None:
    components, board = imagined(3)
    done = play(board, components)
    counts = Counter(task.stage for task in done)
    assert counts == {
        "read": SHARDS + 1,
        "route": SHARDS,
        "generate": 3 * SHARDS,
        "gate": 3 * SHARDS,
        "score": 3 * SHARDS,
        "select": SHARDS,
    }
    assert len({task.output for task in done}) == len(done)
    assert is_over(board)
    assert not board.given_up
    assert not any(board.expects_more(owner) for owner in board.roles)
    assert not any(role.left for role in board.roles.values())


@given(st.randoms(use_true_random=False), st.integers(1, 3), st.integers(0, 5))
@settings(max_examples=40, deadline=None)
def test_the_order_of_finishing_changes_neither_the_tasks_nor_the_end(
    rng: random.Random, teachers: int, shards: int
) -> None:
    components, board = imagined(teachers)
    flying: list[Task] = []
    done: list[Task] = []
    while board.is_open():
        owners = [owner for owner, role in board.roles.items() if role.ready]
        if owners and (not flying or rng.random() < 0.6):
            flying.append(board.take(rng.choice(owners)))
            assert board.in_flight()
            continue
        task = flying.pop(rng.randrange(len(flying)))
        board.finished(task, pretend(task, components, shards))
        done.append(task)
    assert len(done) == len(set(done)) == shards * (2 + 3 * teachers) + shards + 1
    assert is_over(board)
    for task in done:
        if task.stage in ("gate", "score"):
            assert {t.output for t in done[: done.index(task)]} >= set(task.inputs[1:])


def test_tasks_are_taken_in_the_order_in_which_they_became_ready() -> None:
    components, board = imagined(1, shards=shard_states(), unread=False)
    owner = components.teachers[0].fingerprint
    routes = [board.take(CLERK) for _ in range(SHARDS)]
    assert [task.shard for task in routes] == list(range(SHARDS))
    for number in (2, 0, 3, 1):
        board.finished(routes[number], pretend(routes[number], components, SHARDS))
    first = board.take(owner)
    assert first.shard == 2
    assert board.failed(first, "an accident")
    assert [board.take(owner).shard for _ in range(SHARDS)] == [0, 3, 1, 2]
    with pytest.raises(StopIteration):
        board.take(owner)


@pytest.mark.parametrize("attempts", [1, 2, 5])
def test_a_task_is_tried_a_bounded_number_of_times(attempts: int) -> None:
    components, board = imagined(1, shards=shard_states(1), unread=False, attempts=attempts)
    play_until(board, components, "generate")
    owner = components.teachers[0].fingerprint
    task = next(iter(board.roles[owner].in_flight))
    outcomes = [board.failed(task, "try 1")]
    while board.roles[owner].ready:
        outcomes.append(board.failed(board.take(owner), f"try {len(outcomes) + 1}"))
    assert outcomes == [True] * (attempts - 1) + [False]
    assert lost_first(board) == {task: f"try {attempts}"}
    assert is_over(board)


def test_a_failure_of_one_task_leaves_the_tries_of_the_others_alone() -> None:
    components, board = imagined(1, shards=shard_states(), unread=False, attempts=2)
    owner = components.teachers[0].fingerprint
    for _ in range(SHARDS):
        route = board.take(CLERK)
        board.finished(route, pretend(route, components, SHARDS))
    assert all(board.failed(board.take(owner), "once") for _ in range(SHARDS))
    done = play(board, components)
    assert sum(task.stage == "select" for task in done) == SHARDS
    assert not board.given_up


def test_a_task_that_succeeds_after_failures_is_not_given_up() -> None:
    components, board = imagined(1, shards=shard_states(1), unread=False, attempts=3)
    task = play_until(board, components, "generate")
    assert board.failed(task, "one")
    board.take(task.owner)
    assert board.failed(task, "two")
    play(board, components)
    assert not board.given_up
    assert is_over(board)


def test_giving_up_one_generation_ends_the_run_and_keeps_the_rest() -> None:
    components, board = imagined(2, shards=shard_states(), unread=False, attempts=1)
    lost = play_until(board, components, "generate")
    assert not board.failed(lost, "it cannot be done")
    done = play(board, components)
    assert lost_first(board) == {lost: "it cannot be done"}
    assert is_over(board), "what waits for a lost generation must not keep the run alive"
    selected = {task.shard for task in done if task.stage == "select"}
    assert selected == set(range(SHARDS)) - {lost.shard}


@pytest.mark.parametrize("stage", ["route", "generate", "gate", "score", "select"])
def test_in_the_end_every_task_is_done_or_given_up_with_a_reason(stage: str) -> None:
    components, board = imagined(2, shards=shard_states(), unread=False, attempts=1)
    lost = play_until(board, components, stage)
    board.failed(lost, "an accident")
    play(board, components)
    assert is_over(board)
    assert lost_first(board) == {lost: "an accident"}
    assert not any(role.left for role in board.roles.values()), "nothing is left waiting"
    for task, why in board.given_up.items():
        if task != lost:
            assert task.shard == lost.shard
            assert any(path in why for path in task.inputs), "the reason names what is missing"


def test_an_output_that_comes_in_late_takes_back_what_was_given_up_for_it() -> None:
    components, board = imagined(2, shards=shard_states(1), unread=False, attempts=1)
    first = play_until(board, components, "generate")
    board.set_aside(first.owner, "broken")
    play(board, components)
    assert is_over(board)
    board.finished(first, pretend(first, components, 1))
    done = play(board, components)
    assert [task.stage for task in done] == ["score", "gate", "select"]
    assert not board.given_up


def test_what_comes_in_late_does_not_hide_what_else_was_lost() -> None:
    """One teacher's late answer is no reason to forget that another's was given up."""
    components, board = imagined(2, shards=shard_states(1), unread=False, attempts=1)
    late = play_until(board, components, "generate")
    other = play_until(board, components, "generate")
    board.set_aside(late.owner, "broken")
    assert not board.failed(other, "an accident")
    board.finished(late, pretend(late, components, 1))
    done = play(board, components)
    assert other not in done, "it was tried as often as it may be"
    assert lost_first(board) == {other: "an accident"}
    assert is_over(board)


def test_a_reader_that_is_given_up_ends_the_run_after_what_was_read() -> None:
    components, board = imagined(2, attempts=2)
    for _ in range(2):
        task = board.take(READER)
        board.finished(task, pretend(task, components, SHARDS))
    assert board.failed(board.take(READER), "unreadable")
    assert not board.failed(board.take(READER), "unreadable")
    assert not board.reading
    done = play(board, components)
    assert sum(task.stage == "select" for task in done) == 2
    assert is_over(board)
    assert [task.stage for task in board.given_up] == ["read"]
    assert not any(board.expects_more(owner) for owner in board.roles)


@pytest.mark.parametrize("stage", ["route", "generate", "gate", "score", "select"])
def test_no_role_expects_more_once_nothing_can_come(stage: str) -> None:
    """A role that waits for what was given up holds its slots for nothing."""
    components, board = imagined(2, shards=shard_states(1), unread=False, attempts=1)
    task = play_until(board, components, stage)
    board.failed(task, "given up")
    play(board, components)
    assert is_over(board)
    assert {o: board.expects_more(o) for o in board.roles} == dict.fromkeys(board.roles, False)


def test_a_teacher_set_aside_gives_up_its_tasks_and_the_others_go_on() -> None:
    components, board = imagined(2, shards=shard_states(), unread=False)
    broken, sound = components.teachers
    task = play_until(board, components, "generate")
    assert task.owner == broken.fingerprint
    board.set_aside(broken.fingerprint, "no such model")
    role = board.roles[broken.fingerprint]
    assert not role.ready
    assert not role.in_flight
    assert not board.expects_more(broken.fingerprint)
    done = play(board, components)
    assert {t.owner for t in done if t.stage == "generate"} == {sound.fingerprint}
    assert sum(t.stage == "generate" for t in done) == SHARDS
    lost = lost_first(board)
    assert {t.owner for t in lost} == {broken.fingerprint}
    assert {t.shard for t in lost} == set(range(SHARDS))
    assert set(lost.values()) == {"no such model"}
    assert is_over(board)


def test_a_teacher_set_aside_is_not_handed_later_shards() -> None:
    components, board = imagined(1)
    owner = components.teachers[0].fingerprint
    board.set_aside(owner, "no such model")
    play(board, components)
    assert len(lost_first(board)) == SHARDS
    assert board.roles[owner].set_aside == "no such model"
    assert is_over(board)


def test_an_arbiter_set_aside_gives_up_what_waits_for_it_too() -> None:
    components, board = imagined(2, shards=shard_states(), unread=False)
    arbiter = components.arbiter.fingerprint
    play_until(board, components, "generate")
    assert board.roles[arbiter].waiting
    board.set_aside(arbiter, "no such model")
    assert not board.expects_more(arbiter)
    assert board.roles[arbiter].left == 0, "it will do nothing more, so nothing is left for it"


def test_a_failure_that_comes_in_after_its_role_was_set_aside_is_not_tried_again() -> None:
    components, board = imagined(1, shards=shard_states(), unread=False, attempts=9)
    task = play_until(board, components, "generate")
    board.set_aside(task.owner, "broken")
    assert not board.failed(task, "the replica died")
    assert not board.roles[task.owner].ready


def test_a_task_that_finishes_after_its_role_was_set_aside_counts_and_is_scored() -> None:
    components, board = imagined(1, shards=shard_states(1), unread=False)
    task = play_until(board, components, "generate")
    board.set_aside(task.owner, "broken")
    board.finished(task, pretend(task, components, 1))
    done = play(board, components)
    assert [t.stage for t in done] == ["score", "gate", "select"]
    assert not board.given_up


def test_stale_scores_are_made_again_and_then_the_product() -> None:
    components, board = imagined(2, shards=shard_states(1), unread=False)
    select = play_until(board, components, "select")
    scores = next(path for path in select.inputs if path.startswith("scores/"))
    assert board.stale(select, scores, "stale")
    assert next_owner(board) == components.arbiter.fingerprint
    done = play(board, components)
    assert [task.stage for task in done] == ["score", "select"]
    assert done[0].output == scores
    assert done[1] == select
    assert is_over(board)
    assert not board.given_up


@pytest.mark.parametrize("attempts", [2, 3])
def test_scores_that_stay_stale_are_given_up(attempts: int) -> None:
    components, board = imagined(1, shards=shard_states(1), unread=False, attempts=attempts)
    select = play_until(board, components, "select")
    again = 0
    while board.stale(select, select.inputs[2], "stale for ever"):
        again += 1
        assert play_until(board, components, "select") == select
        assert again < 20
    assert again == attempts - 1
    assert lost_first(board) == {select: "stale for ever"}
    assert is_over(board)


def test_a_shard_with_more_stale_scores_than_tries_is_mended_all_the_same() -> None:
    """Each of them is mended at the first try, so none of them was tried too often."""
    components, board = imagined(5, shards=shard_states(1), unread=False, attempts=3)
    select = play_until(board, components, "select")
    for scores in select.inputs[2::2]:
        assert board.stale(select, scores, "stale"), "it was given up though every try mended one"
        select = play_until(board, components, "select")
    board.finished(select, Report(10))
    assert is_over(board)
    assert not board.given_up


def test_a_replica_lost_while_loading_is_forgiven_a_few_times() -> None:
    components, board = imagined(2, attempts=3)
    one, other = (teacher.fingerprint for teacher in components.teachers)
    assert [board.load_lost(one) for _ in range(3)] == [False, False, True]
    assert not board.load_lost(other)


def test_a_role_expects_more_while_prompts_are_read_and_routed() -> None:
    components, board = imagined(1)
    teacher = components.teachers[0].fingerprint
    arbiter = components.arbiter.fingerprint
    assert board.expects_more(teacher)
    assert board.expects_more(arbiter)
    assert not board.expects_more(READER)
    for _ in range(SHARDS + 1):
        task = board.take(READER)
        board.finished(task, pretend(task, components, SHARDS))
    assert not board.reading
    assert board.expects_more(teacher), "there are shards that are not routed yet"
    for _ in range(SHARDS):
        task = board.take(CLERK)
        board.finished(task, pretend(task, components, SHARDS))
    assert not board.expects_more(teacher), "all it will ever get is ready now"
    assert board.expects_more(arbiter)
    assert len(board.roles[teacher].ready) == SHARDS


def test_counts_are_of_this_session_and_add_up() -> None:
    components, board = imagined(2)
    play(board, components)
    for teacher in components.teachers:
        role = board.roles[teacher.fingerprint]
        assert (role.done, role.rows, role.completion_tokens) == (SHARDS, 10 * SHARDS, 100 * SHARDS)
    assert board.roles[READER].done == SHARDS
    assert board.roles[components.arbiter.fingerprint].done == 2 * SHARDS
    assert board.roles[CLERK].done == (2 + 2) * SHARDS, (
        "a route, a product, and gates of two teachers"
    )
    assert board.shards == SHARDS


def test_a_run_with_nothing_missing_is_over_before_it_starts() -> None:
    components, board = imagined(1, shards=[], unread=False)
    assert is_over(board)
    assert next_owner(board) is None
    assert not any(board.expects_more(owner) for owner in board.roles)
    assert components.arbiter.fingerprint in board.roles


def test_losses_while_loading_are_forgiven_once_a_replica_could_be_loaded() -> None:
    components, board = imagined(1, attempts=2)
    owner = components.teachers[0].fingerprint
    assert not board.load_lost(owner)
    board.loaded(owner)
    assert not board.load_lost(owner)
    assert board.load_lost(owner)


# replicas that die under a task, and what is finished without a teacher


def lost(board: Board, task: Task) -> bool:
    return board.failed(task, "the replica died", lost=True)


def test_a_task_whose_replica_dies_is_tried_again_and_then_apart_from_others() -> None:
    components, board = imagined(1, shards=shard_states(), unread=False, attempts=1)
    task = play_until(board, components, "generate")
    while board.roles[CLERK].ready:
        board.finished(route := board.take(CLERK), pretend(route, components, SHARDS))
    assert lost(board, task)
    assert board.wary(task.owner) == 0
    assert lost(board, next(t for t in iter(lambda: board.take(task.owner), None) if t == task))
    assert board.wary(task.owner) == 1, "it comes first"
    wary = board.take(task.owner, wary=True)
    assert wary == task
    assert wary.wary
    with pytest.raises(StopIteration):
        board.take(task.owner, wary=True)


def test_mass_deaths_set_no_role_aside() -> None:
    """A node takes many replicas with it, and so do two."""
    components, board = imagined(1, shards=shard_states(60), unread=False)
    while board.roles[CLERK].ready:
        board.finished(route := board.take(CLERK), pretend(route, components, 60))
    owner = components.teachers[0].fingerprint
    for _ in range(2):
        taken = [board.take(owner) for _ in range(len(board.roles[owner].ready))]
        assert all(lost(board, task) for task in taken)
    assert not board.roles[owner].set_aside
    assert board.wary(owner) == 60


def test_a_teacher_whose_wary_tasks_keep_dying_is_set_aside() -> None:
    components, board = imagined(2, shards=shard_states(), unread=False)
    task = play_until(board, components, "generate")
    owner = task.owner
    deaths = 0
    while not board.roles[owner].set_aside:
        if deaths:
            task = board.take(owner, wary=board.wary(owner) > 0)
        lost(board, task)
        deaths += 1
        assert deaths < 50
    assert "times in a row" in board.roles[owner].set_aside
    assert deaths > 15, "time enough to find one prompt that kills its engine"
    play(board, components)
    assert is_over(board)


def test_a_finished_task_forgives_the_deaths_before_it() -> None:
    components, board = imagined(1, shards=shard_states(), unread=False)
    task = play_until(board, components, "generate")
    for _ in range(60):
        assert lost(board, task)
        wary = board.wary(task.owner) > 0
        if board.roles[task.owner].failures > 10:
            board.finished(board.take(task.owner, wary=wary), Report(10))
            return
        task = board.take(task.owner, wary=wary)
    raise AssertionError("it never failed often enough")


@pytest.mark.parametrize("arbiter", [False, True])
def test_shards_are_finished_without_a_teacher_that_is_set_aside(arbiter: bool) -> None:
    components, board = imagined(3, shards=shard_states(), unread=False)
    task = play_until(board, components, "generate")
    board.put_back(task)
    board.set_aside(components.arbiter.fingerprint if arbiter else task.owner, "broken")
    done = play(board, components)
    products = [t for t in done if t.stage == "select"]
    assert len(products) == (0 if arbiter else SHARDS)
    for product in products:
        parts = [path for path in product.inputs if path.startswith("candidates/")]
        assert len(parts) == 2
    assert is_over(board)
    given_up = [t for t in board.given_up if t.stage == "select"]
    assert len(given_up) == SHARDS, "the complete one is still owed"


def test_the_complete_product_replaces_the_one_without_a_teacher() -> None:
    components, board = imagined(2, shards=shard_states(1), unread=False)
    late = play_until(board, components, "generate")
    board.set_aside(late.owner, "broken")
    (first,) = [t for t in play(board, components) if t.stage == "select"]
    board.finished(late, pretend(late, components, 1))
    (second,) = [t for t in play(board, components) if t.stage == "select"]
    assert first.output == second.output
    assert first.key != second.key
    assert not board.given_up


def test_a_task_that_was_stopped_is_there_to_be_taken_again() -> None:
    components, board = imagined(1, shards=shard_states(1), unread=False, attempts=1)
    task = play_until(board, components, "generate")
    board.put_back(task)
    assert not board.in_flight()
    assert board.is_open()
    assert board.take(task.owner) == task


def test_a_turn_ends_with_the_tasks_after_which_nothing_can_come() -> None:
    components, board = imagined(1, shards=shard_states(2), unread=False)
    teacher, arbiter = components.teachers[0].fingerprint, components.arbiter.fingerprint
    for _ in range(2):
        task = board.take(CLERK)
        board.finished(task, pretend(task, components, 2))
    first = board.take(teacher)
    assert not board.is_ending(teacher), "another is ready"
    second = board.take(teacher)
    assert board.is_ending(teacher)
    board.finished(first, pretend(first, components, 2))
    score = board.take(arbiter)
    assert not board.is_ending(arbiter), "the teacher makes more for it"
    board.put_back(second)
    assert not board.is_ending(teacher), "nothing is in flight"
    second = board.take(teacher)
    board.finished(second, pretend(second, components, 2))
    board.hold_back(lambda could, _: could)
    assert not board.is_ending(arbiter), "what is held back may be let go"
    board.hold_back(lambda *_: ())
    last = board.take(arbiter)
    board.finished(score, pretend(score, components, 2))
    assert board.is_ending(arbiter)
    assert board.failed(last, "an accident")
    assert not board.is_ending(arbiter), "it is ready again"
