"""What each teacher did in each language: completions asked for, tokens, errors, failed gates.

Reads candidates and what the gates go by, without their texts, shard by shard. It counts what is
there of the current components, in prompts that ended in quarantine too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.compute as pc

from arbitrage.columns import numbers
from arbitrage.gates import Rates, confusion_rates
from arbitrage.parts import languages_of
from arbitrage.records import GATES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import pyarrow as pa

    from arbitrage.config import RunConfig
    from arbitrage.plan import Lane, Planner, ShardState
    from arbitrage.store import Store

COUNTED = ["prompt_id", "prompt_tokens", "completion_tokens", "error"]
FACTS = [name for name in GATES.names if name != "sample"]


@dataclass
class Cell:
    """One teacher in one language. All are counts, so cells add up.

    `rates` are about those candidates that the gates were measured of.
    """

    completions: int = 0
    errors: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    rates: Rates = field(default_factory=Rates)

    def add(self, other: Cell) -> None:
        """Counts another one's too."""
        self.completions += other.completions
        self.errors += other.errors
        self.prompt_tokens += other.prompt_tokens
        self.completion_tokens += other.completion_tokens
        self.rates.add(other.rates)


@dataclass
class Cells:
    """By (teacher name, language code). `missing`: files of candidates that are not there, or that
    the gates were not measured of yet."""

    found: dict[tuple[str, str], Cell] = field(default_factory=dict)
    missing: int = 0

    def of(self, teacher: str | None = None, language: str | None = None) -> Cell:
        """The sum over all languages of a teacher, all teachers of a language, or all."""
        total = Cell()
        for (name, code), cell in self.found.items():
            if teacher in (None, name) and language in (None, code):
                total.add(cell)
        return total

    def add(self, teacher: str, told: Iterable[tuple[str, Cell]]) -> None:
        """Takes in a file of a teacher, by language."""
        for code, cell in told:
            self.found.setdefault((teacher, code), Cell()).add(cell)


def cells_of(
    store: Store, planner: Planner, shards: Iterable[ShardState], config: RunConfig
) -> Cells:
    """Adds up a whole run. A teacher that is asked again counts as itself."""
    cells = Cells()
    for shard in shards:
        prompts: pa.Table | None = None
        for lane in planner.lanes(shard):
            if not planner.is_done(lane.generate):
                cells.missing += 1
                continue
            cells.missing += not planner.is_done(lane.gate)
            if prompts is None:
                prompts = store.read(shard.path, ["prompt_id", "language"]).table.combine_chunks()
            cells.add(_name(planner, lane), _of_lane(store, planner, lane, prompts, config))
    return cells


def _name(planner: Planner, lane: Lane) -> str:
    asked = planner.components.teacher(lane.generate.variant or lane.generate.owner)
    return (planner.components.owner(asked.fingerprint) or asked).name


def _of_lane(
    store: Store, planner: Planner, lane: Lane, prompts: pa.Table, config: RunConfig
) -> Iterator[tuple[str, Cell]]:
    made = store.read(lane.generate.output, COUNTED).table
    yield from _counted(made, languages_of(made, prompts))
    if planner.is_done(lane.gate):
        facts = store.read(lane.gate.output, FACTS).table
        told = confusion_rates(
            facts, [""] * facts.num_rows, languages_of(facts, prompts), config.gates
        )
        yield from ((code, Cell(rates=rates)) for (_, code), rates in told.items())


def _counted(made: pa.Table, languages: pa.Array) -> Iterator[tuple[str, Cell]]:
    coded = languages.dictionary_encode()
    group = coded.indices.to_numpy()
    columns: list[Any] = [
        np.ones(len(group)),
        pc.is_valid(made["error"]).to_numpy(),
        numbers(made["prompt_tokens"]),
        numbers(made["completion_tokens"]),
    ]
    sums = [np.bincount(group, values) for values in columns]
    for place, code in enumerate(coded.dictionary.to_pylist()):
        completions, errors, asked, answered = (int(values[place]) for values in sums)
        yield code, Cell(completions, errors, asked, answered)
