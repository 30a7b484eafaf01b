"""How much this process's engine has produced: by it a working engine is told from a hanging one.

Engines call `beat` for every token, step or answer, whatever thread they are on; a replica tells
the count on request. One engine lives in a process at a time, so one count is enough.
"""

from __future__ import annotations


class _Count:
    beats = 0


def beat(tokens: int = 1) -> None:
    """Something was produced."""
    _Count.beats += tokens


def beats() -> int:
    """A number that stands still when the engine does. Two threads may lose a beat between them."""
    return _Count.beats
