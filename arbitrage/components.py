"""The parts of a run with their fingerprints: the pool of teachers, router, Arbiter and selector.

A component is what names a directory of the store. Two runs whose components have equal
fingerprints make equal rows. Names, resources and concurrency are not in any fingerprint.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arbitrage.config import (
    ArbiterConfig,
    FuserConfig,
    TeacherConfig,
)
from arbitrage.identity import fingerprint
from arbitrage.judging import Judging

if TYPE_CHECKING:
    from arbitrage.choices import RoutingConfig


@dataclass(frozen=True)
class Component:
    """A named part and the plain data that makes it what it is."""

    kind: str
    name: str
    identity: dict[str, Any]
    fingerprint: str

    @property
    def label(self) -> str:
        """The directory name that it gets when it has none yet."""
        return f"{self.name}-{self.fingerprint}"


@dataclass(frozen=True)
class Teacher(Component):
    """A teacher of the pool. `languages` are the codes that it is asked in; `role` is the teacher
    whose engine answers for it, if it is one that is asked again in another way."""

    config: TeacherConfig
    languages: frozenset[str]
    seed: int
    role: str = ""

    @property
    def samples(self) -> int:
        """Completions of each prompt."""
        return sum(group.n for group in self.config.sampling)


@dataclass(frozen=True)
class Fuser(Teacher):
    """Writes one answer from those of the teachers."""

    config: FuserConfig


@dataclass(frozen=True)
class Arbiter(Component):
    """A reward model. `languages` are the codes in which its scores count, none: in all."""

    config: ArbiterConfig
    languages: frozenset[str] | None = None

    def scores_in(self, language: str) -> bool:
        """Whether it is asked about candidates in a language."""
        return self.languages is None or language in self.languages

    def key(self, asked: str) -> str:
        """Of its scores of candidates that have a key of their own."""
        return asked if self.languages is None else fingerprint([asked, sorted(self.languages)])


@dataclass(frozen=True)
class Router(Component):
    """Decides who is asked. `config` holds fingerprints in place of names, and a file's text for
    its path. `rounds`: how often per shard; `lag`: by what a shard so far before it gave, 0 for one
    that does not learn from the run."""

    config: RoutingConfig
    rounds: int = 1
    lag: int = 0

    @property
    def can_route(self) -> bool:
        """Whether all is there that it decides by; its file may be gone, its routes are stored."""
        return bool(self.identity)


@dataclass(frozen=True)
class Selector(Component):
    """Chooses. `chained`: what it takes of a shard depends on what it took of those before it."""

    chained: bool = False


@dataclass(frozen=True)
class Components:
    """All parts of a run; `families` maps a language code to its family.

    `retry` and `fuse` are the rounds after the router's, if they are wanted: `variants` are the
    teachers as they are asked again, by their own fingerprint, and `fuser` writes one answer from
    those of the others.
    """

    teachers: tuple[Teacher, ...]
    arbiters: tuple[Arbiter, ...]
    router: Router
    gates: Component
    selector: Selector
    families: dict[str, str]
    judging: Judging
    variants: tuple[Teacher, ...] = ()
    fuser: Fuser | None = None
    retry: Component | None = None
    fuse: Component | None = None

    @property
    def fingerprint(self) -> str:
        """The run's: it changes when any part does."""
        parts = [*self.arbiters, self.router, self.gates, self.selector]
        parts += [part for part in (self.retry, self.fuse) if part]
        teachers = sorted(teacher.fingerprint for teacher in self.teachers)
        return fingerprint([teachers, *(part.fingerprint for part in parts)])

    @property
    def rounds(self) -> tuple[Component, ...]:
        """What routes a shard, in order; a router of several rounds stands there several times."""
        after = (part for part in (self.retry, self.fuse) if part)
        return (*[self.router] * self.router.rounds, *after)

    @property
    def answering(self) -> tuple[Teacher, ...]:
        """All that answer with an engine of their own: the teachers, and the fuser if any."""
        return self.teachers if self.fuser is None else (*self.teachers, self.fuser)

    @property
    def served(self) -> tuple[Teacher | Arbiter, ...]:
        """All that have an engine: those who answer, and the Arbiters."""
        return (*self.answering, *self.arbiters)

    @property
    def remarks(self) -> list[str]:
        """What a user should know of how far the Arbiter is to be trusted."""
        found = [self.judging.remark] if self.judging.remark else []
        if self.judging.card_of not in ("", self.arbiter.fingerprint):
            found.append(
                f"`trust.card` is not about Arbiter {self.arbiter.name!r} as it is now; make it "
                "anew with `arbitrage arbiter check`"
            )
        return found

    @property
    def covered(self) -> frozenset[str]:
        """Every language that some teacher is asked in."""
        return frozenset().union(*(teacher.languages for teacher in self.teachers))

    def teacher(self, found: str) -> Teacher:
        """The teacher with this fingerprint, the fuser too; KeyError if there is none."""
        for teacher in (*self.answering, *self.variants):
            if teacher.fingerprint == found:
                return teacher
        raise KeyError(found)

    @property
    def arbiter(self) -> Arbiter:
        """The first, which alone counts where there is no other."""
        return self.arbiters[0]

    def arbiter_of(self, found: str) -> Arbiter:
        """The Arbiter with this fingerprint; KeyError if there is none."""
        for arbiter in self.arbiters:
            if arbiter.fingerprint == found:
                return arbiter
        raise KeyError(found)

    def owner(self, found: str) -> Teacher | Arbiter | None:
        """Whose answers or scores those are, of a variant the teacher itself; none if unknown."""
        for variant in self.variants:
            if variant.fingerprint == found:
                found = variant.role
        return next((part for part in self.served if part.fingerprint == found), None)
