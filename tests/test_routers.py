"""The routers: rules that all keep, what each is for, their config and their identity."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from arbitrage.choices import (
    ROUTINGS,
    AdaptiveRouting,
    CascadeRouting,
    FixedRouting,
    LearnedRouting,
    RandomRouting,
    RoutingConfig,
)
from arbitrage.components import Components
from arbitrage.config import RunConfig
from arbitrage.configfile import load
from arbitrage.errors import ConfigError
from arbitrage.identity import digest, fingerprint
from arbitrage.languages import families
from arbitrage.records import MESSAGES, PROMPT_COLUMNS
from arbitrage.resolve import resolve
from arbitrage.routers import ROUTERS, Asked, Pool, Seen, asked_of, pool_of, router_of, routes_of
from arbitrage.routers import fixed as fixed_module
from arbitrage.routers import learned as learned_module
from arbitrage.routers.adaptive import FEW, PAID_BACK
from arbitrage.routers.lifts import BORROWED, Pairs, greedy
from arbitrage.routers.protocol import first, lots, lots_of_pairs
from harness import fake

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

LANGUAGES = ("de", "nl", "fr", "ja", "sw")
FAMILY = families()


def pool_for(covers: list[str] | list[set[str]], costs: list[float] | None = None) -> Pool:
    """Teachers t0, t1, ... that cover these codes; `all` covers every one."""
    sets = [frozenset(LANGUAGES if c == "all" else c) for c in covers]
    names = tuple(f"t{n:02d}" for n in range(len(sets)))
    return Pool(names, tuple(sets), FAMILY, tuple(costs or [1.0] * len(sets)))


def some_prompts(count: int, languages: tuple[str, ...] = LANGUAGES, salt: str = "") -> Asked:
    ids = [digest(f"{salt}{n}".encode(), 32) for n in range(count)]
    codes = [languages[n % len(languages)] for n in range(count)]
    return Asked(ids, codes, [f"question {n} about {codes[n]} " * (n % 7) for n in range(count)])


def fitted_files(pool: Pool) -> dict[str, str]:
    """A learned and a fixed router's file, fitted to made-up rewards of a pool."""
    asked = some_prompts(60)
    covers = pool.covering(asked.languages)
    reward = np.where(covers, np.random.default_rng(0).normal(size=covers.shape), np.nan)
    model = learned_module.fit(asked, reward, covers, pool.fingerprints)
    return {
        "learned": model.text(),
        "fixed": fixed_module.fit(asked, reward, covers, pool.fingerprints, 2),
    }


def every_block(pool: Pool) -> list[RoutingConfig]:
    """Resolved blocks of every router, with several settings."""
    files = fitted_files(pool)
    names = pool.fingerprints
    return [
        RoutingConfig(),
        FixedRouting(table={"de": (names[0],), "sw": ("gone",)}),
        FixedRouting(file=files["fixed"]),
        RandomRouting(count=2),
        LearnedRouting(file=files["learned"]),
        LearnedRouting(file=files["learned"], mass=0.7),
        CascadeRouting(threshold=0.3),
        CascadeRouting(threshold={"de": 0.1, "default": 0.9}, order=names[:1]),
        AdaptiveRouting(budget=0.5, lag=1, warm_up=2),
    ]


def made(block: RoutingConfig, pool: Pool) -> Any:
    return ROUTERS[block.router](block, pool)


def rounds_of(router: Any, asked: Asked, reward: NDArray[Any]) -> NDArray[np.bool_]:
    """Whom a router asks after all its rounds."""
    decision = router.route(asked, 0, None, None)
    ask = decision.ask.copy()
    for turn in range(1, router.rounds):
        seen = Seen(asked.languages, ask.copy(), np.where(ask, reward, np.nan))
        more = router.route(asked, turn, decision.state, seen).ask
        assert not (ask & more).any()
        ask |= more
    return ask


covered = st.sets(st.sampled_from(LANGUAGES), min_size=1)
POOLS = st.lists(covered, min_size=1, max_size=4).map(pool_for)


def test_every_router_has_a_block_and_every_block_a_router() -> None:
    assert list(ROUTERS) == list(ROUTINGS)
    assert all(block.model_fields["router"].default == name for name, block in ROUTINGS.items())


@settings(max_examples=15, deadline=None)
@given(pool=POOLS, count=st.integers(0, 40), seed=st.integers(0, 99))
def test_nobody_is_asked_what_it_does_not_cover_and_nobody_is_left_out(
    pool: Pool, count: int, seed: int
) -> None:
    asked = some_prompts(count, salt=str(seed))
    covers = np.array([[c in own for own in pool.covers] for c in asked.languages], dtype=bool)
    covers = covers.reshape(count, len(pool.covers))
    reward = np.random.default_rng(seed).normal(size=covers.shape)
    for block in every_block(pool):
        router = made(block, pool)
        ask = router.route(asked, 0, None, None).ask
        assert ask.shape == covers.shape
        assert not (ask & ~covers).any()
        assert (ask.any(axis=1) == covers.any(axis=1)).all(), block
        assert not (rounds_of(router, asked, reward) & ~covers).any()


@settings(max_examples=10, deadline=None)
@given(pool=POOLS, seed=st.integers(0, 99))
def test_decisions_are_the_same_each_time_and_states_are_plain_data(pool: Pool, seed: int) -> None:
    asked = some_prompts(30, salt=str(seed))
    for block in every_block(pool):
        first_time = made(block, pool).route(asked, 0, None, None)
        again = made(block, pool).route(asked, 0, None, None)
        assert (first_time.ask == again.ask).all()
        assert json.loads(json.dumps(first_time.state)) == again.state


