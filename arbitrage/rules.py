"""Rules that can be Arbiters as they are, each a plain function of a prompt and a completion.

    arbiter:
      engine: rule
      options: {function: "arbitrage.rules:length", arguments: {target: 80, unit: words}}

A rule of your own is a function like these in a module of your own: it gives a number, higher is
better, and raises ValueError, one sentence, for a candidate that it cannot judge.
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Literal, NoReturn

from arbitrage.languages import Detector

if TYPE_CHECKING:
    from arbitrage.records import Prompt


def length(
    prompt: Prompt,
    completion: str,
    target: float,
    unit: Literal["characters", "words"] = "characters",
) -> float:
    """How near the length is to the target: 0 at it, -1 as far off as the target is long.

    Words are what stands between white space, which Chinese or Japanese does not write. Raises
    TypeError, as the rule itself is wrong then, for another unit or a target that is not above 0.
    """
    del prompt
    if unit not in ("characters", "words") or target <= 0:
        raise TypeError("`unit:` is characters or words, and `target:` a number above 0")
    size = len(completion) if unit == "characters" else len(completion.split())
    return -abs(size - target) / target


def matches(prompt: Prompt, completion: str, pattern: str, whole: bool = False) -> float:
    """1 where a regular expression of Python is found (`whole`: is all of it), else 0.

    Raises TypeError for an expression that is none. White space around the completion is left out.
    """
    del prompt
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise TypeError(f"`pattern:` is no regular expression: {error}") from error
    text = completion.strip()
    return float((found.fullmatch(text) if whole else found.search(text)) is not None)


def language(prompt: Prompt, completion: str) -> float:
    """The share of lines in the prompt's language, among those whose language can be told.

    Raises ValueError where that is none of them: no letters, say.
    """
    found = [_detector().detect(line).language for line in completion.splitlines()]
    told = [code for code in found if code is not None]
    if not told:
        raise ValueError("the language of no line can be told")
    return told.count(prompt.language) / len(told)


def json_valid(prompt: Prompt, completion: str) -> float:
    """1 where the whole completion is one JSON value (RFC 8259: no NaN, no Infinity), else 0."""
    del prompt
    try:
        json.loads(completion, parse_constant=_refuse)
    except (ValueError, RecursionError):
        return 0.0
    return 1.0


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


@cache
def _detector() -> Detector:
    return Detector()
