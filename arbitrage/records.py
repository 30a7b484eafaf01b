"""The rows that travel through the pipeline, and the one fixed Arrow schema of each kind of file.

Schemas are never inferred from data: an empty shard and a full one have the same columns and types.
Values that may differ in shape between rows (a user's extra columns, sampling parameters) are JSON.
"""

from __future__ import annotations

from typing import NamedTuple, TypedDict

import pyarrow as pa


class Message(TypedDict):
    """One turn of a conversation; `role` is system, user or assistant."""

    role: str
    content: str


class Prompt(NamedTuple):
    """What a teacher is asked. `id` is the hash of `messages`."""

    id: str
    language: str
    messages: list[Message]


PROMPT_COLUMNS = ["prompt_id", "language", "messages"]
"""The columns of a prompt shard that make a `Prompt`, in its order."""


class Completion(NamedTuple):
    """One answer of an engine.

    `text` is the answer alone, and `reasoning` what the model wrote before it, where the two can be
    told apart. `finish_reason` is "stop" (the model ended it, or a stop string did) or "length"
    (cut off). Token counts are in the teacher's own tokens; those of the reasoning are counted in
    `completion_tokens`.
    """

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    reasoning: str | None = None


RAW_CHARS = 500
"""How much of a refused value is kept in quarantine."""

ROLES = ("system", "user", "assistant")

MESSAGES = pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))

PROMPTS = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string()),
        pa.field("language", pa.string(), nullable=False),
        pa.field("language_source", pa.string(), nullable=False),
        pa.field("messages", MESSAGES, nullable=False),
        pa.field("extra", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
    ]
)
"""One row per distinct prompt. `language_source` is declared or detected; `source` and `line` say
where it was first read (line is 1-based; for tables the row number); `extra` is a JSON object."""

ROUTES = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("teachers", pa.list_(pa.string()), nullable=False),
    ]
)
"""One row per prompt of the shard: the fingerprints of the teachers that are asked."""

CANDIDATES = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("sampling", pa.int32(), nullable=False),
        pa.field("completion", pa.string()),
        pa.field("reasoning", pa.string()),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("completion_tokens", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("error", pa.string()),
    ]
)
"""One row per (prompt, sample) of one teacher. `sample` counts over all sampling groups, `sampling`
is the group's index. `completion` is null, and `finish_reason` is "error", where `error` is set.
`reasoning` is what the model wrote before the answer, null where there is none or it is not known;
it is never scored, and its tokens are in `completion_tokens`. Older files lack it."""

SCORES = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("score", pa.float64()),
        pa.field("error", pa.string()),
    ]
)
"""One row per candidate, in the candidates' order. `score` is null where `error` is set, never 0;
and where the Arbiter is not asked in the prompt's language, without an error."""

GATES = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("truncated", pa.bool_()),
        pa.field("empty", pa.bool_()),
        pa.field("repetition", pa.float64()),
        pa.field("refusal", pa.bool_()),
        pa.field("instruction", pa.bool_()),
        pa.field("words", pa.int32()),
        pa.field("foreign_words", pa.int32()),
        pa.field("foreign_letters", pa.int32()),
        pa.field("lines", pa.int32()),
        pa.field("wrong_lines", pa.list_(pa.string())),
    ]
)
"""One row per candidate, in the candidates' order: what the gates go by, without thresholds. All
facts are null where the candidate has no completion. `repetition` is the share of the words that
repeat what stands right before them; `foreign_*` count stretches and letters of a script that
neither the language nor the prompt has; `lines` are those long enough to be judged, and
`wrong_lines` has the code of the language of each that is surely not the prompt's."""

CANDIDATE_SUMMARY = pa.struct(
    [
        ("teacher", pa.string()),
        ("teacher_fingerprint", pa.string()),
        ("sample", pa.int32()),
        ("reward", pa.float64()),
        ("gates", pa.list_(pa.string())),
        ("error", pa.string()),
        ("chars", pa.int32()),
        ("duplicate", pa.bool_()),
        ("same_as", pa.int32()),
    ]
)
"""One candidate of a prompt. `reward` is the number that candidates were compared by. `chars` is
the completion's length, null without one; `duplicate`: an identical one stands before it; `same_as`
is the place in the list, from 0, of the first that is identical, its own where it is no duplicate.
Older files lack the last three."""

