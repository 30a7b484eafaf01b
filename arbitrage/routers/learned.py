"""Predicts from the prompt alone which teacher will be best: the router `learned`.

A softmax regression on language, length, blocks of characters (the script) and hashed character
n-grams, in plain numpy. It is fitted to soft targets, the softmax of the rewards of a prompt, drawn
to the mean of its language, with the cross-entropy (KL) loss, as routers are trained in the paper
on multilingual arbitrage (Odumakinde et al. 2024, arXiv 2408.14960). Everything is deterministic:
weights begin at zero and each step sees all prompts. `arbitrage route fit` calls `fit`; the file is
JSON.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from arbitrage.directions import FILE_VERSION, fitted
from arbitrage.errors import ConfigError
from arbitrage.routers.protocol import Asked, Decision, Pool, Seen, first

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from arbitrage.choices import LearnedRouting
    from arbitrage.routers.protocol import Bools, Floats

    Singles = NDArray[np.float32]

OPENING = 256
"""Characters of a prompt that are looked at."""
BUCKETS = 512
BLOCKS = 32
GRAMS = (2, 3)
LENGTHS = 8
CHUNK = 4096
"""Prompts whose features are held at a time when routing."""
TEXT_WEIGHT = 0.25
"""How much the n-grams count beside the language: the language is what rewards differ by most."""
TEMPERATURE = 0.1
"""Of the targets, in standard deviations of the rewards of a prompt around their mean."""
SMOOTHING = 0.5
"""How far a reward is drawn to the mean of its language and teacher."""
DECAY = 1e-3
STEPS = 200
RATE = 0.1


@dataclass(frozen=True)
class Model:
    """What was fitted: `weights` is (features, teachers), the languages come first among features.

    `teachers` are fingerprints.
    """

    teachers: tuple[str, ...]
    languages: tuple[str, ...]
    weights: Singles

    def logits(self, asked: Asked) -> Floats:
        """(prompts, teachers) the unnormalised log probability to be the best, rounded so that no
        machine's way of adding decides between two teachers."""
        weights = self.weights.astype(np.float64)
        parts = [np.zeros((0, len(self.teachers)))]
        for start in range(0, len(asked.ids), CHUNK):
            part = slice(start, start + CHUNK)
            rows = features(asked.languages[part], asked.texts[part], self.languages)
            parts.append((rows @ weights).round(6))
        return np.concatenate(parts)

    def text(self) -> str:
        """As JSON, with five digits per weight."""
        weights = [[float(f"{w:.5g}") for w in row] for row in self.weights.tolist()]
        told = {
            "version": FILE_VERSION,
            "router": "learned",
            "teachers": list(self.teachers),
            "languages": list(self.languages),
            "weights": weights,
        }
        return json.dumps(told) + "\n"


def read(text: str) -> Model:
    """What `Model.text` wrote. Raises ConfigError for anything else."""
    note = fitted(text, "learned")
    try:
        weights = np.array(note["weights"], dtype=np.float32)
        model = Model(tuple(note["teachers"]), tuple(note["languages"]), weights)
    except (ValueError, KeyError, TypeError):
        model = None
    wanted = model and (_width(len(model.languages)), len(model.teachers))
    if model is None or model.weights.shape != wanted or not np.isfinite(model.weights).all():
        raise ConfigError(
            "routing.file is damaged; make it again: `arbitrage route fit RUN -o FILE`"
        )
    return model


class Learned:
    """Asks the `count` teachers that are likeliest to be best, or as many as make up `mass`.

    A teacher that the file does not know is asked as well wherever it covers the language, so that
    the next fit can judge it.
    """

    rounds = 1
    lag = 0

    def __init__(self, config: LearnedRouting, pool: Pool) -> None:
        self._config = config
        self._pool = pool
        self._model = read(config.file)
        known = {fingerprint: n for n, fingerprint in enumerate(self._model.teachers)}
        self._place = np.array([known.get(f, -1) for f in pool.fingerprints], dtype=np.int64)

    def route(
        self, asked: Asked, round: int, state: dict[str, Any] | None, seen: Seen | None
    ) -> Decision:
        """The likeliest teachers; no state."""
        del round, state, seen
        covers = self._pool.covering(asked.languages)
        judged = covers & (self._place >= 0)
        shares = softmax(self._model.logits(asked)[:, self._place], judged)
        order = np.argsort(-shares, axis=1, kind="stable")
        ask = first(order, judged, self._config.count)
        if self._config.mass is not None:
            ranked = np.take_along_axis(shares, order, axis=1)
            before = np.cumsum(ranked, axis=1) - ranked
            wanted = np.zeros_like(ask)
            np.put_along_axis(wanted, order, before < self._config.mass - 1e-6, axis=1)
            ask |= wanted & judged
        return Decision(ask | (covers & (self._place < 0)), {})


def fit(asked: Asked, reward: Floats, put: Bools, teachers: Sequence[str]) -> Model:
    """Fits a model to what became of some prompts.

    `reward` and `put` (whether the teacher was asked) are (prompts, teachers); a reward is nan
    where there was no usable answer. Prompts that fewer than two teachers were asked, or where no
    answer was usable, say nothing.
    """
    rows = np.flatnonzero((put.sum(axis=1) >= 2) & ~np.isnan(reward).all(axis=1))
    languages = [asked.languages[row] for row in rows.tolist()]
    known = tuple(sorted(set(languages)))
    inputs = features(languages, [asked.texts[row] for row in rows.tolist()], known)
    wanted = targets(languages, reward[rows]).astype(np.float32)
    weights = _descend(inputs, wanted, put[rows])
    return Model(tuple(teachers), known, weights)


