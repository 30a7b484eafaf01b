"""Checks that a candidate passes or fails, each with a name; a failed one is never chosen.

Every gate is recorded for every candidate, enforced or not, so that a change of mind costs nothing.
A new gate is one function and one line in `GATES`; its name is a field of `config.GatesConfig`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def truncated(completion: str, finish_reason: str) -> bool:
    """The engine ended the answer (token budget), not the model."""
    del completion
    return finish_reason != "stop"


def empty(completion: str, finish_reason: str) -> bool:
    """There is nothing but white space."""
    del finish_reason
    return not completion or completion.isspace()


GATES: dict[str, Callable[[str, str], bool]] = {"truncated": truncated, "empty": empty}


def failed(completion: str, finish_reason: str) -> list[str]:
    """The names of all gates that a candidate fails."""
    return [name for name, fails in GATES.items() if fails(completion, finish_reason)]