@pytest.mark.parametrize("name", ["all", "fixed", "random", "learned"])
def test_what_does_not_learn_asks_the_same_in_any_shard(name: str) -> None:
    pool = pool_for(["all", "all", {"de", "fr"}])
    block = next(b for b in every_block(pool) if b.router == name)
    asked = some_prompts(25)
    whole = made(block, pool).route(asked, 0, None, None).ask
    back = Asked(asked.ids[::-1], asked.languages[::-1], asked.texts[::-1])
    assert (made(block, pool).route(back, 0, None, None).ask[::-1] == whole).all()
    parts = [
        made(block, pool)
        .route(
            Asked(asked.ids[n:][:5], asked.languages[n:][:5], asked.texts[n:][:5]), 0, None, None
        )
        .ask
        for n in range(0, 25, 5)
    ]
    assert (np.concatenate(parts) == whole).all()


def test_lots_are_hashes_and_spread_evenly() -> None:
    ids = [f"{n:032x}" for n in range(4000)]
    drawn = lots(ids) / 2**64
    assert abs(drawn.mean() - 0.5) < 0.02
    assert lots(["a"], "x")[0] != lots(["a"], "y")[0]
    pairs = lots_of_pairs(ids, ["a", "b", "c"])
    wins = np.bincount(pairs.argmin(axis=1), minlength=3)
    assert (abs(wins / 4000 - 1 / 3) < 0.03).all()
    assert (lots_of_pairs(ids, ["c", "a"])[:, 1] == pairs[:, 0]).all()


def test_lots_are_the_same_in_another_process() -> None:
    code = "from arbitrage.routers.protocol import *; print(lots_of_pairs(['p'], ['t'])[0, 0])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == int(lots_of_pairs(["p"], ["t"])[0, 0])


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 4).flatmap(
        lambda t: st.tuples(
            st.lists(st.permutations(range(t)), min_size=1, max_size=5),
            st.lists(st.lists(st.booleans(), min_size=t, max_size=t), min_size=5, max_size=5),
            st.integers(0, 5),
        )
    )
)
def test_the_first_are_taken_in_order(drawn: Any) -> None:
    order, allowed, count = drawn
    allowed = np.array(allowed[: len(order)])
    taken = first(np.array(order), allowed, count)
    for row, (places, may) in enumerate(zip(order, allowed, strict=True)):
        assert set(np.flatnonzero(taken[row])) == set([n for n in places if may[n]][:count])


# fixed and random


def test_random_draws_each_teacher_as_often_and_a_newcomer_moves_only_what_it_takes() -> None:
    asked = some_prompts(3000)
    before = made(RandomRouting(), pool_for(["all"] * 3)).route(asked, 0, None, None).ask
    after = made(RandomRouting(), pool_for(["all"] * 4)).route(asked, 0, None, None).ask
    assert (before.sum(axis=1) == 1).all()
    assert (abs(after.mean(axis=0) - 1 / 4) < 0.03).all()
    stays = ~after[:, 3]
    assert (before[stays] == after[stays, :3]).all()
    two = made(RandomRouting(count=2), pool_for(["all"] * 3)).route(asked, 0, None, None).ask
    assert (two.sum(axis=1) == 2).all()
    assert (two >= before).all()


def test_fixed_asks_what_the_row_says_and_all_where_there_is_none() -> None:
    pool = pool_for(["all", {"de", "fr"}])
    block = FixedRouting(table={"de": ("t01",), "fr": ("t00", "t01"), "sw": ("t01",)})
    ask = made(block, pool).route(some_prompts(5), 0, None, None).ask
    rows = dict(zip(LANGUAGES, ask.tolist(), strict=True))
    assert rows == {
        "de": [False, True],
        "nl": [True, False],
        "fr": [True, True],
        "ja": [True, False],
        "sw": [True, False],
    }


def test_a_fitted_table_names_the_best_pair_and_asks_newcomers_too() -> None:
    draw = np.random.default_rng(1)
    reward = draw.normal(size=(40, 3))
    reward[::2, 0] += 5
    reward[1::2, 2] += 5
    reward[:, 1] += 2
    asked = Asked([""] * 42, ["de"] * 40 + ["sw"] * 2, [""] * 42)
    reward = np.vstack([reward, reward[:2]])
    put = np.ones((42, 3), dtype=bool)
    text = fixed_module.fit(asked, reward, put, "abc", 1)
    best = max("abc", key=lambda name: reward[:40, "abc".index(name)].mean())
    assert json.loads(text)["table"] == {"de": [best]}
    pairs = json.loads(fixed_module.fit(asked, reward, put, "abc", 2))["table"]["de"]
    columns = dict(zip("abc", reward[:40].T, strict=True))
    means = {p: np.maximum(columns[p[0]], columns[p[1]]).mean() for p in ("ab", "ac", "bc")}
    assert best in pairs
    assert "".join(pairs) == max((p for p in means if best in p), key=lambda pair: means[pair])
    pool = Pool(("a", "b", "c", "d"), (frozenset({"de", "sw"}),) * 4, FAMILY, (1.0,) * 4)
    ask = made(FixedRouting(file=text), pool).route(some_prompts(1, ("de",)), 0, None, None).ask
    assert [n for n, asked in zip("abcd", ask[0], strict=True) if asked] == sorted([best, "d"])
    everyone = made(FixedRouting(file=text), pool).route(some_prompts(1, ("sw",)), 0, None, None)
    assert everyone.ask.all()


