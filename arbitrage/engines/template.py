"""Chat templates as transformers reads them, for engines that hold no tokenizer.

Only the conversation is given to a template, so one that asks for more is refused.

    rendered(compiled(source), messages, answer_next=True)
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NoReturn

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from arbitrage.errors import EngineError, ItemError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arbitrage.records import Message


class _Unknown(jinja2.Undefined):
    """May be asked for, never printed: a name that nobody gives would vanish silently."""

    __str__ = jinja2.Undefined._fail_with_undefined_error


def _refuse(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def compiled(source: str) -> jinja2.Template:
    """A template that is safe to run. Raises EngineError where it can never be used."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=_Unknown,
        extensions=["jinja2.ext.loopcontrols"],
    )
    environment.globals["raise_exception"] = _refuse
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    try:
        template = environment.from_string(source)
        rendered(template, [{"role": "user", "content": "a"}], answer_next=True)
    except jinja2.TemplateSyntaxError as error:
        raise EngineError(f"`chat_template:` is no Jinja: {error}") from error
    except ItemError as error:  # it may want other messages than this one
        if isinstance(error.__cause__, jinja2.UndefinedError):
            raise EngineError(f"`chat_template:` cannot be used: {error.__cause__}") from error
    return template


def rendered(template: jinja2.Template, messages: Sequence[Message], *, answer_next: bool) -> str:
    """The conversation as text. Raises ItemError where the template refuses it."""
    try:
        text = template.render(messages=messages, add_generation_prompt=answer_next)
    except Exception as error:  # a template raises whatever it likes
        raise ItemError(f"the chat template refuses the conversation: {error}") from error
    if not text:
        raise ItemError("the chat template makes nothing of the conversation")
    return text
