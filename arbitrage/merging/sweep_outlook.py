"""What a sweep would merge, write and ask; starts nothing and writes nothing."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from arbitrage.configfile import Loaded
from arbitrage.merging.evaluating import settled, without
from arbitrage.merging.preflight import examine
from arbitrage.merging.sweep import planned, reasons_of
from arbitrage.preview import preview
from arbitrage.winrate.outlook import outlook

if TYPE_CHECKING:
    from arbitrage.merging import sweep_config
    from arbitrage.merging.evaluating import Entered
    from arbitrage.merging.points import Point
    from arbitrage.merging.sweep import Planned

THERE, MISSING, REMOVED, REFUSED = "there", "to be merged", "removed", "would be refused"


@dataclass(frozen=True)
class PointOutlook:
    """One point: what it is, where it lies or will lie, and what it takes there; `reasons`: why it
    would be refused."""

    name: str
    method: str
    varied: dict[str, Any]
    state: str
    folder: str
    size_bytes: int
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class SweepOutlook:
    """What is left. `asked`: requests that are left of models that are there, by stage;
    `prompts`: those that every model to come will be asked about, none where nobody knows. `pairs`:
    of models that will meet, none where an Arbiter scores. `others`: folders of merges that are no
    points of the grid."""

    points: tuple[PointOutlook, ...]
    beside: dict[str, str]
    write_bytes: int
    free_bytes: int
    evaluation: str
    asked: dict[str, int]
    prompts: int | None
    unit: str
    pairs: int | None
    others: tuple[str, ...] = ()

    @property
    def coming(self) -> int:
        """Models whose merge is to come."""
        return sum(one.state == MISSING for one in self.points)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for `--json`."""
        return {**asdict(self), "to_be_merged": self.coming}


def outlook_of(loaded: sweep_config.Loaded) -> SweepOutlook:
    """Looks at headers, folders and the evaluation's store. Raises UsageError as the sweep does."""
    plan = planned(loaded)
    points = tuple(_point(plan, point) for point in plan.points)
    absent = [one.name for one in points if one.state != THERE]
    there = settled(without(plan.entry, absent), {})
    asked, prompts = _asked(there)
    size = sum(one.size_bytes for one in points if one.state == MISSING)
    unit = "prompts" if there.is_run else "questions"
    place = plan.entry.place
    return SweepOutlook(
        *(points, plan.beside, size, plan.free_bytes, place, asked, prompts, unit),
        pairs=_pairs(plan.entry, sum(one.state == REFUSED for one in points)),
        others=tuple(map(str, plan.others)),
    )


def _pairs(entry: Entered, refused: int) -> int | None:
    """How many pairs of models will meet: all with the baseline, or each with each."""
    if isinstance(entry.loaded, Loaded):
        return None
    count = len(entry.loaded.config.models) - refused
    return count - 1 if entry.loaded.config.baseline else count * (count - 1) // 2


def _point(plan: Planned, point: Point) -> PointOutlook:
    reasons: list[str] = []
    if plan.is_there(point):
        state = THERE
    elif point.name in plan.gone:
        state = REMOVED
    else:
        checkpoints = plan.models.checkpoints(point.config)
        reasons = reasons_of(examine(point.config, checkpoints, plan.places[point.name]))
        state = REFUSED if reasons else MISSING
    place, size = str(plan.places[point.name]), plan.size_of(point)
    told = (point.name, point.config.method, point.varied, state, place, size)
    return PointOutlook(*told, tuple(reasons))


def _asked(entry: Entered) -> tuple[dict[str, int], int | None]:
    """Requests that are left by stage, and the prompts; of models that are there."""
    asked: Counter[str] = Counter()
    if isinstance(entry.loaded, Loaded):
        if not entry.loaded.config.teachers:
            return {}, None
        found = preview(entry.loaded.config)
        for role in found.roles:
            asked[role.stage] += role.requests
        return {stage: count for stage, count in asked.items() if count}, (
            found.prompts + found.new_prompts
        )
    if len(entry.loaded.config.models) < 2:
        return {}, None
    told = outlook(entry.loaded.config, again=False)
    for one in told.asking:
        asked[one.stage] += one.requests
    return {stage: count for stage, count in asked.items() if count}, told.questions
