"""A judge that knows the truth of the micro-world, as a rule for an Arbiter.

It is for checks of the measuring alone: its win rate must be exactly what exact match says.

    arbiters:
      truth: {engine: rule, options: {function: micro_truth:right}}  # scripts/ on PYTHONPATH
"""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING

from micro_world import HELDOUT

if TYPE_CHECKING:
    from arbitrage.records import Prompt


def right(prompt: Prompt, completion: str) -> float:
    """1 for exactly the right answer, else 0. Raises ValueError for a question of another world."""
    truth = answers().get(prompt.messages[-1]["content"])
    if truth is None:
        raise ValueError("this is no held-out question of the micro-world")
    return float(completion.strip() == truth)


@cache
def answers() -> dict[str, str]:
    """The right answer by the question's text."""
    found = {}
    for name, field in (("prompts", "prompt"), ("answers", "answer")):
        with (HELDOUT / f"{name}.jsonl").open(encoding="utf-8") as file:
            found[name] = {row["id"]: row[field] for row in map(json.loads, file)}
    return {text: found["answers"][key] for key, text in found["prompts"].items()}
