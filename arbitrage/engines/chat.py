"""From a conversation to tokens, by a model's own tokenizer and chat template.

Every engine that holds a tokenizer shares this, so that the same prompt is the same tokens in all
of them. Nothing is ever cut to fit.

    Chat(AutoTokenizer.from_pretrained(name), name).encode(messages, None, answer_next=True)
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any

import jinja2

from arbitrage.errors import EngineError, ItemError
from arbitrage.records import Completion

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arbitrage.records import Message, Prompt


class Chat:
    """A tokenizer of transformers; `name` is the model's, for messages."""

    def __init__(self, tokenizer: Any, name: str) -> None:
        self.tokenizer = tokenizer
        self._name = name

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

        Raises ItemError where the template refuses, EngineError where it is no template.
        """
        try:
            text = self.tokenizer.apply_chat_template(
                messages,
                chat_template=template,
                tokenize=False,
                add_generation_prompt=answer_next,
            )
            tokens: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        except jinja2.TemplateSyntaxError as error:
            raise EngineError(f"the chat template of {self._name} is no Jinja: {error}") from error
        except Exception as error:  # a template raises whatever it likes
            raise ItemError(f"the chat template refuses the conversation: {error}") from error
        if not tokens:
            raise ItemError("the chat template makes nothing of the conversation")
        return tokens

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
        self, prompt_tokens: int, made: Sequence[int], ends: set[int], stop: Sequence[str]
    ) -> Completion:
        """What was made, cut where one of the ends or a stop string ended it."""
        end = next((at for at, token in enumerate(made, 1) if token in ends), None)
        text = self.text(made[:end])
        cut = min((at for at in map(text.find, stop) if at >= 0), default=None)
        reason = "length" if end is None and cut is None else "stop"
        return Completion(text[:cut], reason, prompt_tokens, len(made[:end]))


def require_room(tokens: int, window: int | None, what: str) -> None:
    """Raises ItemError where the window is too small."""
    if window is not None and tokens > window:
        raise ItemError(f"{what} are more than the window of {window} tokens")


def token_ids(value: int | Sequence[int] | None) -> set[int]:
    """A setting that is one id, a list of ids, or nothing."""
    many = value if isinstance(value, list | tuple) else [value]
    return {one for one in many if isinstance(one, int)}
