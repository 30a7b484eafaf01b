"""Valid configs that may not mean what was meant: sentences for `plan` and `run`, never errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arbitrage.config import RunConfig, TeacherConfig

APPLIED_FIRST = {"transformers": "top_p", "vllm": "min_p", "endpoint": "min_p"}
"""Which of min_p and top_p an engine applies first. The only endpoint that takes min_p at all is
vLLM's server; the fake engine samples nothing."""


def advice(config: RunConfig) -> list[str]:
    """One sentence for each thing to reconsider; none for most configs."""
    return _two_orders(config)


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
