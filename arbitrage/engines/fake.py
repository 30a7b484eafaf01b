"""The fake engine: deterministic, instant, without weights; for tests, dry runs and measurements.

As a teacher it writes the words of the prompt in another order and, at the end, the quality of the
answer between 0 and 1: `... (0.8312)`, drawn around `skill` from the request's seed. As an Arbiter
it reads that number back. So a pool of fakes has known winners. On request it is slow, fails, cuts
answers off, hangs, dies or breaks its contract: see `options.FakeOptions`.

    teachers:
      nordic: {engine: fake, languages: all, options: {skill: {de: 0.8, default: 0.3}}}
    arbiter: {engine: fake}
"""

from __future__ import annotations

import asyncio
import hashlib
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
        return [self._complete(prompt, sampling, seed) for seed in kept]

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
        found = _QUALITY.search(completion)
        return float(found[1]) if found else _draw(completion)[0] / _PARTS


def _draw(key: str) -> tuple[int, int, int, int]:
    """Four numbers below 2**16 from a hash."""
    data = hashlib.blake2b(key.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    number = int.from_bytes(data, "big")
    return (number & 65535, number >> 16 & 65535, number >> 32 & 65535, number >> 48)
