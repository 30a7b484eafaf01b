"""How the scores of a run's Arbiters become the one number that is compared.

Weights per language, what length adds to a reward, and who is preferred where no Arbiter is to be
trusted: from the config and the card that it names. Knows no scores.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arbitrage.card import Card
from arbitrage.errors import ConfigError
from arbitrage.languages import parse_tag, table

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from arbitrage.config import RunConfig, TrustConfig

DEFAULT = "default"


@dataclass(frozen=True)
class Judging:
    """`weights` has a number for every Arbiter, in order, by language code, and under `default` for
    all other languages; `slopes`: what one unit of log(1 + characters) adds to a reward, by
    language; `preferred`: where rewards do not count, fingerprints of teachers, best first;
    `remark`: what a user is told of languages in which the first Arbiter is not good enough;
    `card_of`: the fingerprint of the Arbiter that the card is about, if there is one."""

    method: str
    weights: dict[str, tuple[float, ...]]
    slopes: dict[str, float] = field(default_factory=dict)
    preferred: dict[str, list[str]] = field(default_factory=dict)
    remark: str = ""
    card_of: str = ""

    def languages(self, place: int) -> frozenset[str] | None:
        """Those in which an Arbiter counts; none: all."""
        counts = {code: weights[place] > 0 for code, weights in self.weights.items()}
        if all(counts.values()):
            return None
        usual = counts[DEFAULT]
        return frozenset(code for code in table() if counts.get(code, usual))

    def identity(self, arbiters: Sequence[str]) -> dict[str, Any]:
        """What changes the choice, of one alone that is trusted everywhere nothing."""
        found: dict[str, Any] = {}
        if len(arbiters) > 1:
            weights = {code: list(weights) for code, weights in self.weights.items()}
            found |= {"arbiters": list(arbiters), "weights": weights, "combine": self.method}
        return found | {
            name: value
            for name, value in (("slopes", self.slopes), ("preferred", self.preferred))
            if value
        }


def judging_of(
    config: RunConfig, teachers: Mapping[str, str], families: Mapping[str, str]
) -> Judging:
    """From the config; `teachers` maps names to fingerprints, `families` codes to families.

    Raises ConfigError for a card that cannot be read, and for unknown names in `preferred:`.
    """
    scorers = config.scorers
    usual = tuple(one.weight for one in scorers.values())
    trust = config.trust
    if trust is None:
        return Judging(config.combine, {DEFAULT: usual})
    card = Card.read(Path(trust.card))
    below = tuple(sorted(card.languages_below(trust.least_accuracy)))
    weights = {DEFAULT: usual}
    if trust.fallback is not None:
        names = list(scorers)
        others = tuple(
            0.0 if name == trust.fallback else one for name, one in zip(names, usual, strict=True)
        )
        instead = tuple(float(name == trust.fallback) for name in names)
        weights = {DEFAULT: others, **dict.fromkeys(below, instead)}
    preferred = _preferred(trust.preferred, below, teachers, families)
    slopes = dict(sorted(card.slopes().items())) if trust.length_control else {}
    remark = _remark(next(iter(scorers)), trust, below, preferred) if below else ""
    return Judging(config.combine, weights, slopes, preferred, remark, card.arbiter.fingerprint)


def _remark(
    first: str, trust: TrustConfig, below: Sequence[str], preferred: Mapping[str, list[str]]
) -> str:
    left = [code for code in below if code not in preferred]
    told = [f"{', '.join(code for code in below if code in preferred)}: `trust.preferred` decides"]
    if trust.fallback is not None:
        told = [f"{trust.fallback!r} counts there instead"]
    elif left:
        told = [*(told if preferred else []), f"{', '.join(left)}: nothing is set to fall back on"]
    return (
        f"Arbiter {first!r} tells right from wrong in less than "
        f"{trust.least_accuracy:.0%} of its card's pairs in {', '.join(below)}; {'; '.join(told)}"
    )


def _preferred(
    wanted: Mapping[str, Sequence[str]],
    languages: Sequence[str],
    teachers: Mapping[str, str],
    families: Mapping[str, str],
) -> dict[str, list[str]]:
    """Fingerprints for each of the languages that something is said of."""
    told: dict[str, list[str]] = {}
    for place, names in wanted.items():
        code = parse_tag(place)
        if place not in {DEFAULT, *families.values()} and code is None:
            raise ConfigError(
                f"trust.preferred: {place!r} is no language, no family, and not default"
            )
        for name in names:
            if name not in teachers:
                raise ConfigError(
                    f"trust.preferred.{place}: there is no teacher {name!r}; the pool has "
                    f"{', '.join(teachers)}"
                )
        told[code or place] = [teachers[name] for name in names]
    found = {}
    for code in languages:
        order = next((told[p] for p in (code, families[code], DEFAULT) if p in told), None)
        if order:
            found[code] = order
    return found
