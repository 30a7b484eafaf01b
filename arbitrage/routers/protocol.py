"""What every router is told, what it decides, and the few helpers that routers share.

Arrays are (prompts, teachers), teachers in the order of their fingerprints, so that neither their
names nor their places in the config count. Chance comes from the hash of a prompt's id alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    Bools = NDArray[np.bool_]
    Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Asked:
    """Prompts as parallel sequences; a text is the content of the last user message."""

    ids: Sequence[str]
    languages: Sequence[str]
    texts: Sequence[str]


@dataclass(frozen=True)
class Seen:
    """What came of some prompts that were routed before.

    `languages` per prompt; `asked` (prompts, teachers); `reward` (prompts, teachers) is the best
    one that could have been chosen, nan where the teacher was not asked or has no usable answer.
    """

    languages: Sequence[str]
    asked: Bools
    reward: Floats


@dataclass(frozen=True)
class Pool:
    """The teachers: sorted `fingerprints`, the language codes that each `covers`, and the relative
    `costs` of one answer; `families` maps a code to its family."""

    fingerprints: tuple[str, ...]
    covers: tuple[frozenset[str], ...]
    families: Mapping[str, str]
    costs: tuple[float, ...]

    def covering(self, languages: Sequence[str]) -> Bools:
        """(prompts, teachers) whether the teacher covers the prompt's language."""
        codes, place = np.unique(np.asarray(languages, dtype=str), return_inverse=True)
        rows = [[code in covers for covers in self.covers] for code in codes.tolist()]
        return np.array(rows, dtype=bool).reshape(len(codes), len(self.covers))[place]


class Decision(NamedTuple):
    """Whom to ask, (prompts, teachers), and what the router wants to remember, as plain data."""

    ask: Bools
    state: dict[str, Any]


class Router(Protocol):
    """Decides which teachers are asked which prompts; pure and deterministic.

    `rounds`: how often a shard is routed. In round r > 0 `seen` is about this shard's own prompts
    after round r - 1, in the order of `asked`, and the decision says whom to ask in addition.
    `lag`: 0 where it does not learn. Otherwise the decision for shard s is given the `state` of
    shard s - 1 (none for shard 0), and `seen` is what came of shard s - lag (none for s < lag); the
    state adds up all that was seen, each shard once.
    """

    rounds: int
    lag: int

    def route(
        self, asked: Asked, round: int, state: dict[str, Any] | None, seen: Seen | None
    ) -> Decision:
        """Whom to ask in this round."""
        ...


def lots(ids: Sequence[str], salt: str = "") -> NDArray[np.uint64]:
    """A number below 2**64 per id, drawn by its hash: the same on every machine."""
    keyed = hashlib.blake2b(salt.encode(), digest_size=8)
    drawn = bytearray()
    for key in ids:
        one = keyed.copy()
        one.update(key.encode())
        drawn += one.digest()
    return np.frombuffer(bytes(drawn), dtype="<u8").astype(np.uint64)


def lots_of_pairs(ids: Sequence[str], fingerprints: Sequence[str]) -> NDArray[np.uint64]:
    """(prompts, teachers) a number per pair, whatever other teachers there are.

    Mixed as in SplitMix64 (Steele, Lea and Flood 2014).
    """
    mixed = lots(ids, "prompt")[:, None] ^ lots(fingerprints, "teacher")[None, :]
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    drawn: NDArray[np.uint64] = mixed ^ (mixed >> np.uint64(31))
    return drawn


def first(order: NDArray[Any], allowed: Bools, count: int) -> Bools:
    """Per prompt the `count` allowed teachers that stand first: `order` holds teachers' indices,
    (prompts, teachers), best first."""
    may = np.take_along_axis(allowed, order, axis=1)
    taken = may & (np.cumsum(may, axis=1) <= count)
    chosen = np.zeros_like(allowed)
    np.put_along_axis(chosen, order, taken, axis=1)
    return chosen


def nobody_left_out(ask: Bools, covers: Bools) -> Bools:
    """Asks only teachers that cover the prompt; all of them where nobody would be left."""
    ask = ask & covers
    left: Bools = ask | (covers & ~ask.any(axis=1, keepdims=True))
    return left