def test_a_teacher_that_was_seldom_asked_is_not_taken_for_a_bad_one() -> None:
    draw = np.random.default_rng(2)
    reward = draw.normal(size=(300, 3)) + np.array([0.0, 1.0, 3.0])
    put = np.ones((300, 3), dtype=bool)
    put[30:, 2] = False
    asked = some_prompts(300, ("de",))
    text = fixed_module.fit(asked, np.where(put, reward, np.nan), put, "abc", 1)
    assert json.loads(text)["table"] == {"de": ["c"]}


# cascade


def test_a_cascade_asks_the_next_until_a_reward_is_good_enough() -> None:
    pool = pool_for(["all", {"de", "nl", "fr"}, "all"], costs=[3.0, 1.0, 2.0])
    reward = np.array([[9, 1, 1], [9, 5, 1], [9, np.nan, 7], [9, 1, 6], [1, 1, 1]], dtype=float)
    router = made(CascadeRouting(threshold={"default": 5.0, "fr": 8.0}), pool)
    assert router.rounds == 3
    ask = rounds_of(router, some_prompts(5), reward)
    assert ask.tolist() == [
        [True, True, True],  # 1, then 1, then 9
        [False, True, False],  # 5 is enough
        [True, True, True],  # no answer, 7 is below 8, then 9
        [False, False, True],  # the cheapest does not cover it; 6 is enough
        [True, False, True],
    ]


def test_a_cascade_keeps_to_its_order_and_leaves_nobody_out() -> None:
    pool = pool_for(["all", {"de"}, "all"])
    router = made(CascadeRouting(threshold=1e9, order=("t01",)), pool)
    ask = rounds_of(router, some_prompts(5), np.zeros((5, 3)))
    assert ask[0].tolist() == [False, True, False]
    assert ask[1:].tolist() == [[True, False, True]] * 4


def test_equally_cheap_teachers_are_asked_in_the_order_of_their_fingerprints() -> None:
    pool = pool_for(["all"] * 3, costs=[2.0, 1.0, 1.0])
    router = made(CascadeRouting(threshold=0.0), pool)
    asked = some_prompts(1)
    order = []
    ask = np.zeros((1, 3), dtype=bool)
    for turn in range(3):
        more = router.route(
            asked, turn, None, Seen(["de"], ask.copy(), np.full((1, 3), np.nan))
        ).ask
        order += np.flatnonzero(more).tolist()
        ask |= more
    assert order == [1, 2, 0]


# learned


def test_soft_targets_are_those_computed_by_hand() -> None:
    reward = np.array([[1.0, 3.0], [2.0, np.nan], [0.0, 4.0]])
    codes = ["de", "de", "sw"]
    ahead = [[-1.0, 1.0], [0.0, None], [-2.0, 2.0]]
    means = {"de": [-0.5, 1.0], "sw": [-2.0, 2.0]}
    spread = math.sqrt((1 + 1 + 0 + 4 + 4) / 5)
    found = learned_module.targets(codes, reward)
    for row, (code, values) in enumerate(zip(codes, ahead, strict=True)):
        kept = [n for n, value in enumerate(values) if value is not None]
        drawn = {
            n: learned_module.SMOOTHING * means[code][n]
            + (1 - learned_module.SMOOTHING) * float(values[n] or 0.0)
            for n in kept
        }
        powers = {n: math.exp(v / (learned_module.TEMPERATURE * spread)) for n, v in drawn.items()}
        for n in range(2):
            wanted = powers.get(n, 0.0) / sum(powers.values())
            assert found[row, n] == pytest.approx(wanted, rel=1e-9)


def test_it_learns_languages_and_texts() -> None:
    asked = some_prompts(400)
    codes = np.array(asked.languages)
    texts = ["add 3 and 4" if n % 2 else "write a poem" for n in range(400)]
    asked = Asked(asked.ids, asked.languages, texts)
    reward = np.zeros((400, 3))
    reward[codes == "de", 0] = 4
    reward[(codes != "de") & (np.arange(400) % 2 == 1), 1] = 4
    reward[(codes != "de") & (np.arange(400) % 2 == 0), 2] = 4
    model = learned_module.fit(asked, reward, np.ones((400, 3), bool), "abc")
    fresh = Asked(["x"] * 4, ["de", "fr", "fr", "??"], [texts[1], texts[1], texts[0], texts[0]])
    assert model.logits(fresh).argmax(axis=1).tolist() == [0, 1, 2, 2]


def test_the_fit_is_a_minimum_of_its_loss() -> None:
    draw = np.random.default_rng(3)
    asked = some_prompts(80)
    reward = draw.normal(size=(80, 3)) + np.array([1.0, 0.0, 0.0])
    put = draw.random((80, 3)) < 0.8
    put[:, :2] = True
    reward[~put] = np.nan
    model = learned_module.fit(asked, reward, put, "abc")
    inputs = learned_module.features(asked.languages, asked.texts, model.languages).astype(float)
    wanted = learned_module.targets(asked.languages, reward)

    def loss(weights: NDArray[Any]) -> float:
        logits = np.where(put, inputs @ weights, -np.inf)
        logs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        cross = -np.where(put, wanted * np.where(put, logs, 0.0), 0.0).sum(axis=1).mean()
        return float(cross + learned_module.DECAY / 2 * (weights**2).sum())

    weights = model.weights.astype(float)
    least = loss(weights)
    assert least < loss(np.zeros_like(weights)) - 0.05
    for _ in range(20):
        assert loss(weights + 0.05 * draw.normal(size=weights.shape)) > least


