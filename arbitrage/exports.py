"""The rows of a training set, in the forms that trainers read; strings in, plain data out.

Knows no run, teacher or file. A new form is one function and one line in `FORMATS`. The forms are
those of the tools' own documentation: TRL's "Dataset formats and types" (conversational language
modeling and preference, huggingface.co/docs/trl/dataset_formats), OpenAI's fine-tuning guide (chat
JSONL) and ShareGPT as Axolotl and LLaMA-Factory document it (`from` and `value`).
Invariant: a line of JSON holds no character at which any reader would break it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from arbitrage.records import Message

PARQUET, JSONL = "parquet", "jsonl"
BREAKING = re.compile("[\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What json leaves as it is: control characters, breaks of lines in Unicode, halves of pairs."""

_TEXT, _NUMBER = pa.string(), pa.float64()
COLUMNS = {
    "prompt_id": _TEXT,
    "user_id": _TEXT,
    "language": _TEXT,
    "family": _TEXT,
    "teacher": _TEXT,
    "model": _TEXT,
    "revision": _TEXT,
    "license": _TEXT,
    "reward": _NUMBER,
    "margin": _NUMBER,
}
"""What can stand beside the texts, all of it where nothing else is said. `license` is that of the
teacher's model; `margin` the distance to the next best answer, of a pair to the rejected one."""
PAIR_COLUMNS = {
    **COLUMNS,
    "rejected_teacher": _TEXT,
    "rejected_model": _TEXT,
    "rejected_license": _TEXT,
    "rejected_reward": _NUMBER,
}
"""The same of pairs; the rest is the chosen answer's."""
EXTRA = {"extra": _TEXT}
"""Left out unless it is asked for: the user's own columns, as JSON."""


class Said(NamedTuple):
    """An answer, and what the model wrote before it where that is wanted and known."""

    text: str
    reasoning: str | None = None


@dataclass(frozen=True)
class Row:
    """One row before it has a form. `messages`: the prompt's turns; `columns`: values by name."""

    messages: Sequence[Message]
    answer: Said
    rejected: Said | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)

    @property
    def characters(self) -> int:
        """How much text it holds, about."""
        said = [self.answer, *([self.rejected] if self.rejected else [])]
        turns = sum(len(turn["content"]) for turn in self.messages)
        return turns + sum(len(one.text) + len(one.reasoning or "") for one in said)


def _turn(said: Said) -> dict[str, str]:
    more = {} if said.reasoning is None else {"reasoning_content": said.reasoning}
    return {"role": "assistant", "content": said.text, **more}


def _prompt(row: Row) -> list[dict[str, str]]:
    return [{"role": turn["role"], "content": turn["content"]} for turn in row.messages]


def _messages(row: Row) -> dict[str, Any]:
    return {"messages": [*_prompt(row), _turn(row.answer)]}


def _preference(row: Row) -> dict[str, Any]:
    rejected = [] if row.rejected is None else [_turn(row.rejected)]
    return {"prompt": _prompt(row), "chosen": [_turn(row.answer)], "rejected": rejected}


SPEAKERS = {"system": "system", "user": "human", "assistant": "gpt"}


def _conversations(row: Row) -> dict[str, Any]:
    turns = [{"from": SPEAKERS[turn["role"]], "value": turn["content"]} for turn in row.messages]
    return {"conversations": [*turns, {"from": SPEAKERS["assistant"], "value": row.answer.text}]}


@dataclass(frozen=True)
class Format:
    """A form. `texts` are its own columns, made by `made`; `what` is for the card; `columns` are
    those that may stand beside them; `files` the kinds of files it comes in, the first by itself.
    `reasoning`: whether it has a place for it. `keys` are those of a turn."""

    made: Callable[[Row], dict[str, Any]]
    texts: tuple[str, ...]
    what: str
    columns: Mapping[str, pa.DataType] = field(default_factory=lambda: COLUMNS)
    reasoning: bool = False
    files: tuple[str, ...] = (PARQUET, JSONL)
    keys: tuple[str, str] = ("role", "content")

    @property
    def pairs(self) -> bool:
        """Whether it needs a rejected answer."""
        return "rejected" in self.texts

    def schema(self, columns: Sequence[str], *, reasoning: bool) -> pa.Schema:
        """The Arrow schema with these columns beside the texts."""
        keys = [*self.keys, *(["reasoning_content"] if reasoning else [])]
        turns = pa.list_(pa.struct([(key, pa.string()) for key in keys]))
        known = {**self.columns, **EXTRA}
        own = [(name, turns) for name in self.texts]
        return pa.schema([*own, *((name, known[name]) for name in columns)])

    def row(self, row: Row, columns: Sequence[str]) -> dict[str, Any]:
        """A row in this form."""
        return {**self.made(row), **{name: row.columns.get(name) for name in columns}}


TURNS, PAIR, TALK = ("messages",), ("prompt", "chosen", "rejected"), ("conversations",)

FORMATS: dict[str, Format] = {
    "sft": Format(_messages, TURNS, "conversations, TRL's form", reasoning=True),
    "dpo": Format(_preference, PAIR, "preference pairs, TRL's form", PAIR_COLUMNS, reasoning=True),
    "openai": Format(_messages, TURNS, "chats, OpenAI's form for fine-tuning", {}, files=(JSONL,)),
    "sharegpt": Format(_conversations, TALK, "chats, ShareGPT's form", keys=("from", "value")),
}
"""What a training set can look like, by name."""


def line_of(row: Mapping[str, Any]) -> str:
    """A row as one line of JSON: ASCII-safe where a reader could break it, readable elsewhere."""
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    return BREAKING.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