def targets(languages: Sequence[str], reward: Floats) -> Floats:
    """(prompts, teachers) soft targets: 0 where there is no reward, a prompt's sum is 1. Each has
    one reward at least."""
    usable = ~np.isnan(reward)
    answers = usable.sum(axis=1, keepdims=True)
    mean_of_prompt = np.where(usable, reward, 0.0).sum(axis=1, keepdims=True) / answers
    ahead = np.where(usable, reward - mean_of_prompt, 0.0)
    spread = float(np.sqrt((ahead**2).sum() / max(answers.sum(), 1))) or 1.0
    codes, place = np.unique(np.asarray(languages, dtype=str), return_inverse=True)
    total, count = (np.zeros((len(codes), reward.shape[1])) for _ in range(2))
    np.add.at(total, place, ahead)
    np.add.at(count, place, usable)
    mean = (total / np.maximum(count, 1))[place]
    drawn = (1 - SMOOTHING) * ahead + SMOOTHING * mean
    return softmax(drawn / (TEMPERATURE * spread), usable)


def softmax(logits: NDArray[Any], allowed: Bools) -> Floats:
    """Shares over the allowed entries of each row; a row without any is all zero."""
    kept = np.where(allowed, logits, -np.inf)
    top = kept.max(axis=1, keepdims=True, initial=-np.inf)
    powers = np.where(allowed, np.exp(kept - np.where(np.isfinite(top), top, 0.0)), 0.0)
    shares: Floats = powers / np.maximum(powers.sum(axis=1, keepdims=True), 1e-30)
    return shares


def _descend(inputs: Singles, wanted: Singles, allowed: Bools) -> Singles:
    """Adam (Kingma and Ba 2015) on the mean cross-entropy with weight decay; no chance in it."""
    shape = (inputs.shape[1], wanted.shape[1])
    weights, mean, square = (np.zeros(shape, np.float32) for _ in range(3))
    for step in range(1, STEPS + 1):
        shares = softmax(inputs @ weights, allowed).astype(np.float32)
        slope = inputs.T @ (shares - wanted) / max(len(inputs), 1) + DECAY * weights
        mean += np.float32(0.1) * (slope - mean)
        square += np.float32(0.001) * (slope**2 - square)
        rate = RATE * (1 - step / (STEPS + 1))
        scale = np.sqrt(square / (1 - 0.999**step)) + 1e-8
        weights -= rate * (mean / (1 - 0.9**step)) / scale
    return weights


def _width(languages: int) -> int:
    return languages + LENGTHS + BLOCKS + BUCKETS


def features(languages: Sequence[str], texts: Sequence[str], known: Sequence[str]) -> Singles:
    """(prompts, features): one per known language, then length, blocks of characters, n-grams."""
    rows = np.zeros((len(texts), _width(len(known))), np.float32)
    place = {code: n for n, code in enumerate(known)}
    for row, code in enumerate(languages):
        if code in place:
            rows[row, place[code]] = 1.0
    at = len(known)
    lengths = np.array([len(text) for text in texts], dtype=np.int64)
    bins = np.minimum(np.log2(lengths + 1).astype(np.int64) // 2, LENGTHS - 1)
    rows[np.arange(len(texts)), at + bins] = TEXT_WEIGHT
    at += LENGTHS
    letters, owner = _letters(texts)
    blocks = (letters >> np.uint64(8)) % np.uint64(BLOCKS)
    rows[:, at : at + BLOCKS] = _counted(owner, blocks, len(texts), BLOCKS)
    rows[:, at + BLOCKS :] = _grams(letters, owner, len(texts))
    return rows


def _letters(texts: Sequence[str]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """All characters of the openings as numbers, and the text that each is of."""
    openings = [text[:OPENING] for text in texts]
    data = "".join(openings).encode("utf-32-le", "surrogatepass")
    letters = np.frombuffer(data, dtype="<u4").astype(np.uint64)
    return letters, np.repeat(np.arange(len(openings)), [len(text) for text in openings])


def _grams(letters: NDArray[np.uint64], owner: NDArray[np.int64], texts: int) -> Singles:
    """Hashed n-grams: multiplied with an odd constant, the upper bits (Knuth 6.4)."""
    owners, buckets = [], []
    for size in GRAMS:
        span = max(len(letters) - size + 1, 0)
        key = np.full(span, size, np.uint64)
        for offset in range(size):
            key = (key + letters[offset : offset + span]) * np.uint64(0x9E3779B97F4A7C15)
        whole = owner[:span] == owner[size - 1 : size - 1 + span]
        owners.append(owner[:span][whole])
        buckets.append((key >> np.uint64(40))[whole] % np.uint64(BUCKETS))
    return _counted(np.concatenate(owners), np.concatenate(buckets), texts, BUCKETS)


def _counted(
    owner: NDArray[np.int64], bucket: NDArray[np.uint64], texts: int, width: int
) -> Singles:
    """(texts, width) roots of the counts, each row of the same length."""
    flat = np.bincount(owner * width + bucket.astype(np.int64), minlength=texts * width)
    roots = np.sqrt(flat.reshape(texts, width).astype(np.float32))
    norms = np.sqrt((roots**2).sum(axis=1, keepdims=True))
    counted: Singles = TEXT_WEIGHT * roots / np.maximum(norms, 1e-9)
    return counted
