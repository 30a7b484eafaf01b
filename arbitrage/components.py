"""The parts of a run with their fingerprints: the pool of teachers, router, Arbiter and selector.

A component is what names a directory of the store. Two runs whose components have equal
fingerprints make equal rows. Names, resources and concurrency are not in any fingerprint.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arbitrage.config import ArbiterConfig, RunConfig, Served, TeacherConfig
from arbitrage.errors import ConfigError
from arbitrage.identity import directory_digest, fingerprint
from arbitrage.languages import families, table

if TYPE_CHECKING:
    from collections.abc import Mapping


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
    """A teacher of the pool. `languages` are the codes that it is asked in."""

    config: TeacherConfig
    languages: frozenset[str]
    seed: int


@dataclass(frozen=True)
class Arbiter(Component):
    """The reward model."""

    config: ArbiterConfig


@dataclass(frozen=True)
class Components:
    """All parts of a run; `families` maps a language code to its family."""

    teachers: tuple[Teacher, ...]
    arbiter: Arbiter
    router: Component
    selector: Component
    families: dict[str, str]

    @property
    def fingerprint(self) -> str:
        """The run's: it changes when any part does."""
        parts = [self.arbiter, self.router, self.selector]
        teachers = sorted(teacher.fingerprint for teacher in self.teachers)
        return fingerprint([teachers, *(part.fingerprint for part in parts)])

    @property
    def covered(self) -> frozenset[str]:
        """Every language that some teacher is asked in."""
        return frozenset().union(*(teacher.languages for teacher in self.teachers))

    def teacher(self, found: str) -> Teacher:
        """The teacher with this fingerprint; KeyError if the pool has none."""
        for teacher in self.teachers:
            if teacher.fingerprint == found:
                return teacher
        raise KeyError(found)


def resolve(config: RunConfig, known: Mapping[str, str] | None = None) -> Components:
    """Fingerprints every part of a config.

    `known` holds fingerprints by "kind/name" that were found earlier; a part that is in it is not
    looked at again, so that a run can be read where its models are not. Raises ConfigError for an
    unknown family, a teacher that covers nothing, a local model that is not there, and two teachers
    that would answer alike.
    """
    try:
        family_of = families(config.families)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    known = known or {}
    teachers = tuple(
        _teacher(name, teacher, config, family_of, known)
        for name, teacher in config.teachers.items()
    )
    _refuse_twins(teachers)
    arbiter = _arbiter(config.arbiter, known)
    coverage = {t.fingerprint: sorted(t.languages) for t in teachers}
    router = _component(
        "routes", config.routing.router, {**config.routing.identity(), "coverage": coverage}
    )
    rule = config.selection.rule
    selection = {
        "rule": rule,
        "gates": sorted(config.gates.enforced()),
        "arbiter": arbiter.fingerprint,
        "families": family_of,
    }
    return Components(teachers, arbiter, router, _component("selected", rule, selection), family_of)


def _component(kind: str, name: str, identity: dict[str, Any]) -> Component:
    return Component(kind, name, identity, fingerprint(identity))


def _teacher(
    name: str,
    config: TeacherConfig,
    run: RunConfig,
    family_of: Mapping[str, str],
    known: Mapping[str, str],
) -> Teacher:
    found = known.get(f"candidates/{name}")
    identity = config.identity() | ({} if found else _model_identity(f"teachers.{name}", config))
    if any(group.temperature > 0 and group.seed is None for group in config.sampling):
        identity["run_seed"] = run.seed
    languages = _coverage(name, config, family_of)
    own = found or fingerprint(identity)
    return Teacher("candidates", name, identity, own, config, languages, run.seed)


def _arbiter(config: ArbiterConfig, known: Mapping[str, str]) -> Arbiter:
    found = known.get(f"scores/{config.name}")
    identity = config.identity() | ({} if found else _model_identity("arbiter", config))
    return Arbiter("scores", config.name, identity, found or fingerprint(identity), config)


def _model_identity(place: str, config: Served) -> dict[str, Any]:
    """A local folder is named by its content, so that moving it changes nothing."""
    found: dict[str, Any] = {}
    if config.model is not None:
        folder = Path(config.model)
        if folder.is_dir():
            found["model"] = {"content": directory_digest(folder)}
        elif config.model.startswith(("/", ".", "~")):
            raise ConfigError(f"{place}: there is no model folder {config.model}")
        else:
            found["model"] = {"name": config.model}
    lora = getattr(config.options, "lora", None)
    if lora is not None:
        if not Path(lora).is_dir():
            raise ConfigError(f"{place}: there is no folder {lora} with a LoRA adapter")
        content = {"content": directory_digest(Path(lora))}
        found["options"] = config.options.identity() | {"lora": content}
    return found


def _coverage(name: str, config: TeacherConfig, family_of: Mapping[str, str]) -> frozenset[str]:
    if config.languages == "all":
        return frozenset(table())
    known = sorted(set(family_of.values()))
    for family in config.families:
        if family not in known:
            near = difflib.get_close_matches(family, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"families are {', '.join(known)}"
            raise ConfigError(f"teachers.{name}: unknown family {family!r}; {hint}")
    by_family = {code for code, family in family_of.items() if family in config.families}
    return frozenset(by_family | set(config.languages))


def _refuse_twins(teachers: tuple[Teacher, ...]) -> None:
    seen: dict[str, str] = {}
    for teacher in teachers:
        twin = seen.setdefault(teacher.fingerprint, teacher.name)
        if twin != teacher.name:
            raise ConfigError(
                f"teachers {twin!r} and {teacher.name!r} would give the same answers; change one "
                "(model, sampling, seed, system prompt) or drop it"
            )
