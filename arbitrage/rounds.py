"""Who is asked in each round of a shard: whom the router says, then some again, then the fuser.

Decides from what the rounds before gave; reads no files. `AFTER` is the table of the rounds that
come after the router's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from arbitrage import fusion
from arbitrage.routers import Decision, Seen, routed_as, routes_of

if TYPE_CHECKING:
    from collections.abc import Callable

    import pyarrow as pa

    from arbitrage.components import Components
    from arbitrage.lineup import Lineup
    from arbitrage.routers import Routed


@dataclass(frozen=True)
class Outcome:
    """What came of a shard so far: its prompts, their candidates, and what the route before
    remembers."""

    prompts: pa.Table
    lineup: Lineup
    state: dict[str, Any]


def decided(
    prompts: pa.Table, number: int, before: Outcome | None, components: Components
) -> Routed:
    """Whom to ask about `prompts` (prompt_id, language, messages) in a round.

    `before` is what the round goes by, none where that is nothing: of these prompts themselves, or
    of a shard before them.
    """
    component = components.rounds[number]
    if component.name in AFTER and before is not None and component is not components.router:
        return AFTER[component.name](before, components)
    state = None if before is None else before.state
    seen = None if before is None or not before.prompts.num_rows else seen_in(before, components)
    return routes_of(prompts, components, number, state, seen)


def seen_in(before: Outcome, components: Components) -> Seen:
    """The best reward of each of the run's teachers, as routers see it."""
    field = before.lineup.field
    prints = sorted(teacher.fingerprint for teacher in components.teachers)
    column = {fingerprint: place for place, fingerprint in enumerate(prints)}
    owner = np.array([column.get(f, -1) for f in field.teachers], np.int64)[field.teacher]
    known = owner >= 0
    shape = (len(field.prompt_ids), len(prints))
    asked = np.zeros(shape, dtype=bool)
    asked[field.prompt[known], owner[known]] = True
    best = np.full(shape, -np.inf)
    good = known & field.eligible
    np.maximum.at(best, (field.prompt[good], owner[good]), field.score[good])
    best[np.isinf(best)] = np.nan
    return Seen(before.prompts["language"].to_pylist(), asked, best)


def _again(before: Outcome, components: Components) -> Routed:
    """Where every candidate fails, and a gate is why: the teachers whose answers it stopped."""
    field, stopped = before.lineup.field, before.lineup.enforced
    prints = sorted(variant.fingerprint for variant in components.variants)
    column = {v.role: prints.index(v.fingerprint) for v in components.variants}
    owner = np.array([column[f] for f in field.teachers], np.int64)[field.teacher]
    ask = np.zeros((len(field.prompt_ids), len(prints)), dtype=bool)
    ask[field.prompt[stopped], owner[stopped]] = True
    sound = np.zeros(len(field.prompt_ids), dtype=bool)
    sound[field.prompt[field.eligible]] = True
    ask[sound] = False
    return routed_as(field.prompt_ids, prints, Decision(ask, {}))


def _fused(before: Outcome, components: Components) -> Routed:
    """Where there are enough different candidates that pass the gates, in the fuser's languages."""
    fuser = components.fuser
    rows = before.lineup.table
    texts = zip(*(rows[name].to_pylist() for name in ("prompt_id", "completion")), strict=True)
    sound = ~before.lineup.enforced & rows["error"].is_null().to_numpy(zero_copy_only=False)
    ids = before.prompts["prompt_id"].to_pylist()
    languages = before.prompts["language"].to_pylist()
    if fuser is None:
        return routed_as(ids, [], Decision(np.zeros((len(ids), 0), dtype=bool), {}))
    wanted = fusion.wanted(fusion.gathered(texts, sound.tolist()), fuser.config)
    ask = [
        key in wanted and code in fuser.languages for key, code in zip(ids, languages, strict=True)
    ]
    return routed_as(ids, [fuser.fingerprint], Decision(np.array(ask, dtype=bool)[:, None], {}))


AFTER: dict[str, Callable[[Outcome, Components], Routed]] = {"retry": _again, "fuse": _fused}
