"""A run in numbers: who won where, by how much, at what price, what was lost and why.

What the report, the leaderboard and the data card say is from here. Reads files only; every figure
is of all prompts, but for the two curves of `worth`, of which `CURVE_PROMPTS` are enough. Rewards
are those of the Arbiter that chose.

    python -c "from arbitrage.account import account; print(account('runs/first').as_dict())"
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from arbitrage import baselines, worth
from arbitrage.baselines import moments_of
from arbitrage.cells import Cell, Cells, cells_of
from arbitrage.costs import Cost, costs_of, unit_of
from arbitrage.distributions import LengthEffect, counted, edges_of
from arbitrage.factors import against_each, against_single, part_of
from arbitrage.results import LanguageResult, Results, told_beside
from arbitrage.spending import paid
from arbitrage.stats import Moments
from arbitrage.summary import Ledger, ledger_of
from arbitrage.views import look

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from arbitrage.components import Components
    from arbitrage.config import RunConfig
    from arbitrage.plan import Planner
    from arbitrage.store import Store
    from arbitrage.views import View

    Floats = NDArray[np.float64]
    Ints = NDArray[np.int64]

CURVE_PROMPTS = 200_000


class Rows(NamedTuple):
    """Every selected prompt: `language` (place in a list of codes), `reward`, `margin` and `owner`
    (place of the chosen teacher) are (prompts,); `alone` and `asked` (teachers, prompts)."""

    language: Ints
    reward: Floats
    margin: Floats
    owner: Ints
    alone: Floats
    asked: Ints


@dataclass(frozen=True)
class Single:
    """The one teacher that is best by itself in all languages, against choosing: `gain` is paired
    over the prompts that it can answer, of which choosing was `better` in so many; `unanswered` are
    the others. `times` is by unit what the run cost in what it alone would have, see `factors`."""

    name: str
    reward: Moments
    gain: Moments
    better: int
    unanswered: int
    times: dict[str, float]

    @property
    def relative(self) -> float | None:
        """The gain as a part of the teacher's own mean reward; none where that is not positive."""
        return self.gain.mean / self.reward.mean if self.reward.mean > 0 else None

    @property
    def in_deviations(self) -> float | None:
        """The gain in standard deviations of the teacher's own rewards."""
        deviation = self.reward.deviation
        return self.gain.mean / deviation if deviation > 0 else None


