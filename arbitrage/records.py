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

JUDGEMENTS = pa.schema(
    [
        pa.field("prompt_id", pa.string(), nullable=False),
        pa.field("game", pa.int32(), nullable=False),
        pa.field("answer_a", pa.string()),
        pa.field("answer_b", pa.string()),
        pa.field("verdict", pa.string()),
        pa.field("text", pa.string()),
        pa.field("tries", pa.int32(), nullable=False),
        pa.field("prompt_tokens", pa.int32(), nullable=False),
        pa.field("completion_tokens", pa.int32(), nullable=False),
        pa.field("seed", pa.int64(), nullable=False),
        pa.field("error", pa.string()),
    ]
)
"""One row per (prompt, game) of one judge and one pair of models. In game 0 the first model of the
pair, by fingerprint, was shown as A, in game 1 the second. `answer_a` and `answer_b` are digests of
the texts that were shown, null where there was none: a verdict is about these and no others, null
where `error` is set. `text` is all that the judge said last; tokens are of all tries."""

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
    "judgements": JUDGEMENTS,
    "selected": SELECTED,
    "quarantine": QUARANTINE,
}

_TEACHER = (
    pa.field("teacher", pa.string(), nullable=False),
    pa.field("teacher_fingerprint", pa.string(), nullable=False),
)
_LANGUAGE = pa.field("language", pa.string(), nullable=False)
_SHARD = pa.field("shard", pa.int32(), nullable=False)

ADDED = {
    "prompts": (_SHARD,),
    "routes": (_LANGUAGE, pa.field("round", pa.int32(), nullable=False), _SHARD),
    "candidates": (*_TEACHER, _LANGUAGE, _SHARD),
    "gates": (pa.field("failed", pa.list_(pa.string())), *_TEACHER, _LANGUAGE, _SHARD),
    "scores": (*_TEACHER, pa.field("arbiter", pa.string(), nullable=False), _LANGUAGE, _SHARD),
}
"""By kind what is told of its rows besides by those who read a run; it stands in no file."""

RETIRED = {"scores": ("gates",)}
"""Columns that files of earlier versions had, and what they told is told elsewhere now."""

MEANINGS = {
    "prompt_id": "hash of the prompt's content",
    "user_id": "your own id",
    "language": "code of the prompt's language",
    "language_source": "declared or detected",
    "messages": "the conversation",
    "selected.messages": "the conversation with the answer",
    "extra": "your own columns, a JSON object",
    "source": "the file it was first read from",
    "line": "its line there, from 1",
    "teachers": "fingerprints of those who are asked",
    "sample": "number of the teacher's answer, from 0",
    "sampling": "place of its sampling group",
    "selected.sampling": "its sampling parameters, JSON",
    "completion": "the answer, null with an error",
    "selected.completion": "the chosen answer",
    "reasoning": "what was written before the answer",
    "finish_reason": "stop, length (cut off) or error",
    "prompt_tokens": "in the teacher's own tokens",
    "completion_tokens": "of the answer and its reasoning",
    "seed": "of its sampling",
    "error": "why there is no answer",
    "scores.error": "why there is no score",
    "score": "the Arbiter's, null with an error",
    "game": "0: the pair's first is A; 1: the second",
    "answer_a": "digest of what was shown as A",
    "answer_b": "digest of what was shown as B",
    "verdict": "A>>B, A>B, A=B, B>A or B>>A",
    "text": "what the judge said",
    "tries": "until there was a verdict, or none",
    "judgements.error": "why there is no verdict",
    "truncated": "the engine cut it off",
    "empty": "nothing but white space",
    "repetition": "share of words that repeat at once",
    "refusal": "opens with a refusal, if looked for",
    "instruction": "tries to instruct a judge",
    "words": "in all",
    "foreign_words": "stretches of a foreign script",
    "foreign_letters": "letters of a foreign script",
    "lines": "long enough to be judged",
    "wrong_lines": "languages of lines in another one",
    "failed": "gates that it fails, enforced or not",
    "family": "the language's family",
    "teacher": "name of the teacher",
    "model": "the teacher's",
    "revision": "the model's",
    "reward": "the number that was compared",
    "margin": "reward less that of the next best text",
    "rank": "1 is the best; more with top_k",
    "rejected": "answer with the lowest reward (pairs)",
    "rejected_teacher": "who wrote that (pairs)",
    "rejected_reward": "its reward (pairs)",
    "candidates": "all of the prompt's, best first",
    "teacher_fingerprint": "who answered, as it was asked",
    "arbiter": "name of the Arbiter",
    "arbiter_fingerprint": "who scored",
    "selector_fingerprint": "the rule that chose",
    "run_fingerprint": "all parts of the run together",
    "stage": "where it was lost: read or select",
    "reason": "why, in a word",
    "detail": "why, in a sentence",
    "raw": "the value as read, shortened",
    "shard": "number of the prompt's shard",
    "round": "of routing, from 0",
}
"""What each column holds, in a few words; under `kind.column` where it differs in one kind."""


def meaning(kind: str, column: str) -> str:
    """What a column of a kind holds, in a few words."""
    return MEANINGS.get(f"{kind}.{column}", MEANINGS[column])


REPEATING = frozenset(
    {
        *("role", "language", "language_source", "source", "teachers", "sampling"),
        *("finish_reason", "gates", "family", "teacher", "model", "revision", "stage", "reason"),
        *("teacher_fingerprint", "arbiter_fingerprint", "selector_fingerprint"),
        *("run_fingerprint", "error", "wrong_lines", "rank", "rejected_teacher", "same_as"),
        "verdict",
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