def test_n_grams_are_those_counted_one_by_one() -> None:
    texts = ["abcab", "", "\u0436\u0437", "a" * 600]
    found = learned_module.features(["de"] * 4, texts, ())
    for row, text in zip(found, texts, strict=True):
        counts = np.zeros(learned_module.BUCKETS)
        blocks = np.zeros(learned_module.BLOCKS)
        for letter in text[: learned_module.OPENING]:
            blocks[(ord(letter) // 256) % learned_module.BLOCKS] += 1
        for size in learned_module.GRAMS:
            opening = text[: learned_module.OPENING]
            for start in range(len(opening) - size + 1):
                key = size
                for letter in opening[start : start + size]:
                    key = (key + ord(letter)) * 0x9E3779B97F4A7C15 % 2**64
                counts[(key >> 40) % learned_module.BUCKETS] += 1
        for values, place in (
            (blocks, slice(learned_module.LENGTHS, learned_module.LENGTHS + learned_module.BLOCKS)),
            (counts, slice(learned_module.LENGTHS + learned_module.BLOCKS, None)),
        ):
            norm = math.sqrt(values.sum()) or 1.0
            assert row[place] == pytest.approx(
                learned_module.TEXT_WEIGHT * np.sqrt(values) / norm, abs=1e-6
            )


def test_the_mass_takes_the_smallest_set_of_the_likeliest_teachers() -> None:
    pool = pool_for(["all"] * 4)
    text = fitted_files(pool)["learned"]
    asked = some_prompts(40)
    logits = learned_module.read(text).logits(asked).astype(float)
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for mass in (0.2, 0.5, 0.9, 1.0):
        ask = made(LearnedRouting(file=text, mass=mass), pool).route(asked, 0, None, None).ask
        for row in range(40):
            ranked = sorted(range(4), key=lambda n: -shares[row, n])
            size = next(k for k in range(1, 5) if shares[row, ranked[:k]].sum() >= mass - 1e-5)
            assert set(np.flatnonzero(ask[row])) == set(ranked[:size])


def test_the_mass_never_asks_fewer_than_the_count() -> None:
    pool = pool_for(["all"] * 4)
    block = LearnedRouting(file=fitted_files(pool)["learned"], count=3, mass=0.01)
    assert (made(block, pool).route(some_prompts(9), 0, None, None).ask.sum(axis=1) == 3).all()


def test_a_teacher_that_the_file_does_not_know_is_asked_as_well() -> None:
    text = fitted_files(pool_for(["all"] * 3))["learned"]
    bigger = pool_for(["all", "all", "all", {"de"}])
    ask = made(LearnedRouting(file=text), bigger).route(some_prompts(20), 0, None, None).ask
    assert (ask[:, :3].sum(axis=1) == 1).all()
    assert ask[:, 3].tolist() == [n % len(LANGUAGES) == 0 for n in range(20)]
    smaller = pool_for([{"ja"}])
    assert (
        made(LearnedRouting(file=text), smaller).route(some_prompts(5), 0, None, None).ask.sum()
        == 1
    )


def test_a_model_is_read_as_it_was_written() -> None:
    text = fitted_files(pool_for(["all"] * 3))["learned"]
    assert learned_module.read(text).text() == text


# adaptive


def world(skills: dict[str, list[float]], noise: float = 0.5) -> Callable[[Asked], NDArray[Any]]:
    """Rewards of teachers by language, with noise that comes from the prompt's id."""

    def rewards(asked: Asked) -> NDArray[Any]:
        means = np.array([skills[code] for code in asked.languages])
        names = [str(n) for n in range(means.shape[1])]
        return means + noise * (lots_of_pairs(asked.ids, names) / 2**63 - 1)

    return rewards


def run_adaptive(
    config: AdaptiveRouting,
    pool: Pool,
    rewards: Callable[[Asked], NDArray[Any]],
    shards: int,
    size: int = 64,
) -> tuple[list[NDArray[np.bool_]], list[NDArray[Any]], list[dict[str, Any]]]:
    """Per shard whom it asked, all rewards, and its state."""
    router = made(config, pool)
    asks: list[NDArray[np.bool_]] = []
    known: list[NDArray[Any]] = []
    states: list[dict[str, Any]] = []
    prompts = []
    for number in range(shards):
        prompts.append(some_prompts(size, salt=f"{number}/"))
        seen = None
        if number >= config.lag:
            past = number - config.lag
            reward = np.where(asks[past], known[past], np.nan)
            seen = Seen(prompts[past].languages, asks[past], reward)
        known.append(rewards(prompts[number]))
        decision = router.route(prompts[number], 0, states[-1] if states else None, seen)
        asks.append(decision.ask)
        states.append(json.loads(json.dumps(decision.state)))
    return asks, known, states


BEST = {"de": 0, "nl": 1, "fr": 2, "ja": 3, "sw": 4}
SPECIALISTS = {code: [3.0 * (n == best) for n in range(6)] for code, best in BEST.items()}


@settings(max_examples=12, deadline=None)
@given(
    budget=st.floats(0.2, 1.0),
    explore=st.floats(0, 0.5),
    lag=st.integers(1, 3),
    seed=st.integers(0, 9),
)
def test_the_share_of_generations_comes_down_to_the_budget_and_stays(
    budget: float, explore: float, lag: int, seed: int
) -> None:
    config = AdaptiveRouting(budget=budget, explore=explore, lag=lag, warm_up=6)
    noise = world(SPECIALISTS, noise=1 + seed)
    asks, _, states = run_adaptive(config, pool_for(["all"] * 6), noise, 24)
    spent = np.cumsum([ask.sum() for ask in asks])
    possible = np.cumsum([ask.size for ask in asks])
    assert [state["spent"] for state in states] == spent.tolist()
    assert [state["possible"] for state in states] == possible.tolist()
    least = 1 / 6
    over = spent / possible > max(budget, least) + 1e-9
    assert not over[-1]
    assert not over[int(np.flatnonzero(~over)[0]) :].any()
    assert spent[-1] / possible[-1] > budget - 0.02


def test_a_short_run_keeps_to_its_budget_too() -> None:
    languages = [f"l{n}" for n in range(23)]
    fams = dict.fromkeys(languages, "one")
    pool = Pool(tuple("abcdefg"), (frozenset(languages),) * 7, fams, (1.0,) * 7)
    skills = {code: [3.0 * (t == n % 7) for t in range(7)] for n, code in enumerate(languages)}
    router = made(AdaptiveRouting(), pool)
    asked = some_prompts(1012, tuple(languages))
    order = np.argsort(lots(asked.ids))
    reward = world(skills)(asked)
    asks, state = [], None
    shards = [order[start : start + 64] for start in range(0, 1012, 64)]
    picks = []
    for number, rows in enumerate(shards):
        part = Asked(
            *([column[r] for r in rows] for column in (asked.ids, asked.languages, asked.texts))
        )
        seen = None
        if number >= 2:
            past = shards[number - 2]
            known = np.where(asks[number - 2], reward[past], np.nan)
            seen = Seen([asked.languages[r] for r in past], asks[number - 2], known)
        decision = router.route(part, 0, state, seen)
        asks.append(decision.ask)
        state = decision.state
        picks += np.where(decision.ask, reward[rows], -9).max(axis=1).tolist()
    assert sum(int(ask.sum()) for ask in asks) <= 0.40 * 1012 * 7
    assert np.mean(picks) > 0.97 * reward.max(axis=1).mean()


def test_it_finds_who_is_good_where() -> None:
    config = AdaptiveRouting(budget=0.3, lag=2)
    asks, known, _ = run_adaptive(config, pool_for(["all"] * 6), world(SPECIALISTS), 20)
    late = np.concatenate(asks[10:])
    codes = some_prompts(64).languages * 10
    for row, code in enumerate(codes):
        assert late[row, BEST[code]], code
    best = np.where(late, np.concatenate(known[10:]), -np.inf).max(axis=1)
    assert best.mean() > 0.99 * np.concatenate(known[10:]).max(axis=1).mean()


def test_two_teachers_that_complete_each_other_are_better_than_the_two_best_means() -> None:
    """t0 and t1 are good on the same prompts and t2, the worst on average, on the others."""

    def rewards(asked: Asked) -> NDArray[Any]:
        easy = lots(asked.ids, "kind") % np.uint64(10) < 6
        noise = lots_of_pairs(asked.ids, ["0", "1", "2"]) / 2**64 / 10
        return np.where(easy[:, None], [4.0, 3.9, 0.0], [0.0, 0.0, 4.0]) + noise

    config = AdaptiveRouting(budget=0.67, explore=0.05, lag=1)
    asks, known, _ = run_adaptive(config, pool_for(["all"] * 3), rewards, 12)
    late, all_known = np.concatenate(asks[6:]), np.concatenate(known[6:])
    assert late[:, 2].mean() > 0.85
    assert (late[:, 0] != late[:, 1]).mean() > 0.85
    assert all_known.mean(axis=0).argmin() == 2


def test_it_follows_nothing_but_the_hash_within_a_language() -> None:
    """What it explores is no choice of easy prompts: a text changes nothing."""
    pool = pool_for(["all"] * 4)
    asked = some_prompts(50)
    other = Asked(asked.ids, asked.languages, ["something else"] * 50)
    router = made(AdaptiveRouting(), pool)
    assert (router.route(asked, 0, None, None).ask == router.route(other, 0, None, None).ask).all()


def test_the_first_of_a_language_are_asked_of_everyone() -> None:
    pool = pool_for(["all"] * 4)
    router = made(AdaptiveRouting(warm_up=3, budget=0.25, explore=0), pool)
    asked = some_prompts(30)
    decision = router.route(asked, 0, None, None)
    assert decision.ask[:15].all()
    assert (decision.ask[15:].sum(axis=1) == 1).all()
    assert decision.state["prompts"] == dict.fromkeys(LANGUAGES, 6)
    late = Asked(["x"], ["ko"], [""])
    wide = Pool(pool.fingerprints, (frozenset({*LANGUAGES, "ko"}),) * 4, FAMILY, pool.costs)
    seen = Seen(asked.languages, decision.ask, np.where(decision.ask, 1.0, np.nan))
    assert made(AdaptiveRouting(warm_up=3), wide).route(late, 0, decision.state, seen).ask.all()
    assert FEW > 3


def test_sums_of_pairs_are_those_added_one_by_one() -> None:
    draw = np.random.default_rng(5)
    pool = pool_for(["all"] * 3)
    router = made(AdaptiveRouting(lag=1), pool)
    totals: dict[tuple[str, int, int], list[float]] = {}
    state = None
    seen = None
    for number in range(4):
        asked = some_prompts(20, salt=str(number))
        state = router.route(asked, 0, state, seen).state
        put = draw.random((20, 3)) < 0.7
        reward = np.where(put & (draw.random((20, 3)) < 0.9), draw.normal(size=(20, 3)), np.nan)
        seen = Seen(asked.languages, put, reward)
        for code in LANGUAGES if number < 3 else ():
            rows = [n for n in range(20) if asked.languages[n] == code]
            worst = np.nanmin(reward[rows])
            for row, i, j in ((row, *pair) for row in rows for pair in permutations(range(3), 2)):
                if put[row, i] and put[row, j]:
                    x, y = (worst if np.isnan(v) else v for v in reward[row, [i, j]])
                    totals.setdefault((code, i, j), []).append(max(0.0, y - x))
    assert state is not None
    found = {}
    for code, rows in state["pairs"].items():
        for i, j, both, up, down in rows:
            found[code, i, j], found[code, j, i] = (both, up), (both, down)
    assert found.keys() == totals.keys()
    for key, values in totals.items():
        assert found[key] == (len(values), pytest.approx(sum(values)))


def test_a_lift_is_drawn_to_that_of_the_family_and_of_all() -> None:
    draw = np.random.default_rng(6)
    asked = some_prompts(40)
    put = np.ones((40, 2), dtype=bool)
    reward = draw.normal(size=(40, 2))
    pairs = Pairs({}, 2)
    pairs.add(Seen(asked.languages, put, reward))
    found = pairs.lifts(["de", "ko"], FAMILY)

    def lifts(codes: tuple[str, ...], i: int, j: int) -> list[float]:
        rows = [n for n in range(40) if asked.languages[n] in codes]
        return [max(0.0, reward[n, j] - reward[n, i]) for n in rows]

    for i, j in ((0, 1), (1, 0)):
        both = [*lifts(LANGUAGES, 0, 1), *lifts(LANGUAGES, 1, 0)]
        prior = sum(both) / len(both)
        for codes in (LANGUAGES, ("de", "nl"), ("de",)):
            values = lifts(codes, i, j)
            prior = (sum(values) + BORROWED * prior) / (len(values) + BORROWED)
            if codes == LANGUAGES:
                assert found["ko"][i, j] == pytest.approx(prior)
        assert found["de"][i, j] == pytest.approx(prior)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_what_a_teacher_adds_to_a_set_is_never_more_than_is_said(seed: int, teachers: int) -> None:
    reward = np.random.default_rng(seed).normal(size=(12, teachers))
    lift = np.maximum(reward[:, None, :] - reward[:, :, None], 0).mean(axis=0)
    order = list(greedy(lift, np.arange(teachers)))
    assert sorted(n for n, _ in order) == list(range(teachers))
    assert order[0][0] == reward.mean(axis=0).argmax()
    best = reward[:, order[0][0]]
    for place, (n, gain) in enumerate(order[1:]):
        true = (np.maximum(best, reward[:, n]) - best).mean()
        assert true <= gain + 1e-12
        assert place or true == pytest.approx(gain)
        best = np.maximum(best, reward[:, n])
    gains = [gain for _, gain in order]
    assert gains == sorted(gains, reverse=True)
    assert list(greedy(lift, np.arange(0))) == []


def test_a_shard_without_any_usable_answer_teaches_nothing_and_breaks_nothing() -> None:
    pool = pool_for(["all"] * 3)
    router = made(AdaptiveRouting(lag=1), pool)
    asked = some_prompts(20)
    one = router.route(asked, 0, None, None)
    seen = Seen(asked.languages, one.ask, np.full(one.ask.shape, np.nan))
    assert router.route(asked, 0, one.state, seen).state["pairs"] == {}


def test_what_is_owed_is_paid_back_by_a_quarter_of_the_budget_at_most() -> None:
    pool = pool_for(["all"] * 5)
    router = made(AdaptiveRouting(budget=0.6, warm_up=1, explore=0.0), pool)
    asked = some_prompts(100)
    warm = router.route(asked, 0, None, None).state
    owing = {**warm, "spent": 10_000, "possible": 10_000, "prompts": dict.fromkeys(LANGUAGES, 99)}
    spent = router.route(asked, 0, owing, None).ask.sum()
    assert spent == int(0.6 * 500 - PAID_BACK * 0.6 * 500)


# the config, its identity, and routes of tables


def run_config(routing: Any, **more: Any) -> RunConfig:
    told = {
        "run": "/r",
        "prompts": "/p.jsonl",
        "arbiter": {"engine": "fake"},
        "teachers": {
            "a": fake(0.5, options={"voice": "a"}),
            "b": fake(0.5, ["de", "nl", "sw"], options={"voice": "b"}),
            "c": fake(0.5, ["de"], options={"voice": "c"}),
        },
    }
    return RunConfig.model_validate(told | ({"routing": routing} if routing else {}) | more)


def parts(routing: Any = None, **more: Any) -> Components:
    return resolve(run_config(routing, **more))


def test_all_keeps_the_fingerprint_that_it_always_had() -> None:
    for routing in (None, {}, {"router": "all"}):
        found = parts(routing)
        coverage = {t.fingerprint: sorted(t.languages) for t in found.teachers}
        assert found.router.identity == {"coverage": coverage}
        assert found.router.fingerprint == fingerprint({"coverage": coverage})


@pytest.mark.parametrize(
    "routing",
    [
        {"router": "all"},
        {"router": "fixed", "table": {"de": "a", "default": ["b", "c"]}},
        {"router": "random", "count": 2},
        {"router": "learned", "file": "/f.json", "mass": 0.9},
        {"router": "cascade", "threshold": {"de": 1, "default": 2}, "order": ["a"]},
        {"router": "adaptive", "budget": 0.3},
    ],
)
def test_a_block_reads_back_as_it_was_written_down(routing: dict[str, Any]) -> None:
    config = run_config(routing)
    assert type(config.routing) is ROUTINGS[routing["router"]]
    written = json.loads(json.dumps(config.model_dump(mode="json")))
    assert set(routing) <= set(written["routing"])
    assert RunConfig.model_validate(written) == config


@pytest.mark.parametrize(
    ("routing", "words"),
    [
        ({"router": "adaptiv"}, ["unknown router 'adaptiv'; did you mean 'adaptive'?"]),
        ({"router": "?"}, ["routers are all, fixed, random"]),
        ({"router": 3}, ["router"]),
        ({"count": 2}, ["the router 'all' has no `count:`, only 'random' and 'learned'"]),
        ({"router": "random", "threshold": 1}, ["'random' has no `threshold:`, only 'cascade'"]),
        ({"router": "random", "cuont": 1}, ["unknown key 'cuont'; did you mean 'count'?"]),
        ({"router": "random", "count": 0}, ["greater than or equal to 1"]),
        ({"router": "learned"}, ["file", "Field required"]),
        ({"router": "cascade"}, ["threshold", "Field required"]),
        ({"router": "cascade", "threshold": {"zz": 1}}, ["'zz' is no known language"]),
        (
            {"router": "cascade", "threshold": {"de": 1, "deu": 2}},
            ["'deu' names a language that is already there"],
        ),
        ({"router": "cascade", "threshold": 1, "order": ["a", "a"]}, ["names 'a' twice"]),
        ({"router": "fixed"}, ["needs either `table:` or `file:`"]),
        ({"router": "fixed", "table": {"de": "a"}, "file": "f"}, ["either `table:` or `file:`"]),
        ({"router": "fixed", "table": {"de": []}}, ["'de' names no teacher"]),
        ({"router": "adaptive", "budget": 0}, ["greater than 0"]),
        ({"router": "adaptive", "lag": 0}, ["greater than or equal to 1"]),
    ],
)
def test_a_wrong_block_is_refused_in_a_sentence(routing: Any, words: list[str]) -> None:
    with pytest.raises(ValidationError) as caught:
        run_config(routing)
    assert all(word in str(caught.value) for word in words), str(caught.value)


@pytest.mark.parametrize(
    ("routing", "words"),
    [
        ({"table": {"de": "d"}}, "routing.table.de: there is no teacher 'd'; teachers are a, b, c"),
        ({"table": {"germanik": "a"}}, "did you mean 'germanic'?"),
        ({"table": {"fr": "b"}}, "routing.table.fr: teacher 'b' does not cover 'fr'"),
        ({"file": "/nowhere/x.json"}, "routing.file /nowhere/x.json cannot be read"),
        ({"router": "cascade", "threshold": 1, "order": ["A"]}, "there is no teacher 'A'"),
    ],
)
def test_what_a_block_names_must_be_there(routing: Any, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parts({"router": "fixed", **routing})
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "no file of a router"),
        ("[]", "no file of a router"),
        ('{"version": 9, "teachers": [], "router": "fixed"}', "no file of a router"),
        ('{"version": 1, "teachers": [], "router": "fixed"}', "made for the router 'fixed'"),
    ],
)
def test_a_file_that_is_no_learned_router_is_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "r.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=words):
        parts({"router": "learned", "file": str(path)})


