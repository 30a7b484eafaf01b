"""The window of requests in flight and the waits before a retry; no clock, no network."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbitrage.engines.pacing import (
    GIVE_WAY,
    INFLATION,
    SLOW_DOWN,
    START,
    Window,
    backoff_s,
    retry_after_s,
)

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
CAPS = st.integers(1, 300)
EVENTS = st.lists(
    st.tuples(
        st.sampled_from(["answered", "overloaded"]),
        st.floats(0, 20),  # how long ago it was sent
        st.floats(0, 100),  # pace
        st.integers(1, 400),  # in flight
    ),
    max_size=200,
)


def play(window: Window, event: tuple[str, float, float, int], now_s: float) -> None:
    kind, age_s, pace_s, in_flight = event
    if kind == "answered":
        window.answered(now_s - age_s, now_s, pace_s, in_flight)
    else:
        window.overloaded(now_s - age_s, now_s)


@given(CAPS, EVENTS)
def test_the_window_is_never_below_one_or_above_the_cap(
    cap: int, events: list[tuple[str, float, float, int]]
) -> None:
    window = Window(cap)
    for now_s, event in enumerate(events):
        assert 1 <= window.width <= cap
        before = window.width
        play(window, event, float(now_s))
        assert window.width <= before + 1, "it grows by one at most"
        if event[0] == "overloaded":
            assert window.width <= before
        assert window.width >= math.floor(before * GIVE_WAY), "and is halved at most"
    assert 1 <= window.width <= cap


@given(CAPS, EVENTS)
def test_the_same_events_give_the_same_window(
    cap: int, events: list[tuple[str, float, float, int]]
) -> None:
    one, two = Window(cap), Window(cap)
    for now_s, event in enumerate(events):
        play(one, event, float(now_s))
        play(two, event, float(now_s) + 0.0)
    assert one.width == two.width


@given(CAPS, st.integers(1, 100))
def test_one_storm_is_one_decrease(cap: int, refusals: int) -> None:
    """All of these were sent before the first of them came back."""
    window = Window(cap)
    before = window.width
    for number in range(refusals):
        window.overloaded(sent_s=1.0, now_s=2.0 + number)
    assert window.width == max(1, int(before * GIVE_WAY))


def busy(window: Window, rounds: int, pace_s: float, start_s: float = 0.0) -> float:
    """A server that is always asked for as much as the window allows."""
    now_s = start_s
    for _ in range(rounds):
        for _ in range(max(8, window.width)):
            window.answered(now_s, now_s + pace_s, pace_s, window.width)
        now_s += 1 + pace_s
    return now_s


@given(CAPS)
def test_an_even_pace_leads_to_the_cap(cap: int) -> None:
    window = Window(cap)
    busy(window, 20, 0.1)
    assert window.width == cap


def test_it_starts_small_grows_fast_and_after_a_decrease_by_one_a_round() -> None:
    window = Window(200)
    assert window.width == START
    busy(window, 2, 0.1)
    assert window.width >= 4 * START
    window.overloaded(1000.0, 1000.0)
    before = window.width
    now_s = 1001.0
    for _ in range(5):
        now_s = busy(window, 1, 0.1, now_s)
    assert before + 4 <= window.width <= before + 5


def test_what_does_not_fill_the_window_does_not_open_it() -> None:
    window = Window(100)
    for now_s in range(500):
        window.answered(now_s, now_s + 0.1, 0.1, window.width - 1)
    assert window.width == START


def test_a_server_that_becomes_much_slower_is_asked_less_at_once() -> None:
    window = Window(64)
    now_s = busy(window, 20, 0.01)
    assert window.width == 64
    now_s = busy(window, 1, 0.01 * INFLATION * 0.9, now_s)
    assert window.width == 64
    busy(window, 2, 0.01 * INFLATION * 1.3, now_s)
    assert window.width in (int(64 * SLOW_DOWN), int(64 * SLOW_DOWN) + 1)


def test_a_server_that_stays_slow_is_the_new_measure_in_time() -> None:
    window = Window(64)
    now_s = busy(window, 20, 0.01)
    now_s = busy(window, 100, 0.2, now_s)
    busy(window, 100, 0.2, now_s)
    assert window.width == 64


@given(
    st.integers(1, 10_000),
    st.floats(0, 100),
    st.floats(0, 1000),
    st.floats(0, 1),
)
def test_a_wait_is_bounded(attempt: int, first_s: float, most_s: float, chance: float) -> None:
    wait_s = backoff_s(attempt, first_s, most_s, chance)
    assert 0 <= wait_s <= most_s
    assert wait_s >= min(first_s, most_s) / 2 - 1e-9


def test_waits_double_and_chance_takes_off_half_at_most() -> None:
    assert [backoff_s(n, 0.5, 5, 0.0) for n in range(1, 7)] == [0.5, 1, 2, 4, 5, 5]
    assert backoff_s(2, 0.5, 5, 1.0) == 0.5


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [
        (None, 0),
        ("", 0),
        ("7", 7),
        (" 2.5 ", 2.5),
        ("-3", 0),
        ("inf", 60),
        ("nan", 0),
        ("9" * 400, 60),
        ("soon", 0),
        (format_datetime(NOW + timedelta(seconds=20), usegmt=True), 20),
        (format_datetime(NOW - timedelta(seconds=20), usegmt=True), 0),
        (format_datetime(NOW + timedelta(days=2), usegmt=True), 60),
        ("Sun, 01 Mar 2026 12:00:09", 9),
        ("Sun, 01 Mar 99999999999 12:00:09 GMT", 0),
    ],
)
def test_retry_after_in_all_its_forms(header: str | None, wait_s: float) -> None:
    assert retry_after_s(header, NOW, 60) == wait_s


@given(st.text(max_size=30))
def test_any_text_as_retry_after_is_a_bounded_wait(header: str) -> None:
    assert 0 <= retry_after_s(header, NOW, 60) <= 60
