"""One teacher's answers: what is asked of its engine, and the CANDIDATES table that comes of it.

Knows no store and no task. Seeds derive from what is asked, never from when.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from arbitrage.errors import EngineError, ItemError, StageError
from arbitrage.identity import derive_seed
from arbitrage.records import CANDIDATES, Completion, Prompt
from arbitrage.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arbitrage.components import Teacher
    from arbitrage.config import Sampling
    from arbitrage.engines import Generator


class Answer(NamedTuple):
    """One completion, or why there is none; `sampling` is its group's number."""

    sampling: int
    seed: int
    completion: Completion | None
    error: str | None


class Group(NamedTuple):
    """A sampling group with what its seeds derive from; `samples` counts over all groups."""

    number: int
    sampling: Sampling
    samples: range
    seed: int
    teacher: str


def groups_of(teacher: Teacher) -> list[Group]:
    """The sampling groups of a teacher, in order."""
    groups: list[Group] = []
    first = 0
    for number, sampling in enumerate(teacher.config.sampling):
        seed = teacher.seed if sampling.seed is None else sampling.seed
        samples = range(first, first + sampling.n)
        groups.append(Group(number, sampling, samples, seed, teacher.fingerprint))
        first += sampling.n
    return groups


async def answer(engine: Generator, item: tuple[Prompt, Group]) -> list[Answer]:
    """All completions of one sampling group for one prompt."""
    prompt, group = item
    number, sampling, samples, base, teacher = group
    seeds = [derive_seed(base, prompt.id, teacher, sample) for sample in samples]
    try:
        completions = await engine.generate(prompt, sampling, seeds)
    except ItemError as error:
        return [Answer(number, seed, None, str(error) or "refused") for seed in seeds]
    if len(completions) != len(seeds):
        raise EngineError(
            f"the engine gave {len(completions)} completions where {len(seeds)} were asked for"
        )
    return [_settled(number, *pair) for pair in zip(seeds, completions, strict=True)]


def _settled(group: int, seed: int, made: Completion | ItemError) -> Answer:
    if isinstance(made, ItemError):
        return Answer(group, seed, None, str(made) or "refused")
    return Answer(group, seed, made, None)


def deadly(item: tuple[Prompt, Group], why: str) -> list[Answer]:
    """The answers of a prompt that ends the engine's process: there are none."""
    prompt, group = item
    seeds = [derive_seed(group.seed, prompt.id, group.teacher, sample) for sample in group.samples]
    return [Answer(group.number, seed, None, why) for seed in seeds]


def told(answers: list[Answer]) -> list[Any]:
    """Answers as plain data, for the journal."""
    return [
        [*answer[:2], answer.completion and list(answer.completion), answer.error]
        for answer in answers
    ]


def untold(told: list[Any]) -> list[Answer]:
    """And back."""
    return [
        Answer(group, seed, made and Completion(*made), error) for group, seed, made, error in told
    ]


_FAILED = Completion("", "error", 0, 0)


def candidates_of(
    prompts: list[Prompt], answers: dict[str, list[Answer]], teacher: Teacher
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
    return as_table(columns, CANDIDATES)


def usage_of(new: pa.Table) -> Usage:
    """What candidates that have just been made have spent."""
    counts = counts_of(new)
    return Usage(new.num_rows, counts["prompt_tokens"], counts["completion_tokens"])


def counts_of(table: pa.Table) -> dict[str, int]:
    """What a file of candidates says of itself in its footer."""
    return {
        "errors": table.num_rows - table["error"].null_count,
        "prompt_tokens": pc.sum(table["prompt_tokens"]).as_py() or 0,
        "completion_tokens": pc.sum(table["completion_tokens"]).as_py() or 0,
    }


def require_complete(table: pa.Table, prompts: list[Prompt], teacher: Teacher) -> None:
    """Ids in = ids out, every sample of each."""
    samples = range(sum(group.n for group in teacher.config.sampling))
    wanted = [(prompt.id, sample) for prompt in prompts for sample in samples]
    keys, numbers = table["prompt_id"].to_pylist(), table["sample"].to_pylist()
    if list(zip(keys, numbers, strict=True)) != wanted:
        raise StageError(f"{len(keys)} candidates are not those of {len(wanted)} requests")


def in_order(table: pa.Table, prompts: list[Prompt]) -> pa.Table:
    """Candidates in the order of their prompts, samples in order."""
    place = {prompt.id: number for number, prompt in enumerate(prompts)}
    keys = table["prompt_id"].to_pylist()
    samples = table["sample"].to_pylist()
    rows = sorted(range(len(keys)), key=lambda row: (place[keys[row]], samples[row]))
    return table.take(pa.array(rows, pa.int64()))


def as_table(columns: Sequence[list[Any]], schema: pa.Schema) -> pa.Table:
    """Columns in the order of a schema."""
    arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
    return pa.Table.from_arrays(arrays, schema=schema)