@dataclass
class Account:
    """All that is known of a run. `facts` says how it was made.

    `losses` are by teacher over all languages, `losses_in` by language. `drawn` and `thinned` are
    what fewer teachers would give, by `curve_prompts` of the prompts, evenly taken; `spread` holds
    the edges of reward bins and their counts.
    """

    run: str
    product: str
    facts: dict[str, Any]
    teachers: list[str]
    languages: list[LanguageResult]
    ledger: Ledger
    cells: Cells
    costs: list[Cost]
    losses: dict[str, worth.Loss]
    losses_in: dict[str, dict[str, worth.Loss]]
    margins: dict[tuple[str, str], Moments]
    single: Single | None
    drawn: list[worth.Point]
    thinned: list[worth.Point]
    curve_prompts: int
    spread: dict[str, Any]
    lengths: LengthEffect

    @property
    def unit(self) -> str:
        """By what costs are compared; see `costs.unit_of`."""
        return unit_of(cost for cost in self.costs if cost.stage == "generate")

    def as_dict(self) -> dict[str, Any]:
        """Plain data; nan stands where nothing is known."""
        return {
            "run": self.run,
            "product": self.product,
            "facts": self.facts,
            "teachers": self.teachers,
            "unit": self.unit,
            "ledger": asdict(self.ledger),
            "languages": [self._language(row) for row in self.languages],
            "all": told_beside(self.languages),
            "reward": _moments(self.reward),
            "single": None if self.single is None else _single(self.single),
            "times_each": self.times_each,
            "value": {name: loss.as_dict() for name, loss in self.losses.items()},
            "costs": [cost.as_dict() for cost in self.costs],
            "rates": {name: _cell(self.cells.of(teacher=name)) for name in self.teachers},
            "drawn": [asdict(point) for point in self.drawn],
            "thinned": [asdict(point) for point in self.thinned],
            "spread": self.spread,
            "lengths": self.lengths.as_dict(),
        }

    @property
    def reward(self) -> Moments:
        """Of everything that was chosen."""
        total = Moments()
        for row in self.languages:
            total.add(row.reward.count, row.reward.total, row.reward.squares)
        return total

    def _language(self, row: LanguageResult) -> dict[str, Any]:
        names = [name for name in self.teachers if (name, row.language) in self.cells.found]
        names += [name for name in row.teachers if name not in names]
        return {
            "language": row.language,
            "family": row.family,
            "prompts": row.prompts,
            "lost": self.ledger.by_language.get(row.language, {}),
            "reward": _moments(row.reward),
            "best_alone": row.best_alone,
            "fixed": row.fixed,
            **told_beside([row]),
            "rates": _cell(self.cells.of(language=row.language)),
            "teachers": {name: self._cell(row, name) for name in names},
        }

    def _cell(self, row: LanguageResult, name: str) -> dict[str, Any]:
        """One teacher in one language."""
        key = (name, row.language)
        told = row.teachers.get(name)
        loss = self.losses_in.get(row.language, {}).get(name)
        return {
            "won": told.wins if told else 0.0,
            "share": told.wins / row.prompts if told and row.prompts else 0.0,
            "alone": _moments(told.alone if told else Moments()),
            "gain": _moments(told.gain if told else Moments()),
            "margin": _moments(self.margins.get(key, Moments())),
            "value": loss.as_dict() if loss else None,
            **_cell(self.cells.found.get(key, Cell())),
            **self._cost_in(key),
        }

    def _cost_in(self, key: tuple[str, str]) -> dict[str, Any]:
        """A teacher's hours and money in one language."""
        cost = next((cost for cost in self.costs if cost.name == key[0]), None)
        part = part_of(self.cells, *key)
        if cost is None or part is None:
            return {"gpu_hours": None, "cpu_hours": None, "money": None}
        hours = {"gpu_hours": cost.gpu_hours * part, "cpu_hours": cost.cpu_hours * part}
        return {**hours, "money": cost.money * part}

    @property
    def times_each(self) -> dict[str, float]:
        """By unit what the run cost in what the best teacher of each language would have alone."""
        best = {row.language: row.best_alone for row in self.languages}
        return against_each(self.costs, self.cells, best)


def _moments(moments: Moments) -> dict[str, Any]:
    return {"mean": moments.mean, "interval": moments.half_width, "count": moments.count}


def _single(single: Single) -> dict[str, Any]:
    return {
        "name": single.name,
        "reward": _moments(single.reward),
        "gain": _moments(single.gain),
        "relative": single.relative,
        "in_deviations": single.in_deviations,
        "better": single.better,
        "unanswered": single.unanswered,
        "times": single.times,
    }


def _cell(cell: Cell) -> dict[str, Any]:
    return {
        "completions": cell.completions,
        "errors": cell.errors,
        "prompt_tokens": cell.prompt_tokens,
        "completion_tokens": cell.completion_tokens,
        "measured": cell.rates.candidates,
        "failed": dict(cell.rates.failed),
        "line_level": cell.rates.line_level,
        "word_level": cell.rates.word_level,
    }


def account(place: Path | str) -> Account:
    """Adds up a run. Raises UsageError where there is none."""
    return of_view(look(place))


