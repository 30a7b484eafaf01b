"""The fake engine: deterministic, instant, without weights; for tests, dry runs and measurements.

As a teacher it writes the words of the prompt in another order and, at the end, the quality of the
answer between 0 and 1: `... (0.8312)`, drawn around `skill` from the request's seed. As an Arbiter
it reads that number back, and as a judge, which it is when it is shown two answers to compare, it
reads both and says by the gap who wins. So a pool of fakes has known winners. On request it is
slow, fails, cuts answers off, hangs, dies, breaks its contract, or is biased: see
`options.FakeOptions`.

    teachers:
      nordic: {engine: fake, languages: all, options: {skill: {de: 0.8, default: 0.3}}}
    arbiter: {engine: fake}
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import math
import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, cast

from arbitrage import __version__
from arbitrage.errors import ItemError
from arbitrage.options import FakeOptions
from arbitrage.pulse import beat
from arbitrage.records import Completion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arbitrage.components import Arbiter, Teacher
    from arbitrage.config import Sampling
    from arbitrage.records import Prompt

_QUALITY = re.compile(r"\((\d\.\d{4})\)$")
_SPREAD = 0.4
_VERDICTS = ((0.3, "A>>B"), (0.05, "A>B"), (-0.05, "A=B"), (-0.3, "B>A"), (-math.inf, "B>>A"))
"""From which gap between two qualities on a judge says what."""
_PARTS = 2**16
DEATH = 13


def build_generator(teacher: Teacher) -> FakeGenerator:
    """A fake teacher."""
    options = cast("FakeOptions", teacher.config.options)
    return FakeGenerator(options, f"{teacher.config.model or ''}/{options.voice}")


def build_scorer(arbiter: Arbiter) -> FakeScorer:
    """A fake Arbiter."""
    return FakeScorer(cast("FakeOptions", arbiter.config.options))


class _Fake:
    """Loading, delays and accidents."""

    max_in_flight = 64

    def __init__(self, options: FakeOptions) -> None:
        self._options = options
        self._requests = 0
        self._eventful = (
            options.delay_s > 0 or options.hang_after is not None or options.crash_after is not None
        )
        time.sleep(options.load_s)

    def provenance(self) -> dict[str, str]:
        return {"engine": "fake", "version": __version__}

    def close(self) -> None:
        """Nothing is held."""

    async def _happen(self) -> None:
        self._requests += 1
        beat()
        if not self._eventful:
            return
        options = self._options
        if options.crash_after is not None and self._requests > options.crash_after:
            self._crash()
        if options.hang_after is not None and self._requests > options.hang_after:
            await asyncio.Event().wait()
        if options.delay_s:
            await asyncio.sleep(options.delay_s)

    def _crash(self) -> None:
        if self._options.crash_once is not None:
            mark = Path(self._options.crash_once)
            if mark.exists():
                return
            mark.touch()
        os._exit(DEATH)


class FakeGenerator(_Fake):
    """Answers with the prompt's own words and a known quality."""

    def __init__(self, options: FakeOptions, voice: str) -> None:
        super().__init__(options)
        self._voice = voice
        skill = options.skill
        self._skills = skill if isinstance(skill, dict) else {}
        self._usual_skill = skill if isinstance(skill, float) else skill.get("default", 0.5)

    async def generate(
        self, prompt: Prompt, sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        await self._happen()
        options = self._options
        if options.deadly and _draw(f"deadly/{prompt.id}")[0] < options.deadly * _PARTS:
            os._exit(DEATH)
        if options.fail and _draw(f"fail/{prompt.id}/{self._voice}")[0] < options.fail * _PARTS:
            raise ItemError("the fake engine was told to fail on this prompt")
        kept = seeds[:-1] if options.lie == "drop" else seeds
        case = _case(prompt)
        if case is not None:
            return [self._compare(prompt, case, seed) for seed in kept]
        return [self._complete(prompt, sampling, seed) for seed in kept]

    def _compare(self, prompt: Prompt, case: dict[str, str], seed: int) -> Completion:
        """A verdict on two answers, or, where it is told to be silent, none."""
        options = self._options
        draw = _draw(f"{prompt.id}/{self._voice}/judge")
        if draw[1] < options.judge_silent * _PARTS:
            return Completion("I cannot say.", "stop", 0, 3)
        gap = self._worth(case["answer_a"]) - self._worth(case["answer_b"])
        gap += options.judge_position + options.judge_noise * (draw[0] / _PARTS - 0.5)
        label = next(label for least, label in _VERDICTS if gap >= least)
        return Completion(f"I have looked at both.\n\n[[{label}]]", "stop", 0, 6)

    def _worth(self, answer: str) -> float:
        return _quality(answer) + self._options.judge_length * len(answer) / 100

    def _complete(self, prompt: Prompt, sampling: Sampling, seed: int) -> Completion:
        options = self._options
        chance = 0 if sampling.temperature == 0 else seed
        draw = _draw(f"{prompt.id}/{self._voice}/{chance}")
        words = prompt.messages[-1]["content"].split()
        limit = min(options.words, sampling.max_tokens)
        if options.empty and draw[1] < options.empty * _PARTS:
            return Completion("", "stop", len(words), 0)
        start = draw[2] % max(1, len(words))
        told = (words[start:] + words[:start])[:limit]
        skill = self._skills.get(prompt.language, self._usual_skill)
        quality = min(1.0, max(0.0, skill + _SPREAD * (draw[0] / _PARTS - 0.5)))
        cut = limit < options.words or (options.truncate and draw[3] < options.truncate * _PARTS)
        reason = "length" if cut else "stop"
        text = f"{' '.join(told)} ({quality:.4f})"
        return Completion(text, reason, len(words), len(told) + 1)


class FakeScorer(_Fake):
    """Reads the quality that a fake teacher wrote; other text gets a score from its hash."""

    async def score(self, prompt: Prompt, completion: str) -> float:
        await self._happen()
        options = self._options
        if options.lie == "nan":
            return math.nan
        if options.fail and _draw(f"fail/{prompt.id}/{completion}")[0] < options.fail * _PARTS:
            raise ItemError("the fake engine was told to fail on this candidate")
        return _quality(completion)


def _case(prompt: Prompt) -> dict[str, str] | None:
    """The two answers that a judge is shown, if this is what is asked."""
    text = next((t["content"] for t in prompt.messages if t["role"] == "user"), "")
    if '"answer_a"' not in text:
        return None
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and {"answer_a", "answer_b"} <= found.keys() else None


def _quality(text: str) -> float:
    """What a fake teacher wrote of its answer; of other text, one from its hash."""
    found = _QUALITY.search(text)
    return float(found[1]) if found else _draw(text)[0] / _PARTS


def _draw(key: str) -> tuple[int, int, int, int]:
    """Four numbers below 2**16 from a hash."""
    data = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    number = int.from_bytes(data, "big")
    return (number & 65535, number >> 16 & 65535, number >> 32 & 65535, number >> 48)
