"""What a row must be like to be a prompt; every refusal has a reason, one word, and a detail."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from arbitrage.languages import parse_tag
from arbitrage.records import ROLES, Message

if TYPE_CHECKING:
    from collections.abc import Sequence


TURNS = "turns"
"""So question sets after MT-Bench call a conversation: turns of the user, without roles. Only one
of a single turn can be asked as it is."""


class BadRowError(Exception):
    """This row is no prompt: `reason` is a word to count by, `detail` a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def first_of(fields: dict[str, Any], names: Sequence[str]) -> tuple[str | None, Any]:
    """The first of the columns that is there and not null, and its value; else one that is null;
    else none."""
    there = [name for name in names if name in fields]
    told = [name for name in there if fields[name] is not None]
    name = next(iter([*told, *there]), None)
    return name, None if name is None else fields[name]


def messages_of(
    fields: dict[str, Any], messages: Sequence[str], prompt: Sequence[str]
) -> list[Message]:
    """The conversation in a row: its `messages` column if it has one, else its `prompt` column."""
    column, turns = first_of(fields, messages)
    if turns is not None:
        return _conversation(turns, only_user=column == TURNS)
    name, value = first_of(fields, prompt)
    if name is None:
        wanted = " or ".join(repr(name) for name in (*prompt, *messages))
        raise BadRowError("missing_column", f"there is no {wanted}")
    if value is None:
        raise BadRowError("null_prompt", f"{name!r} is null")
    if not isinstance(value, str):
        kind = type(value).__name__
        raise BadRowError("wrong_type", f"{name!r} should be a string, not {kind}")
    return [{"role": "user", "content": value}]


def _conversation(value: Any, *, only_user: bool = False) -> list[Message]:
    """Checks `messages`; a string is read as JSON, for formats without nested values."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadRowError("wrong_type", f"messages are no JSON: {error}") from None
    if not isinstance(value, list):
        raise BadRowError("wrong_type", f"messages should be a list, not {type(value).__name__}")
    if only_user and len(value) == 1 and isinstance(value[0], dict):
        value = [{"role": "user", **value[0]}]
    turns = [_turn(item) for item in value]
    if not turns:
        raise BadRowError("blank_prompt", "messages are empty")
    if turns[-1]["role"] != "user":
        raise BadRowError("wrong_type", "the last message should be the user's")
    return turns


def _turn(item: Any) -> Message:
    role = item.get("role") if isinstance(item, dict) else None
    content = item.get("content") if isinstance(item, dict) else None
    if role not in ROLES or not isinstance(content, str):
        raise BadRowError(
            "wrong_type", "a message should be {role: system|user|assistant, content}"
        )
    return {"role": role, "content": content}


def check_text(messages: list[Message], max_chars: int) -> None:
    """Refuses blank, over-long and unstorable text; `max_chars` counts all turns together."""
    if not messages[-1]["content"].strip():
        raise BadRowError("blank_prompt", "the user's text is blank")
    total = sum(len(message["content"]) for message in messages)
    if total > max_chars:
        raise BadRowError("too_long", f"{total} characters, at most {max_chars} are allowed")
    for message in messages:
        storable(message["content"])


def storable(text: str) -> str:
    """The text, if it can be written as UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadRowError("invalid_utf8", str(error)) from None
    return text


def declared_language(value: Any) -> str:
    """The code of a declared language tag."""
    if not isinstance(value, str):
        raise BadRowError("unknown_language", f"a language tag is wanted, this is {value!r:.40}")
    if not value.strip():
        raise BadRowError("empty_language", "the language is declared as nothing")
    code = parse_tag(value)
    if code is None:
        raise BadRowError("unknown_language", f"{value!r:.40} is no known language tag")
    return code


def finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null instead."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return [finite(item) for item in value] if isinstance(value, list | tuple) else value
