"""The stages as idempotent functions: one task in, one published file and a small report out.

    read -> route -> generate -> gate + score -> select

A stage reads its inputs from the store, does its work through an engine where it needs one, checks
that ids in = ids out, and publishes. It knows no Ray and no batch size. Running a task twice gives
the same file. `STAGES` is the table.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any, cast

import pyarrow as pa

from arbitrage import answers, fusion, gates, product, rounds
from arbitrage.arbiter import NOT_ASKED, Verdict, judge
from arbitrage.columns import names_any
from arbitrage.components import Fuser
from arbitrage.config import for_language
from arbitrage.errors import StageError
from arbitrage.journal import Journal, basis_of
from arbitrage.lineup import lined_up
from arbitrage.parts import choosing_of, part_of, read_parts
from arbitrage.plan import Report, Task, quarantine_of
from arbitrage.prompts import published_from, read_shards
from arbitrage.records import GATES, PROMPT_COLUMNS, SCORES, Message, Prompt
from arbitrage.resumable import Resumable, Work
from arbitrage.spending import spent_before
from arbitrage.store import key_of
from arbitrage.usage import Usage
from arbitrage.winrate import work

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from arbitrage.components import Teacher
    from arbitrage.desk import Desk
    from arbitrage.engines import Generator, Scorer
    from arbitrage.prompts import PromptSet, Shard
    from arbitrage.store import Published, Store


async def execute(task: Task, desk: Desk) -> Report:
    """Does one task. Whatever it raises, nothing half-made is visible.

    Raises Stopped when the desk was halted before all was done; what was done is in the journal.
    """
    start = time.perf_counter()
    report = await STAGES[task.stage](task, desk)
    return report._replace(seconds=time.perf_counter() - start)


async def read(task: Task, desk: Desk) -> Report:
    """Publishes the next prompt shard; `facts["shard"]` is none when all is read."""
    if desk.prompt_set is None:
        raise StageError(f"task {task.output} needs the prompt set")
    shard = await asyncio.to_thread(_read_on, task.shard, desk.prompt_set, desk)
    return Report(shard.rows if shard else 0, facts={"shard": shard})


def _read_on(number: int, prompt_set: PromptSet, desk: Desk) -> Shard | None:
    """The next shard, as long as the driver holds the run; blocks."""
    if desk.unread is None:
        earlier = published_from(number, desk.store)
        desk.unread = itertools.chain(earlier, read_shards(prompt_set, desk.store))
    if desk.token is not None:
        desk.store.check_holder(desk.token)
    try:
        return next(desk.unread, None)
    except BaseException:
        desk.unread = None  # a broken iterator would look like one that has read everything
        raise


async def route(task: Task, desk: Desk) -> Report:
    """Writes who is asked what; `facts["teachers"]` says how much, per teacher fingerprint."""
    return await asyncio.to_thread(_route, task, desk)


def _route(task: Task, desk: Desk) -> Report:
    store, components = desk.store, desk.components
    prompts = store.read(task.inputs[0], PROMPT_COLUMNS).table
    before = _before(task.inputs[1:], prompts, desk)
    routed = rounds.decided(prompts, task.round, before, components)
    note = {"key": task.key, "teachers": routed.asked, "state": routed.state}
    answered = task.inputs[3 :: 2 + len(components.arbiters)]
    note["known"] = [*task.inputs[1:3], *answered]
    store.publish(task.output, routed.table, note)
    return Report(routed.table.num_rows, facts={"teachers": routed.asked})


def _before(paths: Sequence[str], prompts: pa.Table, desk: Desk) -> rounds.Outcome | None:
    """What a round goes by: the route before it, and what came of the prompts named after it."""
    if not paths:
        return None
    state = desk.store.footer(paths[0]).get("state", {})
    seen = prompts.slice(0, 0) if len(paths) < 2 else desk.store.read(paths[1]).table
    parts = read_parts(desk.store, paths[2:], seen, desk.components, desk.run)
    lineup = lined_up(seen, parts, choosing_of(desk.run, desk.components))
    return rounds.Outcome(seen, lineup, state)


async def generate(task: Task, desk: Desk) -> Report:
    """One teacher answers its prompts of one shard; answers that are already stored are kept."""
    teacher = desk.components.teacher(task.variant or task.owner)
    engine = cast("Generator", desk.engine)
    prompts, reused = await asyncio.to_thread(_asked, task, desk, teacher)
    wanted = {prompt.id for prompt in prompts}
    stored = await asyncio.to_thread(_answered_before, reused, task, desk.store, wanted)
    groups = answers.groups_of(teacher)
    missing = {
        f"{prompt.id}/{group.number}": (prompt, group)
        for prompt in prompts
        if prompt.id not in stored
        for group in groups
    }
    job = Work(
        partial(answers.answer, engine),
        answers.told,
        answers.untold,
        answers.deadly,
        lambda item: item[0].id,
    )
    journal = Journal(desk.store, task.output, basis_of(task))
    made = Resumable(missing, job, journal, engine.max_in_flight, lambda: desk.halted)
    besides = await made.finish(wary=task.wary)
    fresh: dict[str, list[answers.Answer]] = {}
    for key, (prompt, _) in missing.items():
        fresh.setdefault(prompt.id, []).extend(made.results[key])
    new = table = answers.candidates_of(prompts, fresh, teacher)
    if stored:
        kept = (stored[prompt.id] for prompt in prompts if prompt.id in stored)
        table = answers.in_order(pa.concat_tables([new, *kept]), prompts)
    answers.require_complete(table, prompts, teacher)
    spent = besides.plus(answers.usage_of(new)).priced(teacher.config.price)
    told = {"key": task.key, "teacher": teacher.fingerprint, **answers.counts_of(table)}
    in_all = (await asyncio.to_thread(spent_before, desk.store, task)).plus(spent)
    note: dict[str, Any] = {**told, "spent": asdict(in_all), "made_with": engine.provenance()}
    if isinstance(teacher, Fuser) and desk.components.fuse:
        note["read"] = [desk.components.fuse.fingerprint, *task.inputs[2:]]
    await _publish(desk, task.output, table.combine_chunks(), note)
    await asyncio.to_thread(journal.remove)
    return Report(new.num_rows, answers.counts_of(new)["errors"], spent=spent)


async def _publish(desk: Desk, path: str, table: pa.Table, note: dict[str, Any]) -> Published:
    """In a thread: while the disk is waited for, the engine goes on with the other shard."""
    return await asyncio.to_thread(desk.store.publish, path, table, note)


def _asked(task: Task, desk: Desk, teacher: Teacher) -> tuple[list[Prompt], tuple[str, ...]]:
    """The teacher's prompts of the shard, with its system prompt where they have none; and the
    files of its own earlier candidates."""
    shard = desk.store.read(task.inputs[0], columns=PROMPT_COLUMNS).table
    routed = task.inputs[1:2] if task.inputs[1:2] and task.inputs[1].startswith("routes/") else ()
    prompts = []
    for key, language, turns in _routed(shard, routed, desk, teacher):
        system = for_language(teacher.config.system, language)
        if system and turns[0]["role"] != "system":
            turns = [{"role": "system", "content": system}, *turns]
        prompts.append(Prompt(key, language, turns))
    others = task.inputs[1 + len(routed) :]
    if not isinstance(teacher, Fuser):
        return prompts, others
    candidates = _sound_candidates(others, shard, desk)
    return fusion.fused(prompts, candidates, teacher.config), ()


def _routed(
    shard: pa.Table, route: Sequence[str], desk: Desk, teacher: Teacher
) -> Iterator[tuple[str, str, list[Message]]]:
    """The rows that a teacher is asked: as the route says; where nobody routes, all of its
    languages."""
    ids, languages, messages = (shard[name].to_pylist() for name in PROMPT_COLUMNS)
    asked = [code in teacher.languages for code in languages]
    if route:
        routes = desk.store.read(route[0]).table
        if ids != routes["prompt_id"].to_pylist():
            raise StageError(f"{route[0]} does not route the prompts of this shard")
        asked = [teacher.fingerprint in owners for owners in routes["teachers"].to_pylist()]
    yield from itertools.compress(zip(ids, languages, messages, strict=True), asked)


def _sound_candidates(paths: Sequence[str], shard: pa.Table, desk: Desk) -> fusion.Candidates:
    """What a fuser may read; `paths` are candidates and their gates, in turn."""
    rows: list[tuple[str, str | None]] = []
    sound: list[bool] = []
    for lane in zip(paths[::2], paths[1::2], strict=True):
        contents = [desk.store.read(path) for path in lane]
        part = part_of(lane, contents, shard, desk.components, desk.run)
        columns = (part.candidates[name].to_pylist() for name in ("prompt_id", "completion"))
        rows += zip(*columns, strict=True)
        sound += (~names_any(part.failed, desk.run.gates.enforced())).tolist()
    return fusion.gathered(rows, sound)


def _answered_before(
    paths: Sequence[str], task: Task, store: Store, wanted: set[str]
) -> dict[str, pa.Table]:
    """Candidates in this teacher's earlier files of the same shard, by prompt id.

    They are there when the teacher was once asked fewer or other prompts of the shard; the folder's
    fingerprint says that they are what it would answer now. Of a file that is made again, what is
    no error.
    """
    found: dict[str, pa.Table] = {}
    for path in paths:
        table = store.read(path).table
        if task.output in task.inputs:
            table = table.filter(table["error"].is_null())
        starts: dict[str, list[int]] = {}
        for row, key in enumerate(table["prompt_id"].to_pylist()):
            starts.setdefault(key, []).append(row)
        for key, rows in starts.items():
            if key in wanted:
                found.setdefault(key, table.slice(rows[0], len(rows)))
    return found


async def gate(task: Task, desk: Desk) -> Report:
    """Writes down what there is to know of candidates for the gates; thresholds come later."""
    return await asyncio.to_thread(_gate, task, desk)


def _gate(task: Task, desk: Desk) -> Report:
    store = desk.store
    asked = _prompts_of(store.read(task.inputs[0], PROMPT_COLUMNS).table)
    candidates = store.read(task.inputs[1])
    told = candidates.table
    prompts = [asked[key] for key in told["prompt_id"].to_pylist()]
    columns = (told[name].to_pylist() for name in ("completion", "finish_reason"))
    texts, reasons = columns
    facts = gates.measure(prompts, texts, reasons, gates.refusals_of(desk.run.gates))
    own = told.select(["prompt_id", "sample"])
    table = pa.Table.from_arrays([*own.columns, *facts.columns], schema=GATES)
    note = {"key": task.key, "gates": desk.components.gates.fingerprint}
    store.publish(task.output, table, {**note, "candidates": candidates.digest})
    return Report(table.num_rows)


def _prompts_of(shard: pa.Table) -> dict[str, Prompt]:
    columns = (shard[name].to_pylist() for name in PROMPT_COLUMNS)
    return {row[0]: Prompt(*row) for row in zip(*columns, strict=True)}


async def score(task: Task, desk: Desk) -> Report:
    """An Arbiter judges one teacher's candidates of one shard, in the languages that it scores."""
    scorer = cast("Scorer", desk.engine)
    arbiter = desk.components.arbiter_of(task.owner)
    shard = (await asyncio.to_thread(desk.store.read, task.inputs[0], PROMPT_COLUMNS)).table
    candidates = await asyncio.to_thread(desk.store.read, task.inputs[1])
    names = ("prompt_id", "sample", "completion")
    keys, samples, texts = (candidates.table[name].to_pylist() for name in names)
    asked = _prompts_of(shard)
    pairs = {
        f"{key}/{sample}": (asked[key], text)
        for key, sample, text in zip(keys, samples, texts, strict=True)
        if arbiter.scores_in(asked[key].language)
    }
    known = await asyncio.to_thread(_scored_before, task, desk.store, candidates.digest)
    pairs = {key: pair for key, pair in pairs.items() if key not in known}
    job = Work(lambda pair: judge(scorer, *pair), list, lambda told: Verdict(*told), _unjudged, id)
    journal = Journal(
        desk.store, task.output, f"{candidates.digest}{basis_of(task)[len(task.key) :]}"
    )
    marks = Resumable(pairs, job, journal, scorer.max_in_flight, lambda: desk.halted)
    besides = await marks.finish(wary=task.wary)
    rows = (f"{key}/{sample}" for key, sample in zip(keys, samples, strict=True))
    found = known | marks.results
    verdicts = [found.get(row, NOT_ASKED) for row in rows]
    told = [verdict.score for verdict in verdicts], [verdict.error for verdict in verdicts]
    table = answers.as_table([keys, samples, *told], SCORES)
    errors = table.num_rows - table["error"].null_count
    requests = Usage(sum(text is not None for _, text in pairs.values()))
    spent = besides.plus(requests).priced(arbiter.config.price)
    note: dict[str, Any] = {"key": task.key, "arbiter": task.owner}
    note["candidates"] = candidates.digest
    if arbiter.languages is not None:
        note |= {"languages": sorted(arbiter.languages), "of": key_of(task.inputs[1])}
    in_all = (await asyncio.to_thread(spent_before, desk.store, task)).plus(spent)
    note |= {"errors": errors, "spent": asdict(in_all), "made_with": scorer.provenance()}
    await _publish(desk, task.output, table, note)
    await asyncio.to_thread(journal.remove)
    return Report(table.num_rows, errors, spent=spent)


