"""What a fuser is asked: to write one answer from all sound candidates of a prompt.

After FusioN (arXiv 2510.00931): instead of one candidate, the best of all of them together. The
candidates go to the fuser as JSON, which no text in them can end, without their authors' names and
in an order by lot, so that neither moves it. What it writes is scored like any other candidate.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from typing import TYPE_CHECKING

from arbitrage.config import for_language
from arbitrage.records import Prompt

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from arbitrage.config import FuserConfig
    from arbitrage.records import Message

Candidates = dict[str, list[str]]
"""Per prompt id the different completions that could be chosen."""


def gathered(rows: Iterable[tuple[str, str | None]], sound: Sequence[bool]) -> Candidates:
    """Candidates as (prompt id, completion), with whether each passes the gates; each text once,
    in an order by lot."""
    texts: dict[str, set[str]] = defaultdict(set)
    for (key, text), good in zip(rows, sound, strict=True):
        if good and text is not None:
            texts[key].add(text)
    return {key: sorted(own, key=lambda text: _lot(key, text)) for key, own in texts.items()}


def _lot(key: str, text: str) -> bytes:
    return hashlib.blake2b(f"{key}/{text}".encode(), digest_size=8).digest()


def wanted(candidates: Candidates, config: FuserConfig) -> set[str]:
    """The prompts with enough different candidates."""
    return {key for key, texts in candidates.items() if len(texts) >= config.least}


def fused(
    prompts: Iterable[Prompt], candidates: Mapping[str, Sequence[str]], config: FuserConfig
) -> list[Prompt]:
    """What the fuser is asked, under the prompts' own ids. A system prompt stays in its place."""
    found = []
    for prompt in prompts:
        before = [turn for turn in prompt.messages if turn["role"] == "system"]
        told = for_language(config.instruction, prompt.language) or ""
        case = {
            "conversation": [turn for turn in prompt.messages if turn["role"] != "system"],
            "answers": list(candidates[prompt.id]),
        }
        asked: Message = {
            "role": "user",
            "content": f"{told}\n\n{json.dumps(case, ensure_ascii=False, indent=1)}",
        }
        found.append(Prompt(prompt.id, prompt.language, [*before, asked]))
    return found
