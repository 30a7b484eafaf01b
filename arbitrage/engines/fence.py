"""Keeps text text: nothing that a turn says is read as a control token.

A chat template writes control tokens (`<|im_start|>`, `</s>`) around the turns as text, which the
tokenizer then reads. The same text inside a turn would be read alike: an answer could end its own
turn and speak as system to the model that scores it. So where a turn holds such text, what the
template makes of the conversation is cut after the first character of it, and the parts are
tokenised one by one. Every other conversation is one part. A tokenizer that begins each text with a
space shows one at a cut.

Control tokens are all special tokens, and added tokens in brackets that the template writes.
Two cases are of their own:

* A template that reads such text itself, `</think>` say, would be misled by a mark. In the model's
  earlier turns such tokens, and the teacher's reasoning markers, stay what they are: they are its
  own words. Where a special token, or one in an answer that is scored, is read so, whatever looks
  like a control token in that conversation gets a visible space instead of a cut.
* Where the tokenizer normalises its text first, other characters may become control tokens (full
  width ones, say). Then the turn is normalised before it is looked at.

    Fence(tokenizer, template).parts(messages, render, answered=True)
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from arbitrage.records import Message

    Render = Callable[[Sequence[Message]], str]

_NEVER = re.compile(r"(?!)")
_MARKS = range(0xE000, 0x110000)
"""Candidates for the mark: private characters first, and more than any text can use up."""


class Fence:
    """What a tokenizer takes for control tokens, with one template; `own` are reasoning markers."""

    def __init__(self, tokenizer: Any, template: str, own: Iterable[str] = ()) -> None:
        added = list(getattr(tokenizer, "added_tokens_decoder", {}).values())
        special = {str(one) for one in added if one.special} | {*tokenizer.all_special_tokens}
        written = {str(one) for one in added if _in_brackets(str(one)) and str(one) in template}
        control = sorted((t for t in special | written if len(t) > 1), key=len, reverse=True)
        self._normalises = any(one.normalized for one in added if str(one) in control)
        self._special = {text.casefold() for text in special}
        self._own = {text.casefold() for text in own}
        self._hint = _hint_of(control)
        self._suspect = _any_of(control, re.IGNORECASE)
        self._control = self._suspect if self._normalises else _any_of(control)

    def parts(self, messages: Sequence[Message], render: Render, *, answered: bool) -> list[str]:
        """The conversation as `render` writes it, in parts to be tokenised one by one.

        `answered`: the last turn is an answer that is scored. Raises what `render` raises.
        """
        messages = [self._normal(message) for message in messages]
        text = render(messages)
        if not any(self._hint.search(message["content"]) for message in messages):
            return [text]
        mark = _unused("".join([text, *(message["content"] for message in messages)]))
        kept = self._kept(messages, render, answered=answered)
        marked = render(self._marked(messages, mark, kept))
        if marked.replace(mark, "") == text:
            return self._cut(text, marked.split(mark))
        return [render(self._marked(messages, " ", kept))]

    def _normal(self, message: Message) -> Message:
        if not self._normalises:
            return message
        content = unicodedata.normalize("NFKC", message["content"])
        return {**message, "content": content} if self._hint.search(content) else message

    def _kept(
        self, messages: Sequence[Message], render: Render, *, answered: bool
    ) -> list[Collection[str]]:
        """For each turn, the tokens that stay tokens: the model's own, in its earlier turns."""
        spoken = [message["role"] == "assistant" for message in messages]
        spoken[-1] &= not answered
        said = [m["content"] for m, speaks in zip(messages, spoken, strict=True) if speaks]
        found = {match[1].casefold() for text in said for match in self._suspect.finditer(text)}
        read = {one for one in found - self._special if self._reads(one, found, messages, render)}
        return [self._own | read if speaks else () for speaks in spoken]

    def _reads(
        self, token: str, found: set[str], messages: Sequence[Message], render: Render
    ) -> bool:
        """Whether the template looks for a token in the model's turns by itself."""
        text = render(messages)
        mark = _unused("".join([text, *(message["content"] for message in messages)]))
        others = found - {token}
        kept = [others if m["role"] == "assistant" else self._everything(m) for m in messages]
        return render(self._marked(messages, mark, kept)).replace(mark, "") != text

    def _everything(self, message: Message) -> set[str]:
        return {match[1].casefold() for match in self._suspect.finditer(message["content"])}

    def _marked(
        self, messages: Sequence[Message], mark: str, kept: Sequence[Collection[str]]
    ) -> list[Message]:
        """The turns with a mark after the first character of whatever may be a control token."""
        return [
            {**message, "content": self._with_marks(message["content"], mark, tokens)}
            for message, tokens in zip(messages, kept, strict=True)
        ]

    def _with_marks(self, text: str, mark: str, kept: Collection[str]) -> str:
        places = [
            match.start() + 1
            for match in self._suspect.finditer(text)
            if match[1].casefold() not in kept
        ]
        return mark.join(text[a:b] for a, b in zip([0, *places], [*places, None], strict=True))

    def _cut(self, text: str, pieces: list[str]) -> list[str]:
        """The text cut between those pieces where a control token would be read."""
        parts = [""]
        at = 0
        for piece in pieces:
            if at and self._control.match(text, at - 1):
                parts.append(piece)
            else:
                parts[-1] += piece
            at += len(piece)
        return parts


def _in_brackets(text: str) -> bool:
    return len(text) > 2 and not text[0].isalnum() and not text[-1].isalnum() and not text.isspace()


def _any_of(texts: Sequence[str], flags: int = 0) -> re.Pattern[str]:
    """Finds each place where one of the texts begins, overlapping ones too; group 1 is the text."""
    return re.compile(f"(?=({'|'.join(map(re.escape, texts))}))", flags) if texts else _NEVER


def _hint_of(texts: Sequence[str]) -> re.Pattern[str]:
    """Finds one of the texts, or what looks alike, many times faster than `_any_of`."""
    if not texts:
        return _NEVER
    first = "".join(sorted({re.escape(text[0]) for text in texts}))
    rest = "|".join(sorted({re.escape(text[1:]) for text in texts}))
    return re.compile(f"[{first}](?:{rest})", re.IGNORECASE)


def _unused(text: str) -> str:
    return next(mark for mark in map(chr, _MARKS) if mark not in text)
