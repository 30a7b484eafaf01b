"""What an evaluation would ask of whom; starts nothing and writes nothing."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

from arbitrage import prompts
from arbitrage.plan import ShardState
from arbitrage.store import Store
from arbitrage.winrate.contest import contest_of
from arbitrage.winrate.planner import read_contest

if TYPE_CHECKING:
    from arbitrage.winrate.config import WinrateConfig


class Asking(NamedTuple):
    """One role's part: requests that are left, and what they are about."""

    name: str
    stage: str
    tasks: int
    requests: int


class Outlook(NamedTuple):
    """What is left. `questions` are all, `unread` those of them that are in no shard yet."""

    questions: int
    unread: int
    models: int
    pairs: int
    asking: list[Asking]


def outlook(config: WinrateConfig, *, again: bool) -> Outlook:
    """Counts the missing tasks; questions that are not read yet count as shards to come.

    Raises UsageError as the evaluation itself does.
    """
    contest = contest_of(config)
    store = Store(config.evaluation, config.output.compression, config.output.patience_s)
    prompt_set = prompts.find(config.questions, contest.covered, store)
    prompts.survey(prompt_set)
    planner, shards = read_contest(contest, store, again=again)
    unread = sum(1 for _ in prompts.new_prompts(prompt_set, store))
    size = config.questions.shard_size
    coming = [
        ShardState(len(shards) + n, f"prompts/{n}", min(size, unread - n * size))
        for n in range(math.ceil(unread / size))
    ]
    parts = (*contest.entrants, *contest.served)
    names = {part.fingerprint: part.name for part in parts}
    tasks: Counter[tuple[str, str]] = Counter()
    requests: Counter[tuple[str, str]] = Counter()
    for shard in (*shards, *coming):
        for task in planner.tasks(shard):
            role = (names[task.variant or task.owner], task.stage)
            tasks[role] += 1
            requests[role] += task.requests
    asking = [Asking(*role, count, requests[role]) for role, count in tasks.items()]
    rows = sum(shard.rows for shard in shards)
    return Outlook(rows + unread, unread, len(contest.entrants), len(contest.pairs), asking)
