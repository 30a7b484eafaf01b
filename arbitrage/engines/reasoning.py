"""Keeps a model's reasoning apart from its answer, by the markers of a teacher's `reasoning:`.

One rule on text, for every engine. The text is what was made up to the end or the stop string that
ended it, and a stop string ends it wherever it stands, in the reasoning too.

* With an end marker, what stands before the first one is reasoning, and what follows is the answer,
  without leading white space. A start marker need not stand before it: many chat templates end with
  one. A further end marker is part of the answer.
* Without one, all is reasoning and the answer is empty where the text begins with the start marker,
  or where the prompt ends with it, white space aside in both. Else all is answer, as it is.
* Reasoning has no leading start marker and no white space around it; where nothing is left, there
  is none.

    parted("<think>12 or 13?</think> 13.", "<think>", "</think>")
"""

from __future__ import annotations

from typing import NamedTuple


class Parts(NamedTuple):
    """What a model made, in two."""

    reasoning: str | None
    answer: str


def parted(text: str, start: str, end: str, *, opened: bool = False) -> Parts:
    """Reasoning and answer; `opened` where the prompt ends with the start marker."""
    before, ended, after = text.partition(end)
    before = before.lstrip()
    if not (ended or opened or before.startswith(start)):
        return Parts(None, text)
    return Parts(before.removeprefix(start).strip() or None, after.lstrip())


def opens(prompt: str, start: str) -> bool:
    """Whether a prompt, as the template made it, has begun the reasoning already."""
    return prompt.rstrip().endswith(start)
