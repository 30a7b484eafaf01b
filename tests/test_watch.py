"""Who hangs, and when a run must be over: values in, values out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbitrage.deadline import seconds_until
from arbitrage.errors import UsageError
from arbitrage.watch import Watch

NOW = datetime(2030, 5, 17, 22, 15, tzinfo=UTC)


@given(st.lists(st.tuples(st.floats(0.1, 10), st.booleans()), max_size=20), st.floats(1, 30))
def test_a_replica_hangs_exactly_when_its_pulse_stood_still_for_too_long(
    steps: list[tuple[float, bool]], limit_s: float
) -> None:
    watch = Watch()
    watch.begin("a", limit_s, 0.0)
    now, moved, pulse, heard = 0.0, 0.0, 0, None
    for wait_s, moves in steps:
        now += wait_s
        pulse += moves
        watch.heard("a", pulse, now)
        if pulse != heard:
            moved, heard = now, pulse
        assert watch.hanging(moved + limit_s - 0.01) == []
        assert watch.hanging(moved + limit_s + 0.01) == ["a"]


def test_who_tells_nothing_hangs_from_the_beginning_of_its_work() -> None:
    watch = Watch()
    watch.begin("a", 10, 100.0)
    watch.begin("a", 10, 105.0)
    watch.begin("b", 20, 100.0)
    assert watch.hanging(110.0) == []
    assert watch.hanging(110.1) == ["a"]
    watch.end("a")
    assert watch.hanging(115.0) == []
    watch.heard("a", 1, 115.0)
    assert watch.hanging(999.0) == ["b"]


def test_a_replica_is_asked_ten_times_within_its_limit() -> None:
    watch = Watch()
    watch.begin("a", 100, 0.0)
    watch.begin("b", 10, 0.0)
    asked = [watch.due(float(second)) for second in range(1, 21)]
    assert sum("a" in names for names in asked) == 2
    assert sum("b" in names for names in asked) == 20
    watch.end("b")
    assert watch.due(30.0) == ["a"]


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90s", 90),
        ("10m", 600),
        ("10min", 600),
        ("1h30m", 5400),
        ("2d", 172_800),
        ("22:16", 60),
        ("06:00", 7 * 3600 + 45 * 60),
        ("22:15", 86_400),
        ("2030-05-18T22:15", 86_400),
        ("2030-05-18T00:15+02:00", 0.0),
        ("2030-05-17T22:16Z", 60),
    ],
)
def test_times_are_spans_clocks_or_dates(text: str, seconds: float) -> None:
    now = NOW if seconds else NOW - timedelta(seconds=1)
    assert seconds_until(text, now) == (seconds or 1)


@pytest.mark.parametrize("text", ["", "soon", "10", "25:00", "10m5", "2030-13-01T00:00"])
def test_a_time_that_is_none_is_one_sentence(text: str) -> None:
    with pytest.raises(UsageError, match="is no time; say how long from now"):
        seconds_until(text, NOW)


def test_a_time_that_is_past_is_refused() -> None:
    with pytest.raises(UsageError, match="is past already"):
        seconds_until("2030-05-17T22:15+02:00", NOW)
