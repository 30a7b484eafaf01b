"""A plain Python function as Arbiter: `function(prompt, completion, **arguments) -> float`.

    arbiter:
      engine: rule
      options: {function: "arbitrage.rules:length", arguments: {target: 400}}

It is given a `records.Prompt` and the completion's text, and gives a number: higher is better. For
a candidate that it cannot judge it raises ValueError, which becomes that candidate's error; any
other exception is the rule's own fault and ends the scoring. A plain function runs in a thread of
its own, one call at a time; of an `async` one many calls are in flight.

Its identity is the path, the arguments and the module's source (`sourcecode`), so a changed rule is
another Arbiter. The module is imported by the driver, before anything starts, and by each replica:
on a cluster that was joined, PYTHONPATH must lead to the same source on every node.
"""

from __future__ import annotations

import asyncio
import inspect
import math
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from numbers import Real
from typing import TYPE_CHECKING, Any, cast

from arbitrage import __version__
from arbitrage.errors import ConfigError, EngineError, ItemError
from arbitrage.pulse import beat
from arbitrage.sourcecode import located, source_digest

if TYPE_CHECKING:
    from arbitrage.components import Arbiter, Teacher
    from arbitrage.options import RuleOptions
    from arbitrage.records import Prompt


def build_generator(teacher: Teacher) -> Any:
    """There is none. Raises EngineError."""
    raise EngineError(f"teacher {teacher.name!r}: a rule judges answers and cannot give any")


def build_scorer(arbiter: Arbiter) -> RuleScorer:
    """Imports the function. Raises EngineError, also where its source is not the driver's."""
    options = cast("RuleOptions", arbiter.config.options)
    wanted = arbiter.identity.get("options", {}).get("source")
    try:
        function, source = located(options.function), source_digest(options.function)
    except ConfigError as error:
        raise EngineError(f"{error} (where the replica runs)") from error
    if wanted not in (None, source):
        raise EngineError(
            f"function {options.function!r} has another source here than where the run was started;"
            " start it again, or bring the same files to every node"
        )
    return RuleScorer(options, partial(function, **options.arguments))


class RuleScorer:
    """Judges completions with a function."""

    max_in_flight = 64

    def __init__(self, options: RuleOptions, function: partial[Any]) -> None:
        self._path = options.function
        self._function = function
        called = getattr(function.func, "__call__", None)  # noqa: B004 - its kind, not whether
        self._is_async = any(map(inspect.iscoroutinefunction, (function.func, called)))
        self._thread = ThreadPoolExecutor(1, "rule")

    def provenance(self) -> dict[str, str]:
        """The function's path and the version of this package."""
        return {"engine": "rule", "function": self._path, "version": __version__}

    def close(self) -> None:
        """Waits for nothing that is still in the function."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def score(self, prompt: Prompt, completion: str) -> float:
        """The function's number; ItemError where it has none for this candidate."""
        try:
            found = await self._called(prompt, completion)
        except ItemError:
            raise
        except ValueError as error:
            raise ItemError(f"the rule {self._path} cannot judge it: {error}") from error
        except Exception as error:
            raise EngineError(
                f"the rule {self._path} failed ({type(error).__name__}: {error}); mend it, or let "
                "it raise ValueError for a candidate that it cannot judge"
            ) from error
        beat()
        return _number(found)

    async def _called(self, prompt: Prompt, completion: str) -> Any:
        if self._is_async:
            return await self._function(prompt, completion)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, self._function, prompt, completion)


def _number(found: Any) -> float:
    if isinstance(found, bool) or not isinstance(found, Real):
        raise ItemError(f"the rule gave {found!r:.60}, which is no number")
    try:
        return float(found)
    except OverflowError:
        return math.inf
