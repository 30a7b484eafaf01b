"""From a conversation to tokens, by a model's own tokenizer and chat template.

Every engine that holds a tokenizer shares this, so that the same prompt is the same tokens in all
of them. Nothing is ever cut to fit. What a turn says is never read as a control token: `fence`.

    Chat(AutoTokenizer.from_pretrained(name), name).encode(messages, None, answer_next=True)
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2

from arbitrage.engines.fence import Fence
from arbitrage.engines.reasoning import Parts, opens, parted
from arbitrage.errors import EngineError, ItemError, OverWindowError
from arbitrage.records import Completion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arbitrage.config import Reasoning
    from arbitrage.records import Message, Prompt

_STAND_INS = ("\ud800", "\ud801")
"""For marker tokens that no text shows; no decoded text holds half a character."""


class _Marker(NamedTuple):
    """What to look for in a text; `token` is the id of a marker that decoding leaves out."""

    text: str
    token: int | None


class Asked(NamedTuple):
    """A conversation whose answer comes next; `opened` where its reasoning has begun already."""

    tokens: list[int]
    opened: bool


class Chat:
    """A tokenizer of transformers; `name` is the model's, for messages.

    A marker of `reasoning` that is a special token, which no text shows, is that token alone and
    found by its id; any other one is found in the text.
    """

    def __init__(self, tokenizer: Any, name: str, reasoning: Reasoning | None = None) -> None:
        self.tokenizer = tokenizer
        self._name = name
        self._reasoning = reasoning
        self._fences: dict[str | None, Fence] = {}
        if reasoning is not None:
            self._markers = [*map(self._marker, (reasoning.start, reasoning.end), _STAND_INS)]

    def check_templates(self, templates: Sequence[str | None]) -> None:
        """None stands for the model's own. Raises EngineError."""
        for template in set(templates):
            if template is None and not self.tokenizer.chat_template:
                raise EngineError(
                    f"model {self._name} has no chat template of its own; give it `chat_template:`"
                )
            with contextlib.suppress(ItemError):  # it may want other messages than this one
                self.encode([{"role": "user", "content": "a"}], template, answer_next=True)

    def encode(
        self, messages: Sequence[Message], template: str | None, *, answer_next: bool
    ) -> list[int]:
        """The conversation's tokens; the template alone says which special ones are in it.

        Without an answer next, the last turn is an answer that is scored. Raises ItemError where
        the template refuses, EngineError where it is no template.
        """
        return self._encode(messages, template, answer_next=answer_next)[1]

    def ask(
        self,
        messages: Sequence[Message],
        template: str | None,
        max_tokens: int = 0,
        window: int | None = None,
    ) -> Asked:
        """What a model is to go on with, with room for an answer of `max_tokens`, or an ItemError.

        Raises as `encode` does.
        """
        text, tokens = self._encode(messages, template, answer_next=True)
        what = f"{len(tokens)} prompt tokens and max_tokens {max_tokens}"
        require_room(len(tokens) + max_tokens, window, what)
        opened = self._reasoning is not None and opens(text, self._reasoning.start)
        return Asked(tokens, opened)

    def _encode(
        self, messages: Sequence[Message], template: str | None, *, answer_next: bool
    ) -> tuple[str, list[int]]:
        """A conversation as the template writes it, and as tokens."""

        fence = self._fence(template)

        def render(turns: Sequence[Message]) -> str:
            text: str = self.tokenizer.apply_chat_template(
                turns, chat_template=template, tokenize=False, add_generation_prompt=answer_next
            )
            return text

        try:
            parts = fence.parts(messages, render, answered=not answer_next)
            encoded = self.tokenizer(parts, add_special_tokens=False)["input_ids"]
        except jinja2.TemplateSyntaxError as error:
            raise EngineError(f"the chat template of {self._name} is no Jinja: {error}") from error
        except Exception as error:  # a template raises whatever it likes
            raise ItemError(f"the chat template refuses the conversation: {error}") from error
        tokens = [token for part in encoded for token in part]
        if not tokens:
            raise ItemError("the chat template makes nothing of the conversation")
        return "".join(parts), tokens

    def _fence(self, template: str | None) -> Fence:
        if template not in self._fences:
            source = template or str(self.tokenizer.chat_template)
            markers = (self._reasoning.start, self._reasoning.end) if self._reasoning else ()
            self._fences[template] = Fence(self.tokenizer, source, markers)
        return self._fences[template]

    def encode_answered(
        self, prompt: Prompt, completion: str, template: str | None, window: int | None
    ) -> list[int]:
        """A prompt with its answer, whole, or an ItemError."""
        answer: Message = {"role": "assistant", "content": completion}
        tokens = self.encode([*prompt.messages, answer], template, answer_next=False)
        require_room(len(tokens), window, f"{len(tokens)} tokens of prompt and completion")
        return tokens

    def text(self, tokens: Sequence[int]) -> str:
        """What tokens say, without the special ones."""
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return str(self.tokenizer.decode(tokens, **options))

    def completion(
        self, asked: Asked, made: Sequence[int], ends: set[int], stop: Sequence[str]
    ) -> Completion:
        """What was made, cut where one of the ends or a stop string ended it, and then parted."""
        end = next((at for at, token in enumerate(made, 1) if token in ends), None)
        kept = list(made[:end])
        text = self.text(kept)
        cut = min((at for at in map(text.find, stop) if at >= 0), default=None)
        reason = "length" if end is None and cut is None else "stop"
        reasoning, answer = self._parted(kept, text[:cut], opened=asked.opened)
        return Completion(answer, reason, len(asked.tokens), len(kept), reasoning)

    def _parted(self, tokens: list[int], text: str, *, opened: bool) -> Parts:
        """Parts a text that is all that `tokens` say, or the start of it."""
        if self._reasoning is None:
            return Parts(None, text)
        (start, start_token), (end, end_token) = self._markers
        at = self._place(start_token, tokens, text)
        opened |= at is not None and not text[:at].strip()
        at = self._place(end_token, tokens, text)
        if at is not None:
            text = text[:at] + end + text[at:]
        return parted(text, start, end, opened=opened)

    def _place(self, marker: int | None, tokens: list[int], text: str) -> int | None:
        """How many characters of the text stand before the first such token, if it is in there."""
        if marker is None or marker not in tokens:
            return None
        at = len(self.text(tokens[: tokens.index(marker)]))
        return at if at <= len(text) else None

    def _marker(self, text: str, stand_in: str) -> _Marker:
        token: int | None = self.tokenizer.get_vocab().get(text)
        unseen = token is not None and not self.text([token])
        return _Marker(stand_in, token) if unseen else _Marker(text, None)


def require_room(tokens: int, window: int | None, what: str) -> None:
    """Raises OverWindowError where the window is too small."""
    if window is not None and tokens > window:
        raise OverWindowError(f"{what} are more than the window of {window} tokens")


def token_ids(value: int | Sequence[int] | None) -> set[int]:
    """A setting that is one id, a list of ids, or nothing."""
    many = value if isinstance(value, list | tuple) else [value]
    return {one for one in many if isinstance(one, int)}
