"""Lets the merges of a sweep take part in a run or a win-rate evaluation, whose config is extended
in memory: what was answered, scored or judged there is kept, whatever a model is called.

A model that takes part already under another name is found by its identity, and is not asked again.
A merge whose folder was removed is known by the content that it had; its answers are there.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arbitrage import baselines, configfile, pipeline, prompts
from arbitrage.config import RunConfig, TeacherConfig
from arbitrage.configfile import load, raw_config, validated
from arbitrage.errors import ArbitrageError, ConfigError, Stopped
from arbitrage.identity import fingerprint
from arbitrage.languages import families
from arbitrage.merging.outcome import Rewards
from arbitrage.plan import read_state
from arbitrage.resolve import coverage, model_identity, resolve, teacher_identity
from arbitrage.results import Results
from arbitrage.store import Store
from arbitrage.summary import store_gates
from arbitrage.views import open_run
from arbitrage.winrate import evaluation, loading
from arbitrage.winrate.config import AnsweringModel, WinrateConfig
from arbitrage.winrate.contest import contest_of
from arbitrage.winrate.loading import load_winrate

if TYPE_CHECKING:
    import threading
    from collections.abc import Collection, Mapping, Sequence

    from arbitrage.merging.outcome import Figures
    from arbitrage.merging.sweep_config import EvaluateConfig
    from arbitrage.progress import Progress
    from arbitrage.summary import Summary
    from arbitrage.winrate.evaluation import Evaluation
    from arbitrage.winrate.results import Results as WinRates

STAND_IN = "model"
SUFFIX = ".sweep"
"""Behind the name of a model where the config has another of that name."""
NOTE = "\n# `arbitrage merge sweep` has added models to this config.\n"


@dataclass(frozen=True)
class Entered:
    """An evaluation's config with the models of a sweep in it. `names` maps what the sweep calls a
    model to its name there; `known` holds fingerprints of those whose folder is gone."""

    loaded: configfile.Loaded | loading.Loaded
    names: dict[str, str]
    known: dict[str, str]

    @property
    def is_run(self) -> bool:
        """Whether an Arbiter scores; else judges compare."""
        return isinstance(self.loaded, configfile.Loaded)

    @property
    def place(self) -> str:
        """Where the run or the evaluation is."""
        config = self.loaded.config
        return config.run if isinstance(config, RunConfig) else config.evaluation

    @property
    def models(self) -> dict[str, TeacherConfig]:
        """All models that answer there with an engine, by the names there."""
        config = self.loaded.config
        if isinstance(config, RunConfig):
            return dict(config.teachers)
        found = config.models.items()
        return {name: one for name, one in found if isinstance(one, AnsweringModel)}

    def fingerprint_of(self, model: TeacherConfig, content: str | None = None) -> str:
        """What names a model's answers; given the content of its folder, that is not looked at."""
        seed = self.loaded.config.seed
        identity = teacher_identity("evaluate.as", model, seed, look=content is None)
        if content is not None:
            bare = model.model_copy(update={"model": None})
            identity |= model_identity("evaluate.as", bare) | {"model": {"content": content}}
        return fingerprint(identity)


def entered(evaluate: EvaluateConfig, models: Mapping[str, str]) -> Entered:
    """The evaluation's config with models by name, each a folder or a hub name.

    Raises ConfigError, one sentence per mistake.
    """
    path = Path(evaluate.run or evaluate.winrate or "")
    key = "teachers" if evaluate.run else "models"
    served = _served(evaluate)
    raw, _ = raw_config(path, (), "")
    own = raw.get(key)
    taken = set(own if isinstance(own, dict) else ())
    for more in ("judges", "arbiters"):
        taken |= set(raw[more] if isinstance(raw.get(more), dict) else ())
    names = _names(models, taken)
    blocks = {names[name]: {**served, "model": model} for name, model in models.items()}
    if evaluate.run:
        run = load(path, teachers=blocks)
        return Entered(run._replace(text=run.text + NOTE), names, {})
    found = load_winrate(path, models=blocks)
    return Entered(found._replace(text=found.text + NOTE), names, {})


def _served(evaluate: EvaluateConfig) -> dict[str, Any]:
    """The block of every model but for the model. Raises ConfigError where it is not valid."""
    served = dict(evaluate.served)
    if "languages" not in served and "families" not in served:
        served["languages"] = "all"
    kind = TeacherConfig if evaluate.run else AnsweringModel
    validated(kind, {**served, "model": STAND_IN}, "evaluate.as")
    return served


def _names(models: Mapping[str, str], taken: set[str]) -> dict[str, str]:
    """A name there for each model, its own if it is free."""
    found: dict[str, str] = {}
    for name in models:
        free, number = name, 1
        while free in taken | set(found.values()):
            free = f"{name[:56]}{SUFFIX}{number if number > 1 else ''}"
            number += 1
        found[name] = free
    return found


