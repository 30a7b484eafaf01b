"""Valid configs that may not mean what was meant: sentences for `plan` and `run`, never errors."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arbitrage.config import RunConfig, Served, TeacherConfig

APPLIED_FIRST = {"transformers": "top_p", "vllm": "min_p", "endpoint": "min_p"}
"""Which of min_p and top_p an engine applies first. The only endpoint that takes min_p at all is
vLLM's server; the fake engine samples nothing."""

_NAMES = {
    "llama": r"[a-z]*llama|vicuna",
    "qwen": "qwen|qwq|qvq",
    "mistral": "mistral|mixtral|ministral|codestral|magistral|devstral|pixtral",
    "gemma": r"[a-z]*gemma",
    "gemini": "gemini",
    "cohere": r"cohere|aya(?![a-z])|command[-_]?(?:r|a|light|nightly)(?![a-z])|c4ai",
    "phi": r"phi(?![a-z])",
    "deepseek": "deepseek",
    "yi": r"yi(?![a-z])",
    "gpt": r"chatgpt|gpt[-_]?(?:3|4|5|oss)|o[134](?:[-_](?:mini|pro|preview))?$",
    "glm": "(?:chat)?glm",
    **{
        name: name
        for name in (
            *("apertus", "baichuan", "bloom", "claude", "ernie", "eurollm", "exaone", "falcon"),
            *("granite", "grok", "hunyuan", "internlm", "jamba", "kimi", "minimax", "nemotron"),
            *("olmo", "pythia", "salamandra", "smollm", "solar"),
        )
    },
}
_FAMILIES = {name: re.compile(rf"(?<![a-z])(?:{text})") for name, text in _NAMES.items()}
"""How the name of a model, without its organisation, tells its families; a model that was distilled
into another one has two."""


def advice(config: RunConfig) -> list[str]:
    """One sentence for each thing to reconsider; none for most configs."""
    return [*_two_orders(config), *_own_kind(config)]


def _two_orders(config: RunConfig) -> list[str]:
    """min_p and top_p do not commute: both keep the likeliest tokens, but the mass that top_p
    measures is what the filters before it have left, so min_p first keeps fewer. top_k is no
    matter here: every engine applies it before top_p, and min_p and top_k commute."""
    first: dict[str, list[str]] = {"top_p": [], "min_p": []}
    for name, teacher in config.teachers.items():
        if teacher.engine in APPLIED_FIRST and _combines(teacher):
            first[APPLIED_FIRST[teacher.engine]].append(name)
    if not all(first.values()):
        return []
    return [
        f"min_p and top_p are combined in two orders, top_p first by {_named(first['top_p'])} and "
        f"min_p first by {_named(first['min_p'])}, which keeps fewer tokens for the same numbers; "
        "drop one of the two, either alone means the same everywhere"
    ]


def _combines(teacher: TeacherConfig) -> bool:
    return any(
        group.temperature > 0 and group.min_p > 0 and group.top_p < 1 for group in teacher.sampling
    )


def _named(teachers: Sequence[str]) -> str:
    return f"teacher{'s' * (len(teachers) > 1)} {', '.join(map(repr, teachers))}"


class _Kin(NamedTuple):
    """Families that a name tells, or that only the architecture of a local folder hints at."""

    named: frozenset[str]
    built: frozenset[str]

    def shared(self, other: _Kin) -> frozenset[str]:
        """Many models have the architecture of another family: so one of the two must be named."""
        return (self.named & other.named) | (self.named & other.built) | (self.built & other.named)


def _own_kind(config: RunConfig) -> list[str]:
    """A model scores what itself, or one of its family, wrote higher than others do, the more so
    the better it recognises it (Panickssery et al., "LLM Evaluators Recognize and Favor Their Own
    Generations", arXiv 2404.13076; of relatives: Li et al., "Preference Leakage", arXiv
    2502.01534)."""
    found: list[str] = []
    for name, arbiter in config.scorers.items():
        own = _kin(arbiter)
        alike: dict[str, list[str]] = defaultdict(list)
        for teacher, served in config.teachers.items():
            for family in sorted(own.shared(_kin(served))):
                alike[family].append(teacher)
        found += [
            f"Arbiter {name!r} and {_named(teachers)} seem to be of one model family, {family}; "
            "models tend to score answers of their own family higher (self-preference), so check "
            "with an Arbiter of another family who wins"
            for family, teachers in alike.items()
        ]
    return found


def _kin(served: Served) -> _Kin:
    """A folder's name, and what its config.json says that it was made from, count as names."""
    if served.engine == "fake" or served.model is None:
        return _Kin(frozenset(), frozenset())
    told = _told(Path(served.model))
    names = (served.model, getattr(served.options, "served_name", None), told.get("_name_or_path"))
    named = frozenset().union(*(_families(str(name)) for name in names if name))
    built = _families(str(told.get("model_type", "")))
    return _Kin(named, frozenset() if named else built)


def _families(name: str) -> frozenset[str]:
    last = name.rstrip("/").rpartition("/")[2].lower()
    return frozenset(family for family, pattern in _FAMILIES.items() if pattern.search(last))


def _told(folder: Path) -> dict[str, object]:
    """A local model's config.json; empty where there is none that can be read."""
    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