@pytest.mark.parametrize("change", [{"weights": [[1.0]]}, {"weights": "x"}, {"languages": None}])
def test_a_damaged_file_is_refused(change: dict[str, Any]) -> None:
    note = json.loads(fitted_files(pool_for(["all"] * 2))["learned"])
    with pytest.raises(ConfigError, match="damaged"):
        learned_module.read(json.dumps(note | change))


def test_names_places_and_the_order_of_the_pool_are_no_part_of_a_routers_identity(
    tmp_path: Path,
) -> None:
    pool = pool_of(parts())
    files = fitted_files(pool)
    for place in ("one.json", "two.json"):
        (tmp_path / place).write_text(files["learned"])
    blocks = [
        (
            {"router": "fixed", "table": {"germanic": "n0"}},
            {"router": "fixed", "table": {"germanic": "n2"}},
        ),
        (
            {"router": "cascade", "threshold": 1, "order": ["n0", "n1"]},
            {"router": "cascade", "threshold": 1.0, "order": ["n2", "n1"]},
        ),
        (
            {"router": "learned", "file": str(tmp_path / "one.json")},
            {"router": "learned", "file": str(tmp_path / "two.json")},
        ),
        ({"router": "adaptive"}, {"router": "adaptive", "budget": 0.4}),
    ]
    teachers = [fake(0.5, options={"voice": v}) for v in "xyz"]
    for one, two in blocks:
        left = dict(zip(["n0", "n1", "n2"], teachers, strict=True))
        right = dict(zip(["n2", "n1", "n0"], teachers, strict=True))
        mine = parts(one, teachers=left).router
        theirs = parts(two, teachers=right).router
        assert mine.fingerprint == theirs.fingerprint, one


