"""The two stages that only an evaluation has: taking answers over, and judging pairs of them.

As `stages`: a task reads its inputs from the store, checks that what goes in comes out, and
publishes one file. Games that have a verdict are never played again; those of a file that is made
again because some have none are.
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from arbitrage.answers import as_table
from arbitrage.errors import StageError
from arbitrage.journal import Journal
from arbitrage.plan import Report, Task
from arbitrage.records import CANDIDATES, JUDGEMENTS, PROMPT_COLUMNS, Prompt
from arbitrage.resumable import Resumable, Work
from arbitrage.spending import spent_before
from arbitrage.usage import Usage
from arbitrage.winrate.contest import Adopted, Contest
from arbitrage.winrate.games import Game, Hearing, Said, deadly, template_of
from arbitrage.winrate.sourcing import Asked, answers_for, require_unchanged

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pyarrow as pa

    from arbitrage.desk import Desk
    from arbitrage.engines import Generator
    from arbitrage.store import Store

NO_ANSWER = "there is no answer to this prompt where the model's answers are"


async def adopt(task: Task, desk: Desk) -> Report:
    """Takes over the answers that a model has given already; those that are missing are errors."""
    return await asyncio.to_thread(_adopt, task, desk)


def _adopt(task: Task, desk: Desk) -> Report:
    contest, store = cast("Contest", desk.components), desk.store
    entrant = contest.entrant(task.variant)
    if not isinstance(entrant, Adopted):
        raise StageError(f"{entrant.name} answers itself")
    shard = store.read(task.inputs[0]).table
    asked = _asked(shard)
    texts = answers_for(entrant.source, asked)
    require_unchanged(f"models.{entrant.name}", entrant.source, entrant.identity)
    n = len(asked)
    columns: list[list[Any]] = [
        [one.prompt_id for one in asked],
        [0] * n,
        [0] * n,
        texts,
        [None] * n,
        ["error" if text is None else "stop" for text in texts],
        [0] * n,
        [0] * n,
        [0] * n,
        [NO_ANSWER if text is None else None for text in texts],
    ]
    table = as_table(columns, CANDIDATES)
    errors = table.num_rows - table["error"].null_count
    note: dict[str, Any] = {"key": task.key, "teacher": entrant.fingerprint, "errors": errors}
    note |= {"prompt_tokens": 0, "completion_tokens": 0, "spent": asdict(Usage()), "adopted": True}
    store.publish(task.output, table, note)
    return Report(n, errors)


def _asked(shard: pa.Table) -> list[Asked]:
    columns = ("prompt_id", "user_id", "language", "messages")
    rows = zip(*(shard[name].to_pylist() for name in columns), strict=True)
    return [Asked(key, own, code, turns[-1]["content"]) for key, own, code, turns in rows]


async def judge(task: Task, desk: Desk) -> Report:
    """A judge's verdicts on two models' answers to one shard: two games per prompt."""
    contest, engine = cast("Contest", desk.components), cast("Generator", desk.engine)
    judge = contest.judge(task.owner)
    games, digests = await asyncio.to_thread(_games, task, desk.store)
    known = await asyncio.to_thread(_judged_before, task, desk.store)
    config = judge.config
    hearing = Hearing(
        template_of(judge.template), config.sampling[0], config.tries, judge.seed, task.owner
    )
    missing = {key: game for key, game in games.items() if key not in known}
    work = Work(partial(hearing.play, engine), list, lambda told: Said(*told), deadly, _prompt_of)
    journal = Journal(desk.store, task.output, "/".join(digests))
    played = Resumable(missing, work, journal, engine.max_in_flight, lambda: desk.halted)
    besides = await played.finish(wary=task.wary)
    said = known | played.results
    table = _table(games, said)
    fresh = [played.results[key] for key in missing]
    spent = besides.plus(_usage(fresh)).priced(config.price)
    earlier = await asyncio.to_thread(spent_before, desk.store, task)
    errors = table.num_rows - table["error"].null_count
    note: dict[str, Any] = {"key": task.key, "judge": task.owner, "answers": digests}
    note |= {"errors": errors, "spent": asdict(earlier.plus(spent))}
    note["made_with"] = engine.provenance()
    await asyncio.to_thread(desk.store.publish, task.output, table, note)
    await asyncio.to_thread(journal.remove)
    return Report(table.num_rows, errors, spent=spent)


def _prompt_of(game: Game) -> str:
    return game.prompt.id


def _games(task: Task, store: Store) -> tuple[dict[str, Game], list[str]]:
    """Both games of every prompt that both models were asked, by prompt id and number; and the
    digests of the answers' files."""
    shard = store.read(task.inputs[0], PROMPT_COLUMNS).table
    contents = [store.read(path, ["prompt_id", "completion", "error"]) for path in task.inputs[1:3]]
    answers = [_answers(content.table) for content in contents]
    found = {}
    for row in zip(*(shard[name].to_pylist() for name in PROMPT_COLUMNS), strict=True):
        prompt = Prompt(*row)
        if all(prompt.id in one for one in answers):
            (first, no_first), (second, no_second) = (one[prompt.id] for one in answers)
            why = no_first or no_second
            found[f"{prompt.id}/0"] = Game(prompt, first, second, why)
            found[f"{prompt.id}/1"] = Game(prompt, second, first, why)
    return found, [content.digest for content in contents]


def _answers(table: pa.Table) -> dict[str, tuple[str | None, str]]:
    """Answers by prompt id, with what is to be said where there is none."""
    rows = zip(*(table[n].to_pylist() for n in ("prompt_id", "completion", "error")), strict=True)
    return {key: (text, f"no answer: {error}" if error else "") for key, text, error in rows}


def _judged_before(task: Task, store: Store) -> dict[str, Said]:
    """Verdicts that there are, where the file is made again."""
    if task.output not in task.inputs:
        return {}
    rows = store.read(task.output).table.to_pylist()
    names = Said._fields
    return {
        f"{row['prompt_id']}/{row['game']}": Said(*(row[name] for name in names))
        for row in rows
        if row["error"] is None
    }


def _usage(said: list[Said]) -> Usage:
    return Usage(
        sum(one.tries for one in said),
        sum(one.prompt_tokens for one in said),
        sum(one.completion_tokens for one in said),
    )


def _table(games: Mapping[str, Game], said: Mapping[str, Said]) -> pa.Table:
    """The JUDGEMENTS of a task. Raises StageError where a game is missing."""
    if lost := [key for key in games if key not in said]:
        raise StageError(f"{len(lost)} of {len(games)} games were not played")
    told = [said[key] for key in games]
    columns: list[list[Any]] = [
        [game.prompt.id for game in games.values()],
        [int(key.rpartition("/")[2]) for key in games],
        *([getattr(one, name) for one in told] for name in Said._fields),
    ]
    return as_table(columns, JUDGEMENTS)