SELECTED = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string()),
        pa.field("language", pa.string(), nullable=False),
        pa.field("family", pa.string(), nullable=False),
        pa.field("messages", MESSAGES, nullable=False),
        pa.field("completion", pa.string(), nullable=False),
        pa.field("reasoning", pa.string()),
        pa.field("teacher", pa.string(), nullable=False),
        pa.field("model", pa.string()),
        pa.field("revision", pa.string()),
        pa.field("reward", pa.float64(), nullable=False),
        pa.field("margin", pa.float64()),
        pa.field("rank", pa.int32()),
        pa.field("rejected", pa.string()),
        pa.field("rejected_teacher", pa.string()),
        pa.field("rejected_reward", pa.float64()),
        pa.field("sample", pa.int32(), nullable=False),
        pa.field("finish_reason", pa.string(), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("completion_tokens", pa.int32(), nullable=False),
        pa.field("sampling", pa.string(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("candidates", pa.list_(CANDIDATE_SUMMARY), nullable=False),
        pa.field("extra", pa.string()),
        pa.field("teacher_fingerprint", pa.string(), nullable=False),
        pa.field("arbiter_fingerprint", pa.string(), nullable=False),
        pa.field("selector_fingerprint", pa.string(), nullable=False),
        pa.field("run_fingerprint", pa.string(), nullable=False),
    ]
)
"""One row per prompt that has an answer, of `top_k` up to k: `rank` counts them, 1 is the best.
`messages` ends with the chosen answer. `reward` is the number that was compared, of several
Arbiters the combined one. `margin` is its distance to the next best candidate with another text
that could have been chosen, null if there is none or the Arbiter is not trusted. `rejected` is, of
`pairs`, the answer with the lowest reward, with its teacher and reward. `candidates` lists every
candidate, best first, those that could not be chosen last. `reasoning` is the chosen answer's and
stands in no message; `completion_tokens` counts it. Older files lack it, rank and rejected."""

QUARANTINE = pa.schema(
    [
        pa.field("stage", pa.string(), nullable=False),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string(), nullable=False),
        pa.field("prompt_id", pa.string()),
        pa.field("language", pa.string()),
        pa.field("source", pa.string(), nullable=False),
        pa.field("line", pa.int64(), nullable=False),
        pa.field("raw", pa.string()),
    ]
)
"""One row per input row that was refused, or prompt that was lost, with stage and reason. `raw` is
the value as it was read, shortened."""

SCHEMAS = {
    "prompts": PROMPTS,
    "routes": ROUTES,
    "candidates": CANDIDATES,
    "gates": GATES,
    "scores": SCORES,
    "selected": SELECTED,
    "quarantine": QUARANTINE,
}

RETIRED = {"scores": ("gates",)}
"""Columns that files of earlier versions had, and what they told is told elsewhere now."""

REPEATING = frozenset(
    {
        *("role", "language", "language_source", "source", "teachers", "sampling"),
        *("finish_reason", "gates", "family", "teacher", "model", "revision", "stage", "reason"),
        *("teacher_fingerprint", "arbiter_fingerprint", "selector_fingerprint"),
        *("run_fingerprint", "error", "wrong_lines", "rank", "rejected_teacher", "same_as"),
    }
)
"""Columns (leaf names) whose values repeat: these alone are worth a Parquet dictionary."""


def leaves(schema: pa.Schema) -> list[str]:
    """Parquet's dotted names of all leaf columns."""
    leaves: list[str] = []

    def walk(kind: pa.DataType, prefix: str) -> None:
        if pa.types.is_list(kind):
            walk(kind.value_type, f"{prefix}.list.element")
        elif pa.types.is_struct(kind):
            for child in kind:
                walk(child.type, f"{prefix}.{child.name}")
        else:
            leaves.append(prefix)

    for column in schema:
        walk(column.type, column.name)
    return leaves
