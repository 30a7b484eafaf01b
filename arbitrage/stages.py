"""The stages as idempotent functions: one task in, one published file and a small report out.

    read -> route -> generate -> score -> select

A stage reads its inputs from the store, does its work through an engine where it needs one, checks
that ids in = ids out, and publishes. It knows no Ray and no batch size. Running a task twice gives
the same file. `STAGES` is the table.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import pyarrow as pa
import pyarrow.compute as pc

from arbitrage import gates, product
from arbitrage.arbiter import Verdict, judge
from arbitrage.config import for_language
from arbitrage.errors import EngineError, ItemError, StageError, StaleInputError
from arbitrage.identity import derive_seed
from arbitrage.journal import Journal
from arbitrage.plan import Report, Task, quarantine_of
from arbitrage.prompts import PromptSet, published_from, read_shards
from arbitrage.records import CANDIDATES, PROMPT_COLUMNS, SCORES, Completion, Prompt
from arbitrage.resumable import Resumable, Work
from arbitrage.routers import routes_of
from arbitrage.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from arbitrage.components import Components, Teacher
    from arbitrage.config import RunConfig, Sampling
    from arbitrage.engines import Generator, Scorer
    from arbitrage.prompts import Shard
    from arbitrage.store import Published, Store


@dataclass
class Desk:
    """What a replica works with: the store, the run's parts, and the engine that it has loaded.

    Once `halted`, tasks begin nothing new.
    """

    store: Store
    config: RunConfig
    components: Components
    engine: Generator | Scorer | None = None
    prompt_set: PromptSet | None = None
    token: str | None = None
    unread: Iterator[Shard] | None = field(default=None, init=False)
    halted: bool = field(default=False, init=False)


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
    columns = ["prompt_id", "language"]
    prompts = (await asyncio.to_thread(desk.store.read, task.inputs[0], columns)).table
    asked, table = routes_of(prompts, desk.components)
    await _publish(desk, task.output, table, {"key": task.key, "teachers": asked})
    return Report(table.num_rows, facts={"teachers": asked})


async def generate(task: Task, desk: Desk) -> Report:
    """One teacher answers its prompts of one shard; answers that are already stored are kept."""
    teacher = desk.components.teacher(task.owner)
    engine = cast("Generator", desk.engine)
    prompts = await asyncio.to_thread(_asked, task, desk.store, teacher)
    wanted = {prompt.id for prompt in prompts}
    stored = await asyncio.to_thread(_answered_before, task.inputs[2:], desk.store, wanted)
    groups = _groups(teacher)
    missing = {
        f"{prompt.id}/{group.number}": (prompt, group)
        for prompt in prompts
        if prompt.id not in stored
        for group in groups
    }
    work = Work(partial(_answer, engine), _told, _untold, _deadly, lambda item: item[0].id)
    journal = Journal(desk.store, task.output, task.key)
    answers = Resumable(missing, work, journal, engine.max_in_flight, lambda: desk.halted)
    besides = await answers.finish(wary=task.wary)
    fresh: dict[str, list[_Answer]] = {}
    for key, (prompt, _) in missing.items():
        fresh.setdefault(prompt.id, []).extend(answers.results[key])
    new = table = _candidates(prompts, fresh, teacher)
    if stored:
        kept = (stored[prompt.id] for prompt in prompts if prompt.id in stored)
        table = _in_order(pa.concat_tables([new, *kept]), prompts)
    _check_complete(table, prompts, teacher)
    spent = besides.plus(_usage(new)).priced(teacher.config.price)
    note: dict[str, Any] = {"key": task.key, "teacher": task.owner, **_counts(table)}
    note |= {"spent": asdict(spent), "made_with": engine.provenance()}
    await _publish(desk, task.output, table.combine_chunks(), note)
    await asyncio.to_thread(journal.remove)
    return Report(new.num_rows, _counts(new)["errors"], spent=spent)


def _usage(new: pa.Table) -> Usage:
    """What candidates that have just been made have spent."""
    counts = _counts(new)
    return Usage(new.num_rows, counts["prompt_tokens"], counts["completion_tokens"])


def _counts(table: pa.Table) -> dict[str, int]:
    return {
        "errors": table.num_rows - table["error"].null_count,
        "prompt_tokens": pc.sum(table["prompt_tokens"]).as_py() or 0,
        "completion_tokens": pc.sum(table["completion_tokens"]).as_py() or 0,
    }


def _check_complete(table: pa.Table, prompts: list[Prompt], teacher: Teacher) -> None:
    """Ids in = ids out, every sample of each."""
    samples = range(sum(group.n for group in teacher.config.sampling))
    wanted = [(prompt.id, sample) for prompt in prompts for sample in samples]
    keys, numbers = table["prompt_id"].to_pylist(), table["sample"].to_pylist()
    if list(zip(keys, numbers, strict=True)) != wanted:
        raise StageError(f"{len(keys)} candidates are not those of {len(wanted)} requests")


async def _publish(desk: Desk, path: str, table: pa.Table, note: dict[str, Any]) -> Published:
    """In a thread: while the disk is waited for, the engine goes on with the other shard."""
    return await asyncio.to_thread(desk.store.publish, path, table, note)


def _asked(task: Task, store: Store, teacher: Teacher) -> list[Prompt]:
    """The teacher's prompts of the shard, with its system prompt where they have none."""
    shard = store.read(task.inputs[0], columns=PROMPT_COLUMNS).table
    routes = store.read(task.inputs[1]).table
    ids, languages, messages = (shard[name].to_pylist() for name in PROMPT_COLUMNS)
    if ids != routes["prompt_id"].to_pylist():
        raise StageError(f"{task.inputs[1]} does not route the prompts of {task.inputs[0]}")
    prompts = []
    for key, language, turns, owners in zip(
        ids, languages, messages, routes["teachers"].to_pylist(), strict=True
    ):
        if task.owner in owners:
            system = for_language(teacher.config.system, language)
            if system and turns[0]["role"] != "system":
                turns = [{"role": "system", "content": system}, *turns]
            prompts.append(Prompt(key, language, turns))
    return prompts