def _scored_before(task: Task, store: Store, digest: str) -> dict[str, Verdict]:
    """Scores that there are of the same candidates, where the file is made again."""
    if task.output not in task.inputs:
        return {}
    content = store.read(task.output)
    if content.footer.get("candidates") != digest:
        return {}
    rows = content.table.to_pylist()
    return {
        f"{row['prompt_id']}/{row['sample']}": Verdict(row["score"], None)
        for row in rows
        if row["score"] is not None
    }


def _unjudged(pair: tuple[Prompt, str | None], why: str) -> Verdict:
    del pair
    return Verdict(None, why)


async def select(task: Task, desk: Desk) -> Report:
    """Writes the product of one shard, and before it what was lost."""
    return await asyncio.to_thread(_select, task, desk)


def _select(task: Task, desk: Desk) -> Report:
    store, components = desk.store, desk.components
    prompts = store.read(task.inputs[0]).table
    files, before = task.inputs[1:], None
    if components.selector.chained and task.shard:
        before = store.footer(files[-1])["tally"]
        files = files[:-1]
    parts = read_parts(store, files, prompts, components, desk.run)
    choosing = choosing_of(desk.run, components)
    selected, lost, tally = product.build(prompts, parts, components, choosing, before)
    aside = quarantine_of(task.output)
    if lost.num_rows or store.has(aside):
        store.publish(aside, lost, {"key": task.key})
    note: dict[str, Any] = {"key": task.key, "prompts": prompts.num_rows, "tally": tally}
    note |= {"selected": prompts.num_rows - lost.num_rows, "quarantined": lost.num_rows}
    store.publish(task.output, selected, {**note, "inputs": list(task.inputs[1:])})
    return Report(selected.num_rows, lost.num_rows)


STAGES: dict[str, Callable[[Task, Desk], Awaitable[Report]]] = {
    "read": read,
    "route": route,
    "generate": generate,
    "gate": gate,
    "score": score,
    "select": select,
    "adopt": work.adopt,
    "judge": work.judge,
}
