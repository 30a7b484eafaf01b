"""Who meets whom, each named by what makes it what it is: models, judges, Arbiters, pairs.

A pair has no order, so a model that becomes the baseline is judged no second time. Knows configs
and model folders; what is in files and runs, `sourcing` tells.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, NamedTuple

from arbitrage.choices import RoutingConfig
from arbitrage.components import Arbiter, Component, Components, Router, Selector, Teacher
from arbitrage.errors import ConfigError
from arbitrage.identity import digest, fingerprint
from arbitrage.judging import DEFAULT, Judging
from arbitrage.languages import families, table
from arbitrage.resolve import coverage, model_identity, teacher_identity
from arbitrage.winrate.config import AnsweringModel, AnswersFile, FromRun, template_text
from arbitrage.winrate.games import template_of
from arbitrage.winrate.sourcing import source_identity

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from arbitrage.winrate.config import JudgeConfig, ScoringConfig, WinrateConfig


@dataclass(frozen=True)
class Adopted(Component):
    """A model whose answers are there already, in a file or a run."""

    source: AnswersFile | FromRun


Entrant = Teacher | Adopted


@dataclass(frozen=True)
class Judge(Teacher):
    """A chat model that compares; `template` is the text of its template."""

    config: JudgeConfig
    template: str = ""


class Pair(NamedTuple):
    """Two models in the order of their fingerprints: in game 0 the first is shown as A."""

    first: Entrant
    second: Entrant

    @property
    def fingerprint(self) -> str:
        """Names the folder of a judge's verdicts on the two."""
        return fingerprint([self.first.fingerprint, self.second.fingerprint])

    @property
    def label(self) -> str:
        """The folder's name where there is none yet."""
        return f"{self.first.name}.{self.second.name}-{self.fingerprint}"


@dataclass(frozen=True)
class Contest(Components):
    """All parts of an evaluation. Of `Components`, gates, router and selector are nobody's."""

    entrants: tuple[Entrant, ...] = ()
    judges: tuple[Judge, ...] = ()
    pairs: tuple[Pair, ...] = ()
    baseline: str = ""

    @property
    def served(self) -> tuple[Teacher | Arbiter, ...]:
        """All that have an engine."""
        return (*self.teachers, *self.judges, *self.arbiters)

    @property
    def covered(self) -> frozenset[str]:
        """The languages of the questions: all."""
        return frozenset(table())

    def entrant(self, found: str) -> Entrant:
        """The model with this fingerprint; KeyError if there is none."""
        for entrant in self.entrants:
            if entrant.fingerprint == found:
                return entrant
        raise KeyError(found)

    def judge(self, found: str) -> Judge:
        """The judge with this fingerprint; KeyError if there is none."""
        for judge in self.judges:
            if judge.fingerprint == found:
                return judge
        raise KeyError(found)


def contest_of(config: WinrateConfig, known: Mapping[str, str] | None = None) -> Contest:
    """Fingerprints every part of a config. `known` holds fingerprints by "kind/name" that were
    found earlier; such a model's folder is not looked at.

    Raises ConfigError for what is not there, for an unknown family, for a template that is none,
    and for two models that would answer alike.
    """
    try:
        family_of = families(config.families)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    entrants = tuple(_entrant(name, config, family_of, known or {}) for name in config.models)
    _refuse_twins(entrants, "models", "give the same answers")
    judges = tuple(_judge(name, one, config, family_of) for name, one in config.judges.items())
    _refuse_twins(judges, "judges", "say the same verdicts")
    arbiters = tuple(_arbiter(name, one) for name, one in config.arbiters.items())
    _refuse_twins(arbiters, "Arbiters", "give the same scores")
    nobody = Component("gates", "none", {}, "")
    return Contest(
        tuple(one for one in entrants if isinstance(one, Teacher)),
        arbiters,
        Router("routes", "none", {}, "", RoutingConfig()),
        nobody,
        Selector("selected", "none", {}, ""),
        dict(family_of),
        Judging("zscore", {DEFAULT: (1.0,) * len(arbiters)}),
        entrants=entrants,
        judges=judges,
        pairs=_pairs(entrants, config.baseline),
        baseline=config.baseline or "",
    )


def _entrant(
    name: str, config: WinrateConfig, family_of: dict[str, str], known: Mapping[str, str]
) -> Entrant:
    block, place = config.models[name], f"models.{name}"
    if isinstance(block, AnsweringModel):
        found = known.get(f"candidates/{name}")
        identity = teacher_identity(place, block, config.seed, look=not found)
        languages = coverage(place, block, family_of)
        own = found or fingerprint(identity)
        return Teacher("candidates", name, identity, own, block, languages, config.seed)
    if isinstance(block, AnswersFile | FromRun):
        identity = source_identity(place, block)
        return Adopted("candidates", name, identity, fingerprint(identity), block)
    raise ConfigError(f"{place}: it says nowhere what its answers are")


def _judge(
    name: str, block: JudgeConfig, config: WinrateConfig, family_of: dict[str, str]
) -> Judge:
    """Named by the words of its template too, the package's own as well."""
    place = f"judges.{name}"
    try:
        text = template_text(block.template)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{place}: the template cannot be read ({error})") from error
    template_of(text)
    identity: dict[str, Any] = teacher_identity(place, block, config.seed)
    identity["template"] = digest(text.encode())
    own = fingerprint(identity)
    languages = coverage(place, block, family_of)
    return Judge("judgements", name, identity, own, block, languages, config.seed, template=text)


def _arbiter(name: str, block: ScoringConfig) -> Arbiter:
    identity = block.identity() | model_identity(f"arbiters.{name}", block)
    return Arbiter("scores", name, identity, fingerprint(identity), block)


def _pairs(entrants: Sequence[Entrant], baseline: str | None) -> tuple[Pair, ...]:
    """The baseline with all others, or all with all."""
    return tuple(
        Pair(*sorted(two, key=lambda one: one.fingerprint))
        for two in combinations(entrants, 2)
        if baseline is None or baseline in (two[0].name, two[1].name)
    )


def _refuse_twins(parts: Sequence[Component], what: str, why: str) -> None:
    seen: dict[str, str] = {}
    for part in parts:
        twin = seen.setdefault(part.fingerprint, part.name)
        if twin != part.name:
            raise ConfigError(f"{what} {twin!r} and {part.name!r} would {why}; drop or change one")
