"""Builds the product of one shard: the chosen completions per prompt, and what was lost and why.

Pure Arrow and numpy: tables in, tables out. Invariants: distinct prompts selected + rows
quarantined = prompts; every candidate of a prompt stands in its `candidates` list.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arbitrage.columns import numbers, table_of, with_answers
from arbitrage.errors import StageError
from arbitrage.lineup import Choosing, Lineup, Part, lined_up
from arbitrage.records import CANDIDATE_SUMMARY, QUARANTINE, RAW_CHARS, SELECTED
from arbitrage.selection import NOBODY, REASONS, Choice, choose

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from arbitrage.components import Components
    from arbitrage.quotas import Tally

__all__ = ["Built", "Choosing", "Part", "build"]


class Built(NamedTuple):
    """The SELECTED and QUARANTINE tables of a shard, and what was taken up to here."""

    selected: pa.Table
    lost: pa.Table
    tally: Tally


def build(
    prompts: pa.Table,
    parts: list[Part],
    components: Components,
    choosing: Choosing,
    earlier: Tally | None = None,
) -> Built:
    """The product of one shard; `earlier` is the tally of the shards before it, where that counts.

    Raises StageError where the parts do not belong together.
    """
    lineup = lined_up(prompts, parts, choosing)
    choice = choose(lineup.field, choosing.selection, earlier)
    selected = _selected(prompts, parts, components, lineup, choice)
    lost = _lost(prompts, lineup, choice, components.covered)
    having = pc.count_distinct(selected["prompt_id"]).as_py()
    if having + lost.num_rows != prompts.num_rows:
        raise StageError(
            f"{having} selected and {lost.num_rows} lost do not make {prompts.num_rows} prompts"
        )
    return Built(selected, lost, choice.tally)


def _selected(
    prompts: pa.Table, parts: list[Part], components: Components, lineup: Lineup, choice: Choice
) -> pa.Table:
    if not len(choice.candidate):
        return SELECTED.empty_table()
    rows = pa.array(choice.prompt)
    asked = prompts.take(rows)
    won = lineup.table.take(pa.array(choice.candidate))
    owners = lineup.field.teacher[choice.candidate]
    columns: dict[str, Any] = {
        "messages": with_answers(asked["messages"].combine_chunks(), won["completion"]),
        "family": [components.families[code] for code in asked["language"].to_pylist()],
        "reward": won["score"],
        "margin": pa.array(choice.ranking.margin[choice.candidate], from_pandas=True),
        "rank": pa.array(choice.place, pa.int32()),
        "candidates": _summaries(parts, lineup, choice).take(rows),
        "sampling": _samplings(parts, owners, numbers(won["sampling"])),
    }
    no = choice.rejected == NOBODY
    rejected = lineup.table.take(pa.array(choice.rejected, mask=no))
    columns |= {
        "rejected": rejected["completion"],
        "rejected_teacher": rejected["teacher"],
        "rejected_reward": rejected["score"],
    }
    for name in ("prompt_id", "user_id", "language", "extra"):
        columns[name] = asked[name]
    for name in ("completion", "reasoning", "sample", "seed"):
        columns[name] = won[name]
    for name in ("finish_reason", "prompt_tokens", "completion_tokens"):
        columns[name] = won[name]
    columns.update(_names(parts, owners, components))
    return table_of(columns, SELECTED)


def _names(parts: list[Part], owners: NDArray[np.int64], components: Components) -> dict[str, Any]:
    """Columns that say who made the row."""
    teachers = [part.teacher for part in parts]
    made_by = {
        "teacher": [t.name for t in teachers],
        "model": [t.config.model for t in teachers],
        "revision": [t.config.revision for t in teachers],
        "teacher_fingerprint": [t.fingerprint for t in teachers],
    }
    columns: dict[str, Any] = {
        name: pa.array(values, pa.string()).take(pa.array(owners))
        for name, values in made_by.items()
    }
    columns["arbiter_fingerprint"] = [components.arbiter.fingerprint] * len(owners)
    columns["selector_fingerprint"] = [components.selector.fingerprint] * len(owners)
    columns["run_fingerprint"] = [components.fingerprint] * len(owners)
    return columns


def _samplings(parts: list[Part], owners: Any, groups: Any) -> list[str]:
    """The sampling parameters of each row as JSON."""
    told = [
        [
            json.dumps(group.model_dump(mode="json"), sort_keys=True)
            for group in p.teacher.config.sampling
        ]
        for p in parts
    ]
    return [
        told[owner][group] for owner, group in zip(owners.tolist(), groups.tolist(), strict=True)
    ]


def _summaries(parts: list[Part], lineup: Lineup, choice: Choice) -> pa.ListArray:
    """For every prompt all its candidates, best first."""
    ranking, field = choice.ranking, lineup.field
    order = pa.array(ranking.order)
    first = ranking.starts[field.prompt[ranking.order]]
    place = np.empty(len(first), np.int64)
    place[ranking.order] = np.arange(len(first)) - first
    same = place[ranking.same_as[ranking.order]]
    owners = pa.array(field.teacher).take(order)
    told = ("sample", "score", "gates", "error", "chars")
    table = lineup.table.select(told).take(order)
    names = pa.array([part.teacher.name for part in parts], pa.string())
    prints = pa.array([part.teacher.fingerprint for part in parts], pa.string())
    values = pa.StructArray.from_arrays(
        [
            names.take(owners),
            prints.take(owners),
            *(table[name].combine_chunks() for name in told),
            pa.array(ranking.same_as[ranking.order] != ranking.order),
            pa.array(same, pa.int32()),
        ],
        fields=list(CANDIDATE_SUMMARY),
    )
    return pa.ListArray.from_arrays(
        pa.array(ranking.starts, pa.int32()), values, type=pa.list_(CANDIDATE_SUMMARY)
    )


def _lost(prompts: pa.Table, lineup: Lineup, choice: Choice, covered: frozenset[str]) -> pa.Table:
    rows = np.flatnonzero(choice.reason)
    columns = ["messages", "prompt_id", "language", "source", "line"]
    asked = prompts.select(columns).take(pa.array(rows)).to_pylist() if len(rows) else []
    told = _whys(lineup, choice, rows, [prompt["language"] in covered for prompt in asked])
    lost = [
        {
            "stage": "select",
            "reason": reason,
            "detail": detail,
            "raw": prompt["messages"][-1]["content"][:RAW_CHARS],
            **{name: prompt[name] for name in ("prompt_id", "language", "source", "line")},
        }
        for prompt, (reason, detail) in zip(asked, told, strict=True)
    ]
    return pa.Table.from_pylist(lost, QUARANTINE)


NOTHING_OPEN = {
    "no_pair": "it has no two different answers of which one was scored higher",
    "below_threshold": "no answer reaches the least reward or margin of its language",
    "over_quota": "its language has its quota of prompts",
    "over_teacher_share": "every teacher that answered it has its share of its language",
}
"""Why a prompt that has an eligible candidate was left out."""

NOBODY_ASKED = {
    False: ("no_teacher", "no teacher of the pool covers its language"),
    True: ("set_aside", "its teachers were set aside; the next run takes them up again"),
}
"""Why there is no candidate, by whether a teacher covers the language."""


def _whys(
    lineup: Lineup, choice: Choice, rows: NDArray[np.int64], covered: list[bool]
) -> list[tuple[str, str]]:
    """Reason and detail for every prompt of which nothing was taken."""
    found = [(reason := REASONS[n], NOTHING_OPEN.get(reason, "")) for n in choice.reason[rows]]
    unusable = [place for place, (_, detail) in enumerate(found) if not detail]
    starts, order = choice.ranking.starts, choice.ranking.order
    mine = [order[starts[row] : starts[row + 1]] for row in rows[unusable]]
    problems = _problems(lineup, np.concatenate(mine)) if mine else []
    end = 0
    for place, candidates in zip(unusable, mine, strict=True):
        start, end = end, end + len(candidates)
        if start == end:
            found[place] = NOBODY_ASKED[covered[place]]
            continue
        gated = bool(lineup.enforced[candidates].any())
        errors = bool(np.isnan(lineup.field.score[candidates]).any())
        reason = "gates_and_errors" if gated and errors else "gates" if gated else "errors"
        found[place] = (reason, "; ".join(problems[start:end]))
    return found


def _problems(lineup: Lineup, candidates: NDArray[np.int64]) -> list[str]:
    """What kept each of these candidates from being chosen."""
    columns = ["teacher", "sample", "error", "gates"]
    if not len(candidates):
        return []
    table = lineup.table.select(columns).take(pa.array(candidates))
    told = zip(*(table[name].to_pylist() for name in columns), strict=True)
    return [
        f"{teacher} #{sample}: {error or ', '.join(gates) or 'not chosen'}"
        for teacher, sample, error, gates in told
    ]