def _answered_before(paths: Sequence[str], store: Store, wanted: set[str]) -> dict[str, pa.Table]:
    """Candidates in this teacher's earlier files of the same shard, by prompt id.

    They are there when the teacher was once asked fewer or other prompts of the shard; the folder's
    fingerprint says that they are what it would answer now.
    """
    found: dict[str, pa.Table] = {}
    for path in paths:
        table = store.read(path).table
        starts: dict[str, list[int]] = {}
        for row, key in enumerate(table["prompt_id"].to_pylist()):
            starts.setdefault(key, []).append(row)
        for key, rows in starts.items():
            if key in wanted:
                found.setdefault(key, table.slice(rows[0], len(rows)))
    return found


def _in_order(table: pa.Table, prompts: list[Prompt]) -> pa.Table:
    """Candidates in the order of their prompts, samples in order."""
    place = {prompt.id: number for number, prompt in enumerate(prompts)}
    keys = table["prompt_id"].to_pylist()
    samples = table["sample"].to_pylist()
    rows = sorted(range(len(keys)), key=lambda row: (place[keys[row]], samples[row]))
    return table.take(pa.array(rows, pa.int64()))


class _Answer(NamedTuple):
    sampling: int
    seed: int
    completion: Completion | None
    error: str | None


class _Group(NamedTuple):
    """A sampling group with what its seeds derive from; `samples` counts over all groups."""

    number: int
    sampling: Sampling
    samples: range
    seed: int
    teacher: str


def _groups(teacher: Teacher) -> list[_Group]:
    groups: list[_Group] = []
    first = 0
    for number, sampling in enumerate(teacher.config.sampling):
        seed = teacher.seed if sampling.seed is None else sampling.seed
        samples = range(first, first + sampling.n)
        groups.append(_Group(number, sampling, samples, seed, teacher.fingerprint))
        first += sampling.n
    return groups


async def _answer(engine: Generator, item: tuple[Prompt, _Group]) -> list[_Answer]:
    """All completions of one sampling group for one prompt."""
    prompt, group = item
    number, sampling, samples, base, teacher = group
    seeds = [derive_seed(base, prompt.id, teacher, sample) for sample in samples]
    try:
        completions = await engine.generate(prompt, sampling, seeds)
    except ItemError as error:
        return [_Answer(number, seed, None, str(error) or "refused") for seed in seeds]
    if len(completions) != len(seeds):
        raise EngineError(
            f"the engine gave {len(completions)} completions where {len(seeds)} were asked for"
        )
    return [_settled(number, *pair) for pair in zip(seeds, completions, strict=True)]


def _settled(group: int, seed: int, made: Completion | ItemError) -> _Answer:
    if isinstance(made, ItemError):
        return _Answer(group, seed, None, str(made) or "refused")
    return _Answer(group, seed, made, None)


def _deadly(item: tuple[Prompt, _Group], why: str) -> list[_Answer]:
    prompt, group = item
    seeds = [derive_seed(group.seed, prompt.id, group.teacher, sample) for sample in group.samples]
    return [_Answer(group.number, seed, None, why) for seed in seeds]


def _told(answers: list[_Answer]) -> list[Any]:
    """Answers as plain data, for the journal."""
    return [
        [*answer[:2], answer.completion and list(answer.completion), answer.error]
        for answer in answers
    ]


def _untold(told: list[Any]) -> list[_Answer]:
    return [
        _Answer(group, seed, made and Completion(*made), error) for group, seed, made, error in told
    ]


_FAILED = Completion("", "error", 0, 0)


