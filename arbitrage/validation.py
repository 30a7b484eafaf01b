"""What a row must be like to be a prompt; every refusal has a reason, one word, and a detail."""

from __future__ import annotations

import json
from typing import Any

from arbitrage.languages import parse_tag
from arbitrage.records import ROLES, Message


class BadRowError(Exception):
    """This row is no prompt: `reason` is a word to count by, `detail` a sentence."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


def messages_of(fields: dict[str, Any], messages: str | None, prompt: str | None) -> list[Message]:
    """The conversation in a row: its `messages` column if it has one, else its `prompt` column."""
    if messages and fields.get(messages) is not None:
        return _conversation(fields[messages])
    if not prompt or prompt not in fields:
        wanted = " or ".join(repr(name) for name in (prompt, messages) if name)
        raise BadRowError("missing_column", f"there is no {wanted}")
    value = fields[prompt]
    if value is None:
        raise BadRowError("null_prompt", f"{prompt!r} is null")
    if not isinstance(value, str):
        kind = type(value).__name__
        raise BadRowError("wrong_type", f"{prompt!r} should be a string, not {kind}")
    return [{"role": "user", "content": value}]


def _conversation(value: Any) -> list[Message]:
    """Checks `messages`; a string is read as JSON, for formats without nested values."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError) as error:
            raise BadRowError("wrong_type", f"messages are no JSON: {error}") from None
    if not isinstance(value, list):
        raise BadRowError("wrong_type", f"messages should be a list, not {type(value).__name__}")
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
