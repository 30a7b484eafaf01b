"""Loaded by every Python process of a run that `chaos.py` disturbs: the driver and its replicas.

Makes the store fail on demand: while the file `ARBITRAGE_CHAOS_FAULT` is there, opening a file of
the run for writing, fsync and rename fail with the error that it names, each with its share of
chance. And counts: each completion that a teacher is asked for adds a byte to the file
`ARBITRAGE_CHAOS_ASKED`. Without these variables it does nothing.
"""

from __future__ import annotations

import builtins
import errno
import functools
import importlib.abc
import importlib.machinery
import io
import json
import os
import random
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

COUNTED = {
    "arbitrage.engines.fake": "FakeGenerator",
    "arbitrage.engines.transformers": "TransformersGenerator",
}


class Trouble:
    """Fails what touches files of the run while the fault file is there."""

    def __init__(self, fault: str) -> None:
        self._fault = fault
        self._open = io.open
        self._draw: random.Random | None = None

    def strike(self, place: Any) -> None:
        """Raises OSError, by chance, if `place` is a file below the runs' folder."""
        if not isinstance(place, str | os.PathLike) or not os.path.exists(self._fault):  # noqa: PTH110
            return
        path = os.path.abspath(os.fspath(place))  # noqa: PTH100 - Path is what is being disturbed
        try:
            with self._open(self._fault, encoding="utf-8") as file:
                told = json.load(file)
        except (OSError, ValueError):
            return
        if not path.startswith(told["below"] + os.sep):
            return
        if self._draw is None:
            self._draw = random.Random(f"{told['seed']}/{os.getpid()}")
        if self._draw.random() < told["share"]:
            number = getattr(errno, told["error"])
            raise OSError(number, os.strerror(number), path)

    def install(self) -> None:
        """Puts itself before the functions by which files are written."""
        opened, rename, replace, fsync, low = io.open, os.rename, os.replace, os.fsync, os.open

        @functools.wraps(opened)
        def open_file(file: Any, mode: str = "r", *args: Any, **more: Any) -> Any:
            if set(mode) & set("wax+"):
                self.strike(file)
            return opened(file, mode, *args, **more)

        @functools.wraps(low)
        def open_low(path: Any, flags: int, *args: Any, **more: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR):
                self.strike(path)
            return low(path, flags, *args, **more)

        @functools.wraps(fsync)
        def sync(handle: Any) -> None:
            number = handle if isinstance(handle, int) else handle.fileno()
            self.strike(os.readlink(f"/proc/self/fd/{number}"))  # noqa: PTH115
            fsync(handle)

        builtins.open = io.open = open_file
        os.open, os.fsync = open_low, sync  # type: ignore[assignment]
        os.rename, os.replace = self._before(rename), self._before(replace)

    def _before(self, move: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(move)
        def moved(source: Any, target: Any, **more: Any) -> None:
            self.strike(target)
            move(source, target, **more)

        return moved


class CountingLoader(importlib.machinery.SourceFileLoader):
    """Loads an engine's module and lets its generator count what it is asked for."""

    def exec_module(self, module: ModuleType) -> None:
        """Loads it as usual, then wraps `generate`."""
        super().exec_module(module)
        kind = getattr(module, COUNTED[module.__name__])
        kind.generate = _counted(kind.generate)


class CountingFinder(importlib.abc.MetaPathFinder):
    """Finds the modules of `COUNTED` where they are."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The usual place, with another loader."""
        if fullname not in COUNTED:
            return None
        found = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if found is not None and found.origin is not None:
            found.loader = CountingLoader(fullname, found.origin)
        return found


def _counted(generate: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(generate)
    async def counted(self: Any, prompt: Any, sampling: Any, seeds: Sequence[int]) -> Any:
        handle = os.open(
            os.environ["ARBITRAGE_CHAOS_ASKED"], os.O_WRONLY | os.O_APPEND | os.O_CREAT
        )
        try:
            os.write(handle, b"." * len(seeds))
        finally:
            os.close(handle)
        return await generate(self, prompt, sampling, seeds)

    return counted


if "ARBITRAGE_CHAOS_FAULT" in os.environ:
    Trouble(os.environ["ARBITRAGE_CHAOS_FAULT"]).install()
if "ARBITRAGE_CHAOS_ASKED" in os.environ:
    sys.meta_path.insert(0, CountingFinder())