def _candidates(
    prompts: list[Prompt], answers: dict[str, list[_Answer]], teacher: Teacher
) -> pa.Table:
    """The CANDIDATES table of what was just generated, in the order of prompts and samples."""
    samples = range(sum(group.n for group in teacher.config.sampling))
    asked = [prompt.id for prompt in prompts if prompt.id in answers]
    flat = [answer for key in asked for answer in answers[key]]
    done = [answer.completion or _FAILED for answer in flat]
    columns: list[list[Any]] = [
        [key for key in asked for _ in samples],
        [sample for _ in asked for sample in samples],
        [answer.sampling for answer in flat],
        [None if answer.completion is None else answer.completion.text for answer in flat],
        [completion.reasoning for completion in done],
        [completion.finish_reason for completion in done],
        [completion.prompt_tokens for completion in done],
        [completion.completion_tokens for completion in done],
        [answer.seed for answer in flat],
        [answer.error for answer in flat],
    ]
    return _as_table(columns, CANDIDATES)


async def score(task: Task, desk: Desk) -> Report:
    """The Arbiter judges one teacher's candidates of one shard; gates are recorded beside."""
    scorer = cast("Scorer", desk.engine)
    shard = (await asyncio.to_thread(desk.store.read, task.inputs[0], PROMPT_COLUMNS)).table
    candidates = await asyncio.to_thread(desk.store.read, task.inputs[1])
    keys, samples, texts, reasons = (
        candidates.table[name].to_pylist()
        for name in ("prompt_id", "sample", "completion", "finish_reason")
    )
    columns = (shard[name].to_pylist() for name in PROMPT_COLUMNS)
    asked = {row[0]: Prompt(*row) for row in zip(*columns, strict=True)}
    rows = zip(keys, samples, texts, strict=True)
    pairs = {f"{key}/{sample}": (asked[key], text) for key, sample, text in rows}
    work = Work(lambda pair: judge(scorer, *pair), list, lambda told: Verdict(*told), _unjudged, id)
    journal = Journal(desk.store, task.output, candidates.digest)
    marks = Resumable(pairs, work, journal, scorer.max_in_flight, lambda: desk.halted)
    besides = await marks.finish(wary=task.wary)
    verdicts = [marks.results[key] for key in pairs]
    judged: list[list[Any]] = [
        keys,
        samples,
        [verdict.score for verdict in verdicts],
        [
            [] if text is None else gates.failed(text, reason)
            for text, reason in zip(texts, reasons, strict=True)
        ],
        [verdict.error for verdict in verdicts],
    ]
    table = _as_table(judged, SCORES)
    errors = table.num_rows - table["error"].null_count
    requests = Usage(sum(text is not None for text in texts))
    spent = besides.plus(requests).priced(desk.components.arbiter.config.price)
    note: dict[str, Any] = {"key": task.key, "arbiter": task.owner}
    note["candidates"] = candidates.digest
    note |= {"errors": errors, "spent": asdict(spent), "made_with": scorer.provenance()}
    await _publish(desk, task.output, table, note)
    await asyncio.to_thread(journal.remove)
    return Report(table.num_rows, errors, spent=spent)


def _unjudged(pair: tuple[Prompt, str | None], why: str) -> Verdict:
    del pair
    return Verdict(None, why)


async def select(task: Task, desk: Desk) -> Report:
    """Writes the product of one shard, and before it what was lost."""
    return await asyncio.to_thread(_select, task, desk)


def _select(task: Task, desk: Desk) -> Report:
    store = desk.store
    prompts = store.read(task.inputs[0]).table
    parts = [
        _part(store, desk.components, answers, judged)
        for answers, judged in zip(task.inputs[1::2], task.inputs[2::2], strict=True)
    ]
    selected, lost = product.build(prompts, parts, desk.components, desk.config.gates.enforced())
    aside = quarantine_of(task.output)
    if lost.num_rows or store.has(aside):
        store.publish(aside, lost, {"key": task.key})
    note = {"key": task.key, "prompts": prompts.num_rows, "quarantined": lost.num_rows}
    store.publish(task.output, selected, note)
    return Report(selected.num_rows, lost.num_rows)


def _part(store: Store, components: Components, answers: str, judged: str) -> product.Part:
    candidates, scores = store.read(answers), store.read(judged)
    if scores.footer.get("candidates") != candidates.digest:
        raise StaleInputError(judged, answers)
    teacher = components.teacher(candidates.footer["teacher"])
    return product.Part(teacher, candidates.table, scores.table)


def _as_table(columns: list[list[Any]], schema: pa.Schema) -> pa.Table:
    arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)


STAGES: dict[str, Callable[[Task, Desk], Awaitable[Report]]] = {
    "read": read,
    "route": route,
    "generate": generate,
    "score": score,
    "select": select,
}
