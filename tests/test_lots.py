"""Which prompts are shown: a fair lot, the striking ones, and never more than asked for."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbitrage.lots import WHY, Offer, choose, draw, shared

OFFERS = st.lists(
    st.builds(
        Offer,
        st.integers(0, 999).map(str),
        st.sampled_from(["de", "sw", "ja"]),
        st.none() | st.floats(0, 1),
        st.booleans(),
        st.booleans(),
    ),
    max_size=80,
    unique_by=lambda offer: offer.prompt_id,
)


def many(count: int, languages: tuple[str, ...] = ("de",)) -> list[Offer]:
    """Margins rise with the number; each tenth fails a gate, each seventh is lost."""
    return [
        Offer(f"{code}{n}", code, None if n % 7 == 0 else n / count, n % 10 == 0, n % 7 == 0)
        for code in languages
        for n in range(count)
    ]


@given(st.dictionaries(st.text(max_size=3), st.integers(0, 50), max_size=9), st.integers(0, 200))
def test_places_are_shared_evenly(counts: dict[str, int], places: int) -> None:
    found = shared(counts, places)
    assert found.keys() == counts.keys()
    assert sum(found.values()) == min(places, sum(counts.values()))
    assert all(found[name] <= counts[name] for name in counts)
    short = [found[name] for name in counts if found[name] < counts[name]]
    assert max(short, default=0) - min(short, default=0) <= 1
    assert all(found[name] >= min(counts[name], min(short)) for name in counts if short)


@given(OFFERS, st.integers(0, 60), st.randoms(use_true_random=False))
def test_a_choice_is_bounded_and_of_no_order(
    offers: list[Offer], prompts: int, lot: random.Random
) -> None:
    found = choose(offers, prompts)
    assert len(found) <= prompts
    assert found.keys() <= {offer.prompt_id for offer in offers}
    assert set(found.values()) <= set(WHY)
    assert choose(lot.sample(offers, len(offers)), prompts) == found
    told = {offer.prompt_id: offer for offer in offers}
    for prompt_id, why in found.items():
        offer = told[prompt_id]
        assert why != "lost" or offer.lost
        assert why != "gated" or offer.gated
        assert why not in ("clear", "close") or offer.margin is not None


@given(OFFERS, st.integers(0, 60), st.integers(0, 60))
def test_what_is_taken_for_less_is_taken_for_more(
    offers: list[Offer], one: int, other: int
) -> None:
    assert choose(offers, min(one, other)).keys() <= choose(offers, max(one, other)).keys()


@given(OFFERS, st.integers(0, 60))
def test_the_lot_is_the_first_by_lot_and_nothing_else(offers: list[Offer], prompts: int) -> None:
    found = choose(offers, prompts)
    for code in {offer.language for offer in offers}:
        order = sorted((o.prompt_id for o in offers if o.language == code), key=draw)
        taken = [found.get(prompt_id) == "lot" for prompt_id in order]
        assert taken == sorted(taken, reverse=True)


def test_the_striking_ones_are_the_most_striking() -> None:
    offers = many(1000)
    found = choose(offers, 100)
    told = Counter(found.values())
    assert told["lot"] >= 40
    assert all(told[why] == 15 for why in WHY if why != "lot")
    known = sorted((o for o in offers if o.margin is not None), key=lambda o: o.margin or 0)
    rest = [o.prompt_id for o in known if found.get(o.prompt_id) != "lot"]
    assert {p for p, why in found.items() if why == "close"} == set(rest[:15])
    assert {p for p, why in found.items() if why == "clear"} == set(rest[-15:])


def test_every_language_has_places_however_large_another_is() -> None:
    offers = [*many(5000, ("de",)), *many(30, ("sw", "ja")), *many(3, ("vi",))]
    found = Counter(key[:2] for key in choose(offers, 100))
    assert found["vi"] == 3
    assert min(found["de"], found["sw"], found["ja"]) >= 25


def test_a_language_that_is_shown_whole_is_all_lot() -> None:
    assert set(choose(many(20), 20).values()) == {"lot"}


@pytest.mark.parametrize("changes", [{"margin": None}, {"margin": None, "gated": False}])
def test_where_nothing_is_striking_all_go_by_lot(changes: dict[str, Any]) -> None:
    offers = [o._replace(lost=False, gated=False)._replace(**changes) for o in many(300)]
    found = choose(offers, 50)
    assert len(found) == 50
    assert set(found.values()) == {"lot"}


def test_the_lot_is_fair() -> None:
    """Of many runs' worth of prompts, the mean margin of the lot is that of all."""
    offers = many(20_000)
    lot = {prompt_id for prompt_id, why in choose(offers, 4000).items() if why == "lot"}
    known = [o.margin for o in offers if o.prompt_id in lot and o.margin is not None]
    assert sum(known) / len(known) == pytest.approx(0.5, abs=0.03)