def test_no_two_routings_share_a_fingerprint(tmp_path: Path) -> None:
    files = fitted_files(pool_of(parts()))
    for name, text in files.items():
        (tmp_path / f"{name}.json").write_text(text)
    told: list[dict[str, Any]] = [
        {},
        {"router": "random"},
        {"router": "random", "count": 2},
        {"router": "fixed", "table": {"de": "b"}},
        {"router": "fixed", "table": {"de": "c"}},
        {"router": "fixed", "table": {"de": ["b", "c"]}},
        {"router": "fixed", "table": {"germanic": "b"}},
        {"router": "fixed", "file": str(tmp_path / "fixed.json")},
        {"router": "learned", "file": str(tmp_path / "learned.json")},
        {"router": "learned", "file": str(tmp_path / "learned.json"), "mass": 0.5},
        {"router": "cascade", "threshold": 1},
        {"router": "cascade", "threshold": {"default": 1}},
        {"router": "cascade", "threshold": 1, "order": ["b"]},
        {"router": "adaptive"},
        {"router": "adaptive", "lag": 1},
        {"router": "adaptive", "warm_up": 3},
    ]
    prints = [parts(one).router.fingerprint for one in told]
    assert len(set(prints)) == len(prints)


def test_whoever_judges_anew_asks_nobody_else_and_families_count_where_they_decide() -> None:
    changes: list[dict[str, Any]] = [
        {"arbiter": {"engine": "fake", "options": {"voice": "other"}}},
        {"gates": {"empty": False}},
    ]
    learning = ({"router": "adaptive"}, {"router": "cascade", "threshold": 0})
    plain = (None, {"router": "random"}, {"router": "fixed", "table": {"de": "a"}})
    for routing in (*learning, *plain):
        base = parts(routing).router.fingerprint
        assert all(parts(routing, **change).router.fingerprint == base for change in changes)
    moved = {"families": {"mine": ["de", "sw"]}}
    adaptive = {"router": "adaptive"}
    assert parts(adaptive, **moved).router.fingerprint != parts(adaptive).router.fingerprint
    named = {"router": "fixed", "table": {"de": "a"}}
    assert parts(named, **moved).router.fingerprint == parts(named).router.fingerprint


