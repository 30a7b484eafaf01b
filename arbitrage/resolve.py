"""From a config to the parts of a run: fingerprints all of them.

Knows configs and model folders, no store. Local models are named by their content, so that moving
one changes nothing; names of teachers are no part of what they make.
"""

from __future__ import annotations

import difflib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arbitrage.choices import AdaptiveRouting, CascadeRouting
from arbitrage.components import Arbiter, Component, Components, Fuser, Router, Selector, Teacher
from arbitrage.directions import identity_of, resolved
from arbitrage.errors import ConfigError
from arbitrage.gates import identity as gates_identity
from arbitrage.identity import directory_digest, fingerprint
from arbitrage.judging import Judging, judging_of
from arbitrage.languages import families, table
from arbitrage.options import RuleOptions
from arbitrage.sourcecode import require_takes, source_digest

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arbitrage.choices import RoutingConfig
    from arbitrage.config import (
        ArbiterConfig,
        FuserConfig,
        RetryConfig,
        RunConfig,
        Served,
        TeacherConfig,
    )

FUSER = "fuser"
TWINS = {
    "candidates": ("teachers", "answers; change one (model, sampling, seed, system prompt)"),
    "scores": ("Arbiters", "scores; change one (model, template, options)"),
}
"""What two components of one kind and identity are called, and what they would give."""


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
    fuser = _fuser(config.fuser, config, family_of, known) if config.fuser else None
    judging = judging_of(config, {t.name: t.fingerprint for t in teachers}, family_of)
    arbiters = tuple(
        _arbiter(name, one, judging.languages(place), known)
        for place, (name, one) in enumerate(config.scorers.items())
    )
    _refuse_twins(arbiters)
    gates = Component(*_named("gates", "gates", gates_identity(config.gates)))
    judged = _judged(config, judging, arbiters, gates)
    retry = _after("retry", config, gates, config.retry.model_dump()) if config.retry else None
    fuse = _after("fuse", config, gates, {"fuser": fuser.fingerprint}) if fuser else None
    return Components(
        teachers,
        arbiters,
        _router(config, teachers, family_of, known),
        gates,
        _selector(config, judged, family_of),
        family_of,
        judging,
        tuple(_variant(one, config.retry) for one in teachers) if config.retry else (),
        fuser,
        retry,
        fuse,
    )


def _fuser(
    config: FuserConfig,
    run: RunConfig,
    family_of: Mapping[str, str],
    known: Mapping[str, str],
) -> Fuser:
    """Never the same as a teacher of its model."""
    asked = _teacher(FUSER, config, run, family_of, known)
    identity = {**asked.identity, "fuses": True}
    own = known.get(f"candidates/{FUSER}") or fingerprint(identity)
    return Fuser("candidates", FUSER, identity, own, config, asked.languages, run.seed)


def _router(
    config: RunConfig,
    teachers: tuple[Teacher, ...],
    family_of: Mapping[str, str],
    known: Mapping[str, str],
) -> Router:
    """Where its file is gone or another than it was, what is known of it stands."""
    name = config.routing.router
    from_file = getattr(config.routing, "file", None) is not None
    earlier = known.get(f"routes/{name}") if from_file else None
    try:
        found = _router_now(config, teachers, family_of)
    except ConfigError:
        if earlier is None:
            raise
        found = None
    if found is None or earlier not in (None, found.fingerprint):
        return Router("routes", name, {}, earlier or "", config.routing)
    return found


def _router_now(
    config: RunConfig, teachers: tuple[Teacher, ...], family_of: Mapping[str, str]
) -> Router:
    covers = {t.name: t.languages for t in teachers}
    names = {t.name: t.fingerprint for t in teachers}
    asked = frozenset().union(*covers.values())
    families = {code: family for code, family in sorted(family_of.items()) if code in asked}
    routing = resolved(config.routing, names, covers, families)
    identity = identity_of(routing, families)
    identity["coverage"] = {t.fingerprint: sorted(t.languages) for t in teachers}
    lag = routing.lag if isinstance(routing, AdaptiveRouting) else 0
    named = _named("routes", routing.router, identity)
    return Router(*named, routing, _rounds(routing, teachers), lag)


def _judged(
    config: RunConfig, judging: Judging, arbiters: tuple[Arbiter, ...], gates: Component
) -> dict[str, Any]:
    """What says which candidate could be chosen, and how good it is."""
    prints = [arbiter.fingerprint for arbiter in arbiters]
    return {
        "gates": sorted(config.gates.enforced()),
        "limits": config.gates.limits(),
        "measured": gates.fingerprint,
        "arbiter": prints[0],
        **judging.identity(prints),
    }


def _selector(
    config: RunConfig, judged: Mapping[str, Any], family_of: Mapping[str, str]
) -> Selector:
    rule = config.selection.rule
    identity = {**config.selection.identity(), "rule": rule, **judged, "families": family_of}
    return Selector(*_named("selected", rule, identity), chained=config.selection.chained)