def of_view(view: View) -> Account:
    """The same of a run that is looked at already."""
    store, components, planner, shards, config = view
    results, lengths, rows = _gathered(store, components, planner, config)
    cells = cells_of(store, planner, shards, config)
    codes = sorted(results.languages)
    names = results.names
    costs = costs_of(store, components, paid(store, planner.listing))
    few = slice(None, None, max(1, len(rows.reward) // CURVE_PROMPTS))
    alone, asked = rows.alone[:, few], rows.asked[:, few]
    return Account(
        run=store.address(),
        product=store.address(planner.folder_of(components.selector)),
        facts=_facts(store, components, config),
        teachers=names,
        languages=[results.languages[code] for code in codes],
        ledger=ledger_of(store, planner, planner.product),
        cells=cells,
        costs=costs,
        losses=worth.losses(names, rows.reward, rows.owner, rows.alone),
        losses_in={
            code: worth.losses(names, *_in(rows, rows.language == place))
            for place, code in enumerate(codes)
        },
        margins=_margins(names, codes, rows),
        single=_single_of(names, results, rows, costs),
        drawn=worth.drawn(alone, asked),
        thinned=worth.thinned(names, alone, asked),
        curve_prompts=alone.shape[1],
        spread=_spread(names, codes, rows),
        lengths=lengths,
    )


def _in(rows: Rows, mine: NDArray[np.bool_]) -> tuple[Floats, Ints, Floats]:
    return rows.reward[mine], rows.owner[mine], rows.alone[:, mine]


def _gathered(
    store: Store, components: Components, planner: Planner, config: RunConfig
) -> tuple[Results, LengthEffect, Rows]:
    """Everything that the product tells, shard by shard."""
    results = Results(components, set(config.gates.enforced()))
    lengths = LengthEffect()
    parts: list[tuple[Any, ...]] = []
    for path in planner.product:
        shard = results.add(store.read(path, columns=baselines.COLUMNS).table)
        chosen = baselines.is_chosen(shard.answers, shard.owner, shard.sample)
        lengths.add(shard.answers, chosen, len(shard.reward))
        parts.append((shard.language, *shard[1:4], shard.alone, shard.asked))
    results.settle()
    teachers = len(results.names)
    empty = np.zeros((teachers, 0))
    nothing = (np.zeros(0, str), np.zeros(0), np.zeros(0), np.zeros(0, np.int64), empty, empty)
    columns = [
        np.concatenate(column, axis=-1) for column in zip(*(parts or [nothing]), strict=True)
    ]
    codes = sorted(results.languages)
    language = np.searchsorted(np.array(codes, str), columns[0].astype(str))
    return results, lengths, Rows(language, *columns[1:])


def _margins(
    names: Sequence[str], codes: Sequence[str], rows: Rows
) -> dict[tuple[str, str], Moments]:
    """By (teacher, language) the margins with which its answers were chosen."""
    return {
        (name, code): moments_of(rows.margin[(rows.owner == number) & (rows.language == place)])
        for number, name in enumerate(names)
        for place, code in enumerate(codes)
    }


def _single_of(
    names: Sequence[str], results: Results, rows: Rows, costs: Sequence[Cost]
) -> Single | None:
    """None where no teacher has answers in every language."""
    able = [name for name in names if all(name in r.singles for r in results.languages.values())]
    if not able or not len(rows.reward):
        return None
    means = {name: moments_of(rows.alone[names.index(name)]).mean for name in able}
    name = max(able, key=lambda name: (means[name], name))
    mine = rows.alone[names.index(name)]
    gain = rows.reward - mine
    asked = int((rows.asked[names.index(name)] > 0).sum())
    return Single(
        name,
        moments_of(mine),
        moments_of(gain),
        int((gain > 0).sum()),
        int(np.isnan(mine).sum()),
        against_single(costs, name, asked / len(mine)),
    )


def _spread(names: Sequence[str], codes: Sequence[str], rows: Rows) -> dict[str, Any]:
    """Histograms of the rewards of each teacher's best answers, and of those that were chosen."""
    edges = edges_of(rows.alone.ravel())
    told: dict[str, Any] = {"edges": edges.tolist(), "selected": {}, "teachers": {}}
    for place, code in enumerate(codes):
        mine = rows.language == place
        told["selected"][code] = counted(rows.reward[mine], edges)
        for number, name in enumerate(names):
            counts = counted(rows.alone[number, mine], edges)
            if any(counts):
                told["teachers"].setdefault(name, {})[code] = counts
    return told


def _facts(store: Store, components: Components, config: RunConfig) -> dict[str, Any]:
    """How the run was made, as far as a reader of its figures has to know."""
    ended = [event["time"] for event in store.events() if event["event"] == "run_ended"]
    told = store.read_json("run.json")
    return {
        "version": told.get("version"),
        "fingerprint": components.fingerprint,
        "ended": datetime.fromtimestamp(ended[-1], UTC).isoformat(timespec="minutes")
        if ended
        else None,
        "seed": config.seed,
        "arbiters": {
            part.name: {"model": part.config.model, "engine": part.config.engine}
            for part in components.arbiters
        },
        "teachers": {
            part.name: {
                "model": part.config.model,
                "engine": part.config.engine,
                "license": part.config.license,
                "for_training": part.config.for_training,
                "samples": part.samples,
            }
            for part in components.answering
        },
        "router": config.routing.router,
        "selector": config.selection.rule,
        "gates": list(config.gates.enforced()),
        "remarks": components.remarks,
    }