def test_a_table_goes_from_language_to_family_to_default() -> None:
    found = parts(
        {"router": "fixed", "table": {"deu": "c", "germanic": "b", "default": ["a", "b"]}}
    )
    print_of = {t.name: t.fingerprint for t in found.teachers}
    block = found.router.config
    assert isinstance(block, FixedRouting)
    assert block.table["de"] == (print_of["c"],)
    assert block.table["nl"] == (print_of["b"],)
    assert set(block.table["sw"]) == {print_of["a"], print_of["b"]}
    assert block.table["ja"] == (print_of["a"],)


def test_a_price_orders_the_cascade() -> None:
    def endpoint(model: str, price: float) -> dict[str, Any]:
        options = {"base_url": "http://h/v1", "price_per_million_input": price}
        options["price_per_million_output"] = 2 * price
        return {"engine": "endpoint", "model": model, "languages": "all", "options": options}

    teachers = {"x": endpoint("m", 5.0), "y": endpoint("n", 1.0), "z": fake(0.5)}
    pool = pool_of(parts(teachers=teachers))
    by_print = dict(zip(pool.fingerprints, pool.costs, strict=True))
    found = {t.name: by_print[t.fingerprint] for t in parts(teachers=teachers).teachers}
    assert found == {"x": 15.0, "y": 3.0, "z": 1.0}


