"""What a run holds: who won where, what it gained, and the ledger. Reads files only.

The gain of a language is paired: per prompt, the chosen reward minus the best reward of one teacher
alone, against the teacher that is best there by itself. So it is zero when one teacher would do.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arbitrage.plan import paid, quarantine_of
from arbitrage.prompts import MEMO
from arbitrage.stats import Moments
from arbitrage.usage import Usage, total_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from arbitrage.components import Components
    from arbitrage.plan import Planner, Task
    from arbitrage.store import Store

COLUMNS = ["language", "teacher_fingerprint", "reward", "candidates"]


@dataclass
class TeacherResult:
    """One teacher in one language: prompts won, its own best rewards, and what choosing adds."""

    wins: int = 0
    alone: Moments = field(default_factory=Moments)
    gain: Moments = field(default_factory=Moments)


@dataclass
class LanguageResult:
    """One language of the product, by teacher name."""

    language: str
    family: str
    prompts: int = 0
    reward: Moments = field(default_factory=Moments)
    teachers: dict[str, TeacherResult] = field(default_factory=dict)

    @property
    def best_alone(self) -> str | None:
        """The teacher with the highest mean reward by itself."""
        answered = [name for name, result in self.teachers.items() if result.alone.count]
        return max(answered, key=lambda name: (self.teachers[name].alone.mean, name), default=None)


@dataclass
class Ledger:
    """prompts = selected + quarantined + unfinished; and, per source, rows = accepted + refused."""

    rows_read: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    contradicted: dict[str, int] = field(default_factory=dict)
    prompts: int = 0
    selected: int = 0
    quarantined: dict[str, int] = field(default_factory=dict)
    unfinished: int = 0

    @property
    def lost(self) -> int:
        """Rows that are in quarantine."""
        return sum(self.refused.values()) + sum(self.quarantined.values())


@dataclass
class Spending:
    """What a teacher or the Arbiter has spent in this run directory, in this call and earlier ones.

    `stage` is generate or score, or none for all those that the config no longer has.
    """

    name: str
    stage: str
    usage: Usage


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
    spent: list[Spending] = field(default_factory=list)
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
            }
            for row in self.languages
        ]
        return {**asdict(self), "languages": rows}


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
    tables = _Tables(components, set(store_gates(store)))
    folder = planner.folder_of(components.selector)
    files = sorted(path for path in planner.listing.files if path.startswith(f"{folder}/"))
    for path in files:
        tables.add(store.read(path, columns=COLUMNS).table)
    usages = paid(store, planner.listing)
    ledger = _ledger(store, planner, files)
    complete = not (given_up or stopped or ledger.unfinished)
    return Summary(
        run=store.address(),
        product=store.address(folder),
        languages=sorted(tables.languages.values(), key=lambda row: row.language),
        teachers=[teacher.name for teacher in components.teachers],
        ledger=ledger,
        gates={name: dict(counts) for name, counts in tables.gates.items()},
        errors=dict(tables.errors),
        unusable=_unusable(components, planner, tables) if complete else [],
        given_up={f"{task.stage} {task.output}": why for task, why in given_up.items()},
        stopped=stopped,
        spent=_spending(components, usages),
        budget=against(limits or {}, usages),
        held=held,
        set_aside=dict(set_aside or {}),
    )


def _spending(components: Components, usages: Mapping[str, Usage]) -> list[Spending]:
    told = [
        Spending(t.name, "generate", usages.get(t.fingerprint, Usage()))
        for t in components.teachers
    ]
    arbiter = components.arbiter
    told.append(Spending(arbiter.name, "score", usages.get(arbiter.fingerprint, Usage())))
    known = {arbiter.fingerprint, *(teacher.fingerprint for teacher in components.teachers)}
    others = total_of(usage for owner, usage in sorted(usages.items()) if owner not in known)
    return [*told, Spending("no longer in the config", "", others)] if others.requests else told


def against(
    limits: Mapping[str, float], usages: Mapping[str, Usage]
) -> dict[str, tuple[float, float]]:
    """(spent, limit) of everything that is limited."""
    spent = total_of(usages.values()).measured()
    return {name: (spent[name], limit) for name, limit in limits.items()}


def _unusable(components: Components, planner: Planner, tables: _Tables) -> list[str]:
    """A prompt with a usable answer is selected: so the product alone knows who gave one."""
    folders = {path.rpartition("/")[0] for path in planner.listing.files}
    asked = [t.name for t in components.teachers if planner.folder_of(t) in folders]
    usable = {name for row in tables.languages.values() for name in row.teachers}
    return [name for name in asked if name not in usable]


def store_gates(store: Store) -> tuple[str, ...]:
    """The gates that the run enforces, from its resolved config."""
    told = (store.read_json("run.json") or {}).get("config", {}).get("gates", {})
    return tuple(name for name, on in told.items() if on)


class _Tables:
    """Adds up shards of the product, language by language and teacher by teacher."""

    def __init__(self, components: Components, enforced: set[str]) -> None:
        self._prints = [teacher.fingerprint for teacher in components.teachers]
        self._names = [teacher.name for teacher in components.teachers]
        self._families = components.families
        self._enforced = pa.array(sorted(enforced), pa.string())
        self.languages: dict[str, LanguageResult] = {}
        self.gates: dict[str, Counter[str]] = defaultdict(Counter)
        self.errors: Counter[str] = Counter()

    def add(self, table: pa.Table) -> None:
        """Takes in one shard."""
        if not table.num_rows:
            return
        reward = table["reward"].to_numpy()
        alone = self._best_alone(table["candidates"].combine_chunks(), table.num_rows)
        winner = table["teacher_fingerprint"].to_numpy()
        language = table["language"].to_numpy()
        for code in sorted(set(language.tolist())):
            rows = language == code
            self._add_language(code, reward[rows], alone[:, rows], winner[rows])

    def _best_alone(self, candidates: pa.ListArray, prompts: int) -> NDArray[np.float64]:
        """(teachers, prompts): each teacher's best reward that could have been chosen, or nan."""
        flat = candidates.flatten()
        prompt = pc.list_parent_indices(candidates).to_numpy()
        owner = pc.index_in(flat.field("teacher_fingerprint"), pa.array(self._prints))
        teacher = owner.to_numpy(zero_copy_only=False).astype(float)
        reward = flat.field("reward").to_numpy(zero_copy_only=False).astype(float)
        fails = np.zeros(len(flat), dtype=bool)
        gates = flat.field("gates")
        hits = pc.is_in(gates.flatten(), self._enforced).to_numpy(zero_copy_only=False)
        parents = pc.list_parent_indices(gates).to_numpy()
        fails[parents[hits]] = True
        self._count_gates(teacher, parents, gates)
        without = teacher[flat.field("error").is_valid().to_numpy(zero_copy_only=False)]
        self.errors.update(self._names[int(owner)] for owner in without if not np.isnan(owner))
        usable = ~np.isnan(reward) & ~fails & ~np.isnan(teacher)
        best = np.full((len(self._prints), prompts), -np.inf)
        np.maximum.at(best, (teacher[usable].astype(int), prompt[usable]), reward[usable])
        best[np.isinf(best)] = np.nan
        return best

    def _count_gates(self, teacher: Any, parents: Any, gates: pa.ListArray) -> None:
        names = gates.flatten().to_pylist()
        for owner, gate in zip(teacher[parents].tolist(), names, strict=True):
            if not np.isnan(owner):
                self.gates[self._names[int(owner)]][gate] += 1

    def _add_language(self, code: str, reward: Any, alone: Any, winner: Any) -> None:
        row = self.languages.setdefault(code, LanguageResult(code, self._families[code]))
        row.prompts += len(reward)
        row.reward.add(*_moments(reward))
        for number, name in enumerate(self._names):
            answered = ~np.isnan(alone[number])
            if not answered.any():
                continue
            result = row.teachers.setdefault(name, TeacherResult())
            result.wins += int((winner == self._prints[number]).sum())
            result.alone.add(*_moments(alone[number][answered]))
            result.gain.add(*_moments((reward - alone[number])[answered]))


def _moments(values: Any) -> tuple[int, float, float]:
    return len(values), float(values.sum()), float((values**2).sum())


def _ledger(store: Store, planner: Planner, files: list[str]) -> Ledger:
    ledger = Ledger()
    refused: Counter[str] = Counter()
    contradicted: Counter[str] = Counter()
    for tally in (store.read_json(MEMO) or {}).values():
        ledger.rows_read += tally["rows"]
        refused.update(tally["refused"])
        contradicted.update(tally["contradicted"])
    prompts = [path for path in planner.listing.files if path.startswith("prompts/")]
    ledger.prompts = sum(note["rows"] for note in store.footers(prompts).values())
    lost: Counter[str] = Counter()
    for path in files:
        note = store.footer(path)
        ledger.selected += note["rows"]
        if note["quarantined"]:
            lost.update(
                store.read(quarantine_of(path), columns=["reason"]).table["reason"].to_pylist()
            )
    ledger.refused, ledger.quarantined = dict(refused), dict(lost)
    ledger.contradicted = dict(contradicted)
    ledger.unfinished = ledger.prompts - ledger.selected - sum(lost.values())
    return ledger
