"""What sampled tokens may be, by every local engine, against plain torch.

The engines' own tokens are looked at, one by one: a forward pass over the prompt and what was made
says how likely each was, and which ones the documented filters, in the documented order, leave. The
sets are recomputed here, without a processor of any library. A set is widened by `SLACK` before a
token counts as outside, for two ways to compute a logit differ in last digits.

Runs with the transformers engine, and with vLLM where it can be imported (`make test-vllm`), on
microscopic real models whose distributions are flat. Figures are printed (`-s`).
"""

from __future__ import annotations

import asyncio
import importlib.util
import itertools
import random
from contextlib import closing
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from arbitrage.config import RunConfig, Sampling
from arbitrage.engines import build_generator
from arbitrage.records import Prompt
from arbitrage.resolve import resolve
from micro_models import make_teacher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SLACK = 1e-3
"""Relative, at the edge of a set."""
LATIN = "river stone Haus Wasser montagne lumiere ciudad noche grazie number seven the old"
WORDS = LATIN.split()
HOT = Sampling(temperature=2.0, n=12, max_tokens=24)
TRANSFORMERS = pytest.param("transformers", marks=pytest.mark.engine("transformers"))
VLLM = pytest.param(
    "vllm",
    marks=[
        pytest.mark.engine("vllm"),
        pytest.mark.skipif(
            importlib.util.find_spec("vllm") is None,
            reason="vLLM cannot be imported; `make test-vllm` can",
        ),
    ],
)
OPTIONS = {
    "transformers": {},
    "vllm": {"kv_cache_gb": 0.25, "engine_args": {"enforce_eager": True}},
}


def some_texts(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(1, 20))) for _ in range(count)]


PROMPTS = some_texts(20, seed=1)


# ---- the filters, in plain torch, on chances (tokens, vocabulary), likeliest first


def renormalised(chances: torch.Tensor, kept: torch.Tensor) -> torch.Tensor:
    left = chances.where(kept, 0.0)
    return left / left.sum(-1, keepdim=True)


def min_p(chances: torch.Tensor, least: float, slack: float) -> torch.Tensor:
    """Tokens at least `least` times as likely as the likeliest."""
    return renormalised(chances, chances >= least * (1 - slack) * chances[:, :1])


def top_k(chances: torch.Tensor, count: float, slack: float) -> torch.Tensor:
    """The `count` likeliest tokens."""
    last = chances[:, int(count) - 1 : int(count)]
    return renormalised(chances, chances >= last * (1 - slack))


def top_p(chances: torch.Tensor, mass: float, slack: float) -> torch.Tensor:
    """The nucleus: the smallest set of the likeliest tokens that holds `mass`."""
    before = chances.cumsum(-1) - chances
    return renormalised(chances, before < mass * (1 + slack))


FILTERS: dict[str, Callable[[torch.Tensor, float, float], torch.Tensor]] = {
    "min_p": min_p,
    "top_k": top_k,
    "top_p": top_p,
}
ORDERS = {
    "transformers": ("top_k", "top_p", "min_p"),
    "vllm": ("min_p", "top_k", "top_p"),
}
"""After the temperature, as each engine's docstring says."""


class Made(NamedTuple):
    """The `ranks` of all sampled tokens, 0 the likeliest, and the softmax after the temperature:
    `chances` (tokens, vocabulary), likeliest first."""

    ranks: torch.Tensor
    chances: torch.Tensor

    def left(self, order: tuple[str, ...], limits: dict[str, float], slack: float) -> torch.Tensor:
        """What the filters leave of the chances when they are applied in this order."""
        found = self.chances
        for name in order:
            if name in limits:
                found = FILTERS[name](found, limits[name], slack)
        return found

    def outside(self, order: tuple[str, ...], limits: dict[str, float]) -> int:
        """Sampled tokens that the filters leave no chance."""
        left = self.left(order, limits, SLACK)
        return int((left.gather(1, self.ranks.unsqueeze(1)) == 0).sum())

    def surprise(self, order: tuple[str, ...], limits: dict[str, float]) -> float:
        """Standard deviations between the ranks of the sampled tokens and those to be expected.

        Far from 0 where tokens came from a smaller or a larger set than the filters leave.
        """
        left = self.left(order, limits, 0.0)
        every = torch.arange(left.shape[1], dtype=torch.float64)
        mean = (left * every).sum(-1)
        spread = (left * (every - mean.unsqueeze(1)) ** 2).sum(-1)
        return float((self.ranks - mean).sum() / spread.sum().sqrt())


