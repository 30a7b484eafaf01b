"""An engine whose answers have known faults: another language, foreign letters, loops, cuts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from arbitrage.records import Completion

TOLD = json.loads((Path(__file__).parent / "data/faulty.json").read_text(encoding="utf-8"))
QUESTIONS, ANSWERS = TOLD["questions"], TOLD["answers"]
"""Per language a sound answer and one with a fault: another language, foreign letters, a loop."""
HAN = "\u9996"


class Scripted:
    """Gives the sound answer, or now and then the one with a fault; or nothing, or half of one."""

    max_in_flight = 8

    def __init__(self, every: int) -> None:
        self._every = every

    def provenance(self) -> dict[str, str]:
        return {"engine": "scripted"}

    async def generate(self, prompt: Any, sampling: Any, seeds: Any) -> list[Any]:
        number = int(prompt.messages[0]["content"].rsplit(" ", 1)[1])
        bad = number % self._every == 0
        text = ANSWERS[prompt.language][bad]
        reason = "length" if number % 11 == 3 else "stop"
        return [Completion("" if number % 13 == 5 else text, reason, 3, 5) for _ in seeds]
