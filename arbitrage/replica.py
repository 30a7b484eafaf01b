"""A replica as the driver sees it, and the environment that it is given. Knows no Ray."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from arbitrage.placement import Place, Slots
    from arbitrage.plan import Task

PACKAGE = Path(__file__).resolve().parent


@dataclass
class Replica:
    """One actor as the driver sees it; `fresh` until it gets its second engine; `group`: the
    placement group of a spread one; `since`: when it began to load, `given`: its tasks' starts;
    `prepared`: the roles that its process was told to make ready for."""

    name: str
    owner: str
    demand: Slots
    handle: Any
    loaded: bool = False
    fresh: bool = True
    tasks: dict[Any, Task] = field(default_factory=dict)
    place: Place = ()
    group: Any = None
    draining: bool = False
    since: float = 0.0
    given: dict[Any, float] = field(default_factory=dict)
    prepared: set[str] = field(default_factory=set)


class Lending:
    """Gives another environment this package and nothing else of the driver's.

    The folder that the package lies in may be the driver's site-packages, whose libraries would
    come before the other environment's own: so it is lent through a folder of its own.
    """

    def __init__(self) -> None:
        self._folder: TemporaryDirectory[str] | None = None

    def environment(self, python: str, *, joined: bool) -> dict[str, Any]:
        """Ray's `runtime_env` for a Python; on a joined cluster the whole job lends the package."""
        if joined:
            return {"py_executable": python}
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="arbitrage-")
            (Path(self._folder.name) / PACKAGE.name).symlink_to(PACKAGE)
        return {"py_executable": python, "env_vars": {"PYTHONPATH": self._folder.name}}

    def end(self) -> None:
        """Takes it back."""
        if self._folder is not None:
            self._folder.cleanup()
