"""One error type per boundary; each message is one sentence that says what to do.

`exit_code` is what the command line returns: 2 for what a user wrote, 75 for a stop that was asked
for, by hand or by a budget, and can be resumed, 1 for the rest. Whether a failure is retried is
decided by its type alone:

* `ItemError`: this one prompt or candidate cannot be done (too long, refused). Never retried; the
  row is written with its error.
* `EngineError`: the engine is not usable as configured. Never retried; its teacher is set aside.
* `EngineLostError`: the engine was usable and died. Its replica is replaced, its tasks retried.
* any other exception inside a task, or a dead replica: retried a bounded number of times.
"""

from __future__ import annotations


class ArbitrageError(Exception):
    """Base of every error that this package raises on purpose."""

    exit_code = 1


class UsageError(ArbitrageError):
    """Something that the user wrote or passed; nothing has been written to the run directory."""

    exit_code = 2


class ConfigError(UsageError):
    """The configuration is not valid, or names something that does not exist."""


class InputError(UsageError):
    """The prompt set as a whole cannot be used (no file, empty, unreadable, strict mode)."""


class StoreError(ArbitrageError):
    """The run directory cannot be read or written, or its content contradicts itself."""


class LockedError(StoreError):
    """Another driver holds the run directory."""

    exit_code = 2


class EngineError(ArbitrageError):
    """An engine could not be built or does not keep its contract; repeating would not help."""


class EngineLostError(ArbitrageError):
    """A loaded engine died (out of memory, a lost process); a new replica may go on."""


class ItemError(ArbitrageError):
    """One prompt could not be answered, or one candidate not be scored; the others can."""


class OverWindowError(ItemError):
    """A text is longer than the model's window."""


class StageError(ArbitrageError):
    """A stage would publish rows that do not match what it was given."""


class StaleInputError(StageError):
    """A scores file was made from other candidates than those now in the store.

    `scores` and `candidates` are the two store paths; scoring again mends it.
    """

    def __init__(self, scores: str, candidates: str) -> None:
        super().__init__(f"{scores} was made from another version of {candidates}")
        self.scores = scores
        self.candidates = candidates

    def __reduce__(self) -> tuple[type[StaleInputError], tuple[str, str]]:
        return (StaleInputError, (self.scores, self.candidates))


class Stopped(ArbitrageError):  # noqa: N818 - a request that was met, not a fault
    """The run stopped because it was asked to, or its budget is spent; it can be gone on with."""

    exit_code = 75