def _after(name: str, config: RunConfig, gates: Component, identity: dict[str, Any]) -> Component:
    """A round after the router's: what it asks depends on what the gates say, not on rewards."""
    enforced = {"gates": sorted(config.gates.enforced()), "limits": config.gates.limits()}
    return Component(
        *_named("routes", name, {**identity, **enforced, "measured": gates.fingerprint})
    )


def _variant(teacher: Teacher, config: RetryConfig) -> Teacher:
    """A teacher as it is asked again; its own fingerprint makes its seeds fresh ones."""
    groups = tuple(
        group.model_copy(
            update={
                "max_tokens": math.ceil(group.max_tokens * config.budget),
                "temperature": group.temperature or config.temperature,
            }
        )
        for group in teacher.config.sampling
    )
    changed = teacher.config.model_copy(update={"sampling": groups})
    identity = {"teacher": teacher.fingerprint, "again": config.model_dump()}
    named = _named("candidates", f"{teacher.name}.retry", identity)
    return Teacher(*named, changed, teacher.languages, teacher.seed, teacher.fingerprint)


def _named(kind: str, name: str, identity: dict[str, Any]) -> tuple[str, str, dict[str, Any], str]:
    return kind, name, identity, fingerprint(identity)


def _teacher(
    name: str,
    config: TeacherConfig,
    run: RunConfig,
    family_of: Mapping[str, str],
    known: Mapping[str, str],
) -> Teacher:
    found = known.get(f"candidates/{name}")
    place = f"teachers.{name}"
    identity = teacher_identity(place, config, run.seed, look=not found)
    languages = coverage(place, config, family_of)
    own = found or fingerprint(identity)
    return Teacher("candidates", name, identity, own, config, languages, run.seed)


def teacher_identity(
    place: str, config: TeacherConfig, seed: int, *, look: bool = True
) -> dict[str, Any]:
    """What a model that answers is named by; `place` is where it stands in the config. Raises
    ConfigError for a local model that is not there, unless it is not to be looked at."""
    identity = config.identity() | (model_identity(place, config) if look else {})
    if any(group.temperature > 0 and group.seed is None for group in config.sampling):
        identity["run_seed"] = seed
    return identity


def _rounds(routing: RoutingConfig, teachers: tuple[Teacher, ...]) -> int:
    """How often a shard is routed: a cascade asks one teacher after the other."""
    if not isinstance(routing, CascadeRouting):
        return 1
    order = routing.order or tuple(t.fingerprint for t in teachers)
    asked = [t.languages for t in teachers if t.fingerprint in order]
    covered = frozenset().union(*asked)
    return max((sum(code in languages for languages in asked) for code in covered), default=1)


def _arbiter(
    name: str, config: ArbiterConfig, languages: frozenset[str] | None, known: Mapping[str, str]
) -> Arbiter:
    found = known.get(f"scores/{name}")
    identity = config.identity() | ({} if found else model_identity("arbiter", config))
    own = found or fingerprint(identity)
    return Arbiter("scores", name, identity, own, config, languages)


def model_identity(place: str, config: Served) -> dict[str, Any]:
    """A local folder is named by its content, so that moving it changes nothing. Raises
    ConfigError where it is not there."""
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
    if isinstance(config.options, RuleOptions):
        found["options"] = _rule_identity(place, config.options)
    return found


def _rule_identity(place: str, options: RuleOptions) -> dict[str, Any]:
    """A rule is named by its source too, so that changed code is another Arbiter."""
    try:
        require_takes(options.function, 2, options.arguments)
        return options.identity() | {"source": source_digest(options.function)}
    except ConfigError as error:
        raise ConfigError(f"{place}: {error}") from error


def coverage(place: str, config: TeacherConfig, family_of: Mapping[str, str]) -> frozenset[str]:
    """The codes of the languages that a model is asked in. Raises ConfigError for an unknown
    family."""
    if config.languages == "all":
        return frozenset(table())
    known = sorted(set(family_of.values()))
    for family in config.families:
        if family not in known:
            near = difflib.get_close_matches(family, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"families are {', '.join(known)}"
            raise ConfigError(f"{place}: unknown family {family!r}; {hint}")
    by_family = {code for code, family in family_of.items() if family in config.families}
    return frozenset(by_family | set(config.languages))


def _refuse_twins(parts: tuple[Component, ...]) -> None:
    seen: dict[str, str] = {}
    for part in parts:
        twin = seen.setdefault(part.fingerprint, part.name)
        if twin != part.name:
            what = TWINS[part.kind]
            raise ConfigError(
                f"{what[0]} {twin!r} and {part.name!r} would give the same {what[1]} or drop it"
            )