class Sampled:
    """An engine that answers in token ids, and the same model without it."""

    def __init__(self, name: str, engine: Any, folder: Path) -> None:
        self.name, self._engine = name, engine
        # Where an engine makes text of tokens it now spells out their ids: so an answer is its
        # tokens, the ending one too, and nothing else of the engine is touched.
        engine._chat.text = lambda tokens: " ".join(map(str, tokens))
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def make(self, **limits: Any) -> Made:
        """Samples answers to all prompts, and looks up the chances of each of their tokens."""
        sampling = HOT.model_copy(update=limits)
        parts = [
            self._chances(text, [int(token) for token in answer.text.split()])
            for text, answers in zip(PROMPTS, self._ask(sampling), strict=True)
            for answer in answers
        ]
        return Made(torch.cat([p.ranks for p in parts]), torch.cat([p.chances for p in parts]))

    def _ask(self, sampling: Sampling) -> list[Any]:
        async def one(number: int, text: str) -> Any:
            prompt = Prompt(text, "en", [{"role": "user", "content": text}])
            seeds = [1024 * number + sample for sample in range(sampling.n)]
            return await self._engine.generate(prompt, sampling, seeds)

        async def everyone() -> list[Any]:
            return await asyncio.gather(*(one(n, text) for n, text in enumerate(PROMPTS)))

        return asyncio.run(asyncio.wait_for(everyone(), 120))

    def _chances(self, text: str, made: list[int]) -> Made:
        messages = [{"role": "user", "content": text}]
        prompt = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
        with torch.inference_mode():
            logits = self._model(torch.tensor([[*prompt, *made]])).logits[0]
        chances = (logits[len(prompt) - 1 : -1] / HOT.temperature).softmax(-1)
        ranked, order = chances.sort(descending=True)
        return Made((order == torch.tensor(made).unsqueeze(1)).int().argmax(-1), ranked)


@pytest.fixture(scope="module", params=[TRANSFORMERS, VLLM])
def engine(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Any]:
    name = request.param
    # vLLM's attention on CPUs wants heads of at least 32.
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}
    folder = make_teacher(tmp_path_factory.mktemp(name), some_texts(100, seed=0), seed=1, **heads)
    teacher = {"engine": name, "model": str(folder), "languages": "all", "options": OPTIONS[name]}
    config = RunConfig(
        run="r", prompts="p.jsonl", teachers={"t": teacher}, arbiter={"engine": "fake"}
    )
    with closing(build_generator(resolve(config).teachers[0])) as built:
        yield Sampled(name, built, folder)


@pytest.fixture(scope="module")
def free(engine: Sampled) -> Made:
    """What comes without any limit."""
    return engine.make()


def test_without_limits_tokens_follow_the_softmax(engine: Sampled, free: Made) -> None:
    surprise = free.surprise((), {})
    print(f"\n{engine.name}: {len(free.ranks)} tokens without limits, {surprise:+.2f} sigma")
    assert len(free.ranks) > 2000
    assert abs(surprise) < 4


@pytest.mark.parametrize("limits", [{"min_p": 0.2}, {"top_p": 0.5}, {"top_k": 5}], ids=str)
def test_no_token_lies_outside_a_limit_and_without_it_many_do(
    engine: Sampled, free: Made, limits: dict[str, float]
) -> None:
    order = tuple(limits)
    made = engine.make(**limits)
    outside, usual = made.outside(order, limits), free.outside(order, limits)
    surprise = made.surprise(order, limits)
    print(
        f"\n{engine.name}, {limits}: {outside} of {len(made.ranks)} tokens outside, {usual} of "
        f"{len(free.ranks)} without it; {surprise:+.2f} sigma"
    )
    assert len(made.ranks) > 2000
    assert usual > len(free.ranks) / 10
    assert outside == 0
    assert abs(surprise) < 4


def moved(first: torch.Tensor, second: torch.Tensor) -> float:
    """Tokens to be expected in one of two sets and not in the other."""
    return float((first * (second == 0) + second * (first == 0)).sum())


@pytest.mark.parametrize(
    "limits",
    [{"min_p": 0.2, "top_p": 0.5}, {"min_p": 0.3, "top_k": 40, "top_p": 0.5}],
    ids=str,
)
def test_only_the_documented_order_explains_the_tokens(
    engine: Sampled, limits: dict[str, float]
) -> None:
    """Of all orders, those that leave what the engine's own leaves, and no other."""
    made = engine.make(**limits)
    own = made.left(ORDERS[engine.name], limits, 0.0)
    print(f"\n{engine.name}, {limits}, {len(made.ranks)} tokens")
    for order in itertools.permutations(limits):
        differ, surprise = moved(own, made.left(order, limits, 0.0)), made.surprise(order, limits)
        outside = made.outside(order, limits)
        print(f"{', '.join(order)}: {outside} outside, {surprise:+.2f} sigma, {differ:.0f} differ")
        assert abs(surprise) < 4 if differ < 1 else abs(surprise) > 5
    assert made.outside(ORDERS[engine.name], limits) == 0
    # Where min_p comes first the nucleus is one of what it left: so vLLM's set is in the other.
    assert made.outside(ORDERS["transformers"], limits) == 0
    assert (made.outside(ORDERS["vllm"], limits) > 100) == (engine.name == "transformers")


def test_min_p_and_top_k_commute(engine: Sampled) -> None:
    """Both keep the likeliest tokens and neither looks at their mass."""
    limits = {"min_p": 0.3, "top_k": 40}
    made = engine.make(**limits)
    first, second = (made.left(order, limits, 0.0) for order in itertools.permutations(limits))
    by_one = [made.left((name,), limits, 0.0) for name in limits]
    print(f"\n{engine.name}: the two alone leave {[int((one > 0).sum()) for one in by_one]} tokens")
    assert moved(first, second) < 1
    assert all(moved(first, one) > 100 for one in by_one)
    assert made.outside(("min_p", "top_k"), limits) == 0
    assert abs(made.surprise(("min_p", "top_k"), limits)) < 4