def test_a_run_can_be_read_where_its_routers_file_is_not(tmp_path: Path) -> None:
    path = tmp_path / "r.json"
    path.write_text(fitted_files(pool_of(parts()))["learned"])
    config = run_config({"router": "learned", "file": str(path)})
    there = resolve(config)
    assert there.router.can_route
    known = {"routes/learned": there.router.fingerprint}
    assert resolve(config, known) == there
    other = pool_for(["all"])
    path.write_text(fitted_files(other)["learned"])
    assert resolve(config).router.fingerprint != there.router.fingerprint
    for change in (lambda: None, lambda: path.write_text("?"), path.unlink):
        change()
        gone = resolve(config, known)
        assert gone.router.fingerprint == there.router.fingerprint
        assert not gone.router.can_route
    with pytest.raises(ConfigError, match="cannot be read"):
        resolve(config)
    with pytest.raises(ConfigError, match="not there or no file of a router"):
        router_of(gone)


def test_a_file_is_named_relative_to_the_config(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    path = tmp_path / "conf/run.yaml"
    path.write_text(
        "run: out\nprompts: p.jsonl\nteachers: {a: {engine: fake, languages: [de]}}\n"
        "arbiter: {engine: fake}\nrouting: {router: learned, file: ../r.json}\n"
    )
    routing = load(path).config.routing
    assert isinstance(routing, LearnedRouting)
    assert routing.file == str(tmp_path / "r.json")


def table_of(asked: Asked) -> pa.Table:
    turns = [[{"role": "user", "content": text}] for text in asked.texts]
    return pa.table([asked.ids, asked.languages, pa.array(turns, MESSAGES)], PROMPT_COLUMNS)


def test_routes_say_who_is_asked_how_much() -> None:
    asked = some_prompts(12, ("de", "sw", "ja"))
    for routing in (None, {"router": "random", "count": 2}, {"router": "adaptive"}):
        components = parts(routing)
        found = routes_of(table_of(asked), components)
        ids, lists = (found.table[name].to_pylist() for name in ("prompt_id", "teachers"))
        assert ids == asked.ids
        assert all(row == sorted(row) for row in lists)
        counted: dict[str, list[str]] = {}
        for key, owners in zip(ids, lists, strict=True):
            for owner in owners:
                counted.setdefault(owner, []).append(key)
        assert found.asked == {o: (len(k), digest("".join(k).encode())) for o, k in counted.items()}
    assert routes_of(table_of(asked).slice(0, 0), parts()).table.num_rows == 0


def test_the_last_user_message_is_the_text() -> None:
    turns = [
        [
            {"role": "system", "content": "s"},
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": "three"},
            {"role": "assistant", "content": "four"},
        ],
        [{"role": "system", "content": "alone"}],
        [{"role": "user", "content": "five"}],
    ]
    table = pa.table([["a", "b", "c"], ["de"] * 3, pa.array(turns, MESSAGES)], PROMPT_COLUMNS)
    assert asked_of(table).texts == ["three", "", "five"]
    assert asked_of(table.slice(1)).texts == ["", "five"]
