"""What a run holds: who won where, what it gained, and the ledger. Reads files only."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from arbitrage import baselines
from arbitrage.costs import Cost, costs_of
from arbitrage.plan import quarantine_of
from arbitrage.prompts import MEMO
from arbitrage.results import LanguageResult, Results, told_beside
from arbitrage.spending import paid
from arbitrage.usage import total_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from arbitrage.components import Components
    from arbitrage.plan import Planner, Task
    from arbitrage.store import Store
    from arbitrage.usage import Usage

LIMITED = ("below_threshold", "over_quota", "over_teacher_share", "no_pair")
"""Reasons for which prompts with usable answers are left out."""


@dataclass
class Ledger:
    """prompts = selected + quarantined + unfinished; and, per source, rows = accepted + refused.

    `by_language` has the quarantined prompts by language and reason.
    """

    rows_read: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    contradicted: dict[str, int] = field(default_factory=dict)
    prompts: int = 0
    selected: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)
    unfinished: int = 0
    by_language: dict[str, dict[str, int]] = field(default_factory=dict)

    @property
    def lost(self) -> int:
        """Rows that are in quarantine."""
        return sum(self.refused.values()) + sum(self.quarantined.values())


@dataclass
class Summary:
    """Everything that the end of a run reports.

    `unusable`: teachers none of whose answers could be selected, once the run is complete. `budget`
    maps what is limited to (spent, limit); `held` counts the prompts of the shards that it keeps
    from being complete. `set_aside` names the roles that this call gave up, and why.
    """

    run: str
    product: str
    languages: list[LanguageResult]
    teachers: list[str]
    ledger: Ledger
    gates: dict[str, dict[str, int]]
    errors: dict[str, int]
    unusable: list[str]
    given_up: dict[str, str]
    stopped: bool
    spent: list[Cost] = field(default_factory=list)
    budget: dict[str, tuple[float, float]] = field(default_factory=dict)
    held: int = 0
    set_aside: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`; means instead of moments."""
        rows = [
            {
                "language": row.language,
                "family": row.family,
                "prompts": row.prompts,
                "reward": row.reward.mean,
                "best_alone": row.best_alone,
                "teachers": {
                    name: {
                        "wins": r.wins,
                        "alone": _number(r.alone.mean),
                        "gain": _number(r.gain.mean),
                    }
                    for name, r in row.teachers.items()
                },
                "fixed": row.fixed,
                **told_beside([row]),
            }
            for row in self.languages
        ]
        return {**asdict(self), "languages": rows, **told_beside(self.languages)}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else value


def of_run(
    store: Store,
    components: Components,
    planner: Planner,
    given_up: dict[Task, str],
    *,
    stopped: bool,
    held: int = 0,
    set_aside: Mapping[str, str] | None = None,
    limits: Mapping[str, float] | None = None,
) -> Summary:
    """Sums up the current product, shard by shard, and what the whole run directory has spent."""
    results = Results(components, set(store_gates(store)))
    folder = planner.folder_of(components.selector)
    files = planner.product
    for path in files:
        results.add(store.read(path, columns=baselines.COLUMNS).table)
    results.settle()
    usages = paid(store, planner.listing)
    ledger = ledger_of(store, planner, files)
    complete = not (given_up or stopped or ledger.unfinished)
    return Summary(
        run=store.address(),
        product=store.address(folder),
        languages=sorted(results.languages.values(), key=lambda row: row.language),
        teachers=[teacher.name for teacher in components.answering],
        ledger=ledger,
        gates={name: dict(counts) for name, counts in results.gates.items()},
        errors=dict(results.errors),
        unusable=_unusable(components, planner, results, ledger) if complete else [],
        given_up={f"{task.stage} {task.output}": why for task, why in given_up.items()},
        stopped=stopped,
        spent=costs_of(store, components, usages),
        budget=against(limits or {}, usages),
        held=held,
        set_aside=dict(set_aside or {}),
    )


def against(
    limits: Mapping[str, float], usages: Mapping[str, Usage]
) -> dict[str, tuple[float, float]]:
    """(spent, limit) of everything that is limited."""
    spent = total_of(usages.values()).measured()
    return {name: (spent[name], limit) for name, limit in limits.items()}


def _unusable(
    components: Components, planner: Planner, results: Results, ledger: Ledger
) -> list[str]:
    """A prompt with a usable answer is selected: so the product alone knows who gave one. Where
    quotas and the like leave such prompts out, nobody is named."""
    if any(reason in ledger.quarantined for reason in LIMITED):
        return []
    folders = {path.rpartition("/")[0] for path in planner.listing.files}
    asked = [t.name for t in components.answering if planner.folder_of(t) in folders]
    usable = {name for row in results.languages.values() for name in row.teachers}
    return [name for name in asked if name not in usable]


def store_gates(store: Store) -> tuple[str, ...]:
    """The gates that the run enforces, from its resolved config."""
    told = (store.read_json("run.json") or {}).get("config", {}).get("gates", {})
    return tuple(name for name, on in told.items() if on)


def ledger_of(store: Store, planner: Planner, files: Sequence[str]) -> Ledger:
    """What went in and what came of it; `files` are the product's."""
    ledger = Ledger()
    refused: Counter[str] = Counter()
    contradicted: Counter[str] = Counter()
    for tally in (store.read_json(MEMO) or {}).values():
        ledger.rows_read += tally["rows"]
        refused.update(tally["refused"])
        contradicted.update(tally["contradicted"])
    prompts = [path for path in planner.listing.files if path.startswith("prompts/")]
    ledger.prompts = sum(note["rows"] for note in store.footers(prompts).values())
    lost: Counter[tuple[str, str]] = Counter()
    for path in files:
        note = store.footer(path)
        ledger.selected += note.get("selected", note["rows"])  # older files have a row per prompt
        if note["quarantined"]:
            aside = store.read(quarantine_of(path), columns=["language", "reason"]).table
            lost.update(zip(*(column.to_pylist() for column in aside.columns), strict=True))
    for (language, reason), count in sorted(lost.items()):
        ledger.by_language.setdefault(language, {})[reason] = count
        ledger.quarantined[reason] = ledger.quarantined.get(reason, 0) + count
    ledger.refused, ledger.contradicted = dict(refused), dict(contradicted)
    ledger.unfinished = ledger.prompts - ledger.selected - sum(lost.values())
    return ledger