def settled(entry: Entered, contents: Mapping[str, str]) -> Entered:
    """The same once all merges are there: a model that is there twice answers once, in all that
    either is asked in. `contents` are those of folders that were removed, by the sweep's names."""
    removed = {entry.names[name]: content for name, content in contents.items()}
    added = set(entry.names.values())
    models = entry.models
    first: dict[str, str] = {}
    twins: dict[str, str] = {}
    known: dict[str, str] = {}
    for name in sorted(models, key=lambda one: one in added):
        print_ = entry.fingerprint_of(models[name], removed.get(name))
        if name in removed:
            known[f"candidates/{name}"] = print_
        if first.setdefault(print_, name) != name and name in added:
            twins[name] = first[print_]
    if not twins:
        return replace(entry, known=known)
    names = {name: twins.get(there, there) for name, there in entry.names.items()}
    known = {key: one for key, one in known.items() if key.partition("/")[2] not in twins}
    return Entered(_without(entry.loaded, twins), names, known)


def without(entry: Entered, names: Collection[str]) -> Entered:
    """The same without some models of the sweep."""
    gone = {entry.names[name]: "" for name in names}
    left = {name: there for name, there in entry.names.items() if name not in names}
    return replace(entry, loaded=_without(entry.loaded, gone), names=left)


def _without(
    loaded: configfile.Loaded | loading.Loaded, twins: Mapping[str, str]
) -> configfile.Loaded | loading.Loaded:
    """Without some models; those that take their place are asked in as many languages."""
    if isinstance(loaded, configfile.Loaded):
        run = loaded.config.teachers
        teachers = {name: one for name, one in run.items() if name not in twins}
        for gone, kept in twins.items():
            if kept:
                asked = {key: getattr(run[gone], key) for key in ("languages", "families")}
                teachers[kept] = teachers[kept].model_copy(update=asked)
        return loaded._replace(config=loaded.config.model_copy(update={"teachers": teachers}))
    models = {name: one for name, one in loaded.config.models.items() if name not in twins}
    return loaded._replace(config=loaded.config.model_copy(update={"models": models}))


def check(entry: Entered, absent: Collection[str]) -> None:
    """Looks for what would keep the evaluation from beginning: engines, prompts, models, of which
    some are still to be merged. Raises UsageError; writes nothing."""
    config = entry.loaded.config
    store = pipeline.opened(entry.place, config)
    there = settled(without(entry, absent), {}).loaded.config
    if isinstance(there, WinrateConfig):
        if len(there.models) > 1:
            contest = contest_of(there)
            prompts.survey(prompts.find(there.questions, contest.covered, store))
        return
    if there.teachers:
        resolve(there)
    try:
        family_of = families(there.families)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    asked = [coverage(name, model, family_of) for name, model in entry.models.items()]
    prompts.survey(prompts.find(there.prompts, frozenset().union(*asked), store))


def answered(entry: Entered, contents: Mapping[str, str]) -> frozenset[str]:
    """Who of some models of the sweep has answered there, by the content of their folders."""
    folders = Store(entry.place).listing().folders
    models = entry.models
    return frozenset(
        name
        for name, content in contents.items()
        if ("candidates", entry.fingerprint_of(models[entry.names[name]], content)) in folders
    )


def evaluate_all(
    entry: Entered, progress: Progress, stop: threading.Event
) -> tuple[WinRates | None, list[str]]:
    """Runs the evaluation over all: win rates if it is one, and sentences on what keeps it from
    being whole. Raises Stopped where it was told to stop, or its budget is spent."""
    if isinstance(entry.loaded, configfile.Loaded):
        told = pipeline.run(entry.loaded, progress, stop, strict=False, known=entry.known)
        return None, _incomplete(told)
    found = evaluation.run(entry.loaded, progress, stop, known=entry.known)
    problems = _incomplete(found)
    if found.results is None:
        raise ArbitrageError("no game could be played: no question has two answers")
    return found.results, problems


def rewards_of(entry: Entered, references: Sequence[str]) -> dict[str, Figures]:
    """Figures of all models of the sweep, from the product of the run: each one's rewards alone,
    and paired by prompt with those of some of them."""
    store, components = open_run(entry.place)
    planner, _ = read_state(components, store)
    results = Results(components, set(store_gates(store)))
    rows = [results.names.index(there) for there in entry.names.values()]
    rewards = Rewards([*entry.names], references)
    for path in planner.product:
        made = results.add(store.read(path, columns=baselines.COLUMNS).table)
        rewards.add(made.alone[rows], made.language)
    return rewards.figures()


def _incomplete(found: Summary | Evaluation) -> list[str]:
    """What was given up. Raises Stopped where it is to be gone on with."""
    if found.stopped:
        raise Stopped("stopped on request; the same command goes on from here")
    if found.held:
        raise Stopped(
            f"the budget of the evaluation does not pay for the next shard; {found.held:,} prompts "
            "are unfinished; raise `budget:` and the same command goes on"
        )
    told = [f"{name} was set aside: {why}" for name, why in found.set_aside.items()]
    if found.given_up:
        why = next(iter(found.given_up.values()))
        told.append(
            f"the evaluation is not complete: {len(found.given_up)} steps failed for good ({why}); "
            "mend the cause, and the same command goes on"
        )
    return told
