"""The two stages that only an evaluation has: taking answers over, and judging pairs of them.

As `stages`: a task reads its inputs from the store, checks that what goes in comes out, and
publishes one file. A game that has a verdict is never played again while its two answers are what
they were, wherever the verdict stands; of a file that is made again those without one are.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from arbitrage.answers import as_table
from arbitrage.errors import StageError
from arbitrage.journal import Journal, basis_of
from arbitrage.plan import Report, Task
from arbitrage.records import CANDIDATES, JUDGEMENTS, PROMPT_COLUMNS, Prompt
from arbitrage.resumable import Resumable, Work
from arbitrage.spending import spent_before
from arbitrage.usage import Usage
from arbitrage.winrate.contest import Adopted, Contest
from arbitrage.winrate.games import Game, Hearing, Said, deadly, digest_of, template_of
from arbitrage.winrate.sourcing import Asked, answers_for

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
    texts = answers_for(f"models.{entrant.name}", entrant.source, entrant.identity, asked)
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
    owner = contest.judge(task.owner)
    games = await asyncio.to_thread(_games, task, desk.store)
    known, games = await asyncio.to_thread(_judged_before, task, desk.store, games)
    config = owner.config
    sampling = config.sampling[0]
    seed = owner.seed if sampling.seed is None else sampling.seed
    hearing = Hearing(template_of(owner.template), sampling, config.tries, seed, task.owner)
    missing = {key: game for key, game in games.items() if key not in known}
    job = Work(partial(hearing.play, engine), list, lambda told: Said(*told), deadly, _prompt_of)
    journal = Journal(desk.store, task.output, basis_of(task))
    played = Resumable(missing, job, journal, engine.max_in_flight, lambda: desk.halted)
    besides = await played.finish(wary=task.wary)
    table = _table(games, known | played.results)
    spent = besides.plus(_usage([played.results[key] for key in missing])).priced(config.price)
    earlier = await asyncio.to_thread(spent_before, desk.store, task)
    errors = table.num_rows - table["error"].null_count
    unanswered = sum(None in (game.answer_a, game.answer_b) for game in games.values())
    note: dict[str, Any] = {"key": task.key, "judge": task.owner}
    note |= {"errors": errors, "unanswered": unanswered, "spent": asdict(earlier.plus(spent))}
    note["made_with"] = engine.provenance()
    await asyncio.to_thread(desk.store.publish, task.output, table, note)
    await asyncio.to_thread(journal.remove)
    return Report(table.num_rows, errors, spent=spent)


def _prompt_of(game: Game) -> str:
    return game.prompt.id


def _games(task: Task, store: Store) -> dict[str, Game]:
    """Both games of every prompt that both models were asked, by prompt id, number and what is
    shown, so that what is known of them is known of these answers."""
    shard = store.read(task.inputs[0], PROMPT_COLUMNS).table
    columns = ["prompt_id", "completion", "error"]
    answers = [_answers(store.read(path, columns).table) for path in task.inputs[1:3]]
    found = {}
    for row in zip(*(shard[name].to_pylist() for name in PROMPT_COLUMNS), strict=True):
        prompt = Prompt(*row)
        if all(prompt.id in one for one in answers):
            (first, no_first), (second, no_second) = (one[prompt.id] for one in answers)
            why = no_first or no_second
            for number, shown in enumerate(((first, second), (second, first))):
                game = Game(prompt, *shown, why)
                found[_key(prompt.id, number, *map(digest_of, shown))] = game
    return found


def _key(prompt: str, number: int, answer_a: str | None, answer_b: str | None) -> str:
    return f"{prompt}/{number}/{answer_a}/{answer_b}"


def _answers(table: pa.Table) -> dict[str, tuple[str | None, str]]:
    """Answers by prompt id, with what is to be said where there is none."""
    rows = zip(*(table[n].to_pylist() for n in ("prompt_id", "completion", "error")), strict=True)
    return {key: (text, f"no answer: {error}" if error else "") for key, text, error in rows}


def _judged_before(
    task: Task, store: Store, games: dict[str, Game]
) -> tuple[dict[str, Said], dict[str, Game]]:
    """Verdicts that the judge has given on the very same answers, whoever they were called and in
    whichever game; and the games, which know how often they were tried in vain."""
    said: dict[tuple[str, str, str], Said] = {}
    tried: Counter[tuple[str, str, str]] = Counter()
    for path in task.inputs[3:]:
        for row in store.read(path).table.to_pylist():
            shown = (row["prompt_id"], row["answer_a"], row["answer_b"])
            if row["error"] is None:
                said[shown] = Said(*(row[name] for name in Said._fields))
            else:
                tried[shown] = max(tried[shown], row["tries"])
    shown_in = {key: _shown(game) for key, game in games.items()}
    known = {key: said[shown] for key, shown in shown_in.items() if shown in said}
    return known, {k: game._replace(tried=tried[shown_in[k]]) for k, game in games.items()}


def _shown(game: Game) -> tuple[str, Any, Any]:
    return game.prompt.id, digest_of(game.answer_a), digest_of(game.answer_b)


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
        [int(key.split("/")[1]) for key in games],
        [digest_of(game.answer_a) for game in games.values()],
        [digest_of(game.answer_b) for game in games.values()],
        *([getattr(one, name) for one in told] for name in Said._fields),
    ]
    return as_table(columns, JUDGEMENTS)
