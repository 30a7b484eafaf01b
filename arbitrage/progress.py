"""Shows a run while it goes: a live table on a terminal, one plain line every 30 s elsewhere.

Knows nothing of the store or Ray: the pipeline hands it one `RoleProgress` per role.
"""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from rich.console import Console, Group
from rich.live import Live
from rich.progress import (
    BarColumn,
    DownloadColumn,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)
from rich.progress import Progress as Bars
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

PLAIN_EVERY_S = 30.0
LIVE_PER_SECOND = 4


class RoleProgress(NamedTuple):
    """One role now. `total` is what is known so far; it grows while prompts are being read."""

    name: str
    done: int
    total: int
    rows: int
    tokens: int
    replicas: int
    loading: bool
    set_aside: str = ""


class Progress:
    """Prints to standard error, so that standard output stays for results."""

    def __init__(self, *, quiet: bool = False, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._quiet = quiet
        self._started = time.monotonic()
        self._working_since: float | None = None
        self._last_line = self._started
        self._live: Live | None = None

    def __enter__(self) -> Self:
        if self._console.is_terminal and not self._quiet:
            self._live = Live(
                Text("starting Ray", style="dim"),
                console=self._console,
                refresh_per_second=LIVE_PER_SECOND,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        if not self._quiet:
            self._console.print(Text(text), soft_wrap=True)

    def show(self, roles: Sequence[RoleProgress]) -> None:
        """The state now; cheap to call often."""
        now = time.monotonic()
        if self._working_since is None and any(role.rows for role in roles):
            self._working_since = now
        if self._live is not None:
            self._live.update(self._table(roles, now))
        elif not self._quiet and now - self._last_line >= PLAIN_EVERY_S:
            self._last_line = now
            print(self._line(roles, now), file=sys.stderr, flush=True)

    def _elapsed(self, now: float) -> float:
        """Seconds since the first row; loading engines is no measure of speed."""
        return max(now - self._working_since, 1e-3) if self._working_since is not None else 0.0

    def _line(self, roles: Sequence[RoleProgress], now: float) -> str:
        told = [f"{r.name} {r.done}/{r.total}" for r in roles if r.total]
        tokens = sum(role.tokens for role in roles)
        elapsed = self._elapsed(now)
        rate = f", {tokens / elapsed:,.0f} tokens/s" if elapsed and tokens else ""
        return (
            f"{now - self._started:6.0f} s  shards: {', '.join(told)}{rate}{self._left(roles, now)}"
        )

    def _left(self, roles: Sequence[RoleProgress], now: float) -> str:
        """Time left by the slowest role, at the speed so far."""
        elapsed = self._elapsed(now)
        etas = [eta for role in roles if (eta := _eta_s(role, elapsed)) is not None]
        return f", about {_span(max(etas))} left" if etas else ""

    def _table(self, roles: Sequence[RoleProgress], now: float) -> Group:
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("")
        table.add_column("shards", justify="right")
        table.add_column("", width=24)
        for name in ("rows", "rows/s", "tokens/s", "replicas", "ETA"):
            table.add_column(name, justify="right")
        elapsed = self._elapsed(now)
        for role in roles:
            if role.total or role.replicas:
                table.add_row(*self._cells(role, elapsed))
        title = f"{_span(now - self._started)} elapsed   Ctrl-C stops; the same command goes on"
        return Group(Text(title, style="dim"), table)

    def _cells(self, role: RoleProgress, elapsed: float) -> list[str | Text | ProgressBar]:
        per_s = 1 / elapsed if elapsed else 0.0
        eta = _eta_s(role, elapsed)
        state = "loading" if role.loading else str(role.replicas)
        if role.set_aside:
            return [
                role.name,
                f"{role.done}/{role.total}",
                Text("set aside", style="red"),
                *[""] * 5,
            ]
        return [
            role.name,
            f"{role.done}/{role.total}",
            ProgressBar(total=max(role.total, 1), completed=role.done, width=24),
            f"{role.rows:,}",
            f"{role.rows * per_s:,.0f}",
            f"{role.tokens * per_s:,.0f}" if role.tokens else "",
            state,
            "" if eta is None else _span(eta),
        ]


def _eta_s(role: RoleProgress, elapsed: float) -> float | None:
    if not role.rows or role.done >= role.total or not role.done:
        return None
    return elapsed * (role.total - role.done) / role.done


def _span(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


@contextlib.contextmanager
def counted(what: str) -> Iterator[Callable[[int, int], None]]:
    """A line on a terminal's standard error that is told (done, all); nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda done, total: None
        return
    with console.status(what) as line:
        yield lambda done, total: line.update(f"{done:,} of {total:,} {what}")


@contextlib.contextmanager
def measured(what: str, *, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal's standard error that is told (bytes done, all), from any thread; a plain
    line every 30 s elsewhere; nothing where it is to be quiet."""
    console = Console(stderr=True)
    if quiet:
        yield lambda done, total: None
        return
    if not console.is_terminal:
        yield _Lines(what).tell
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Bars(*columns, console=console, transient=True) as bars:
        task = bars.add_task(what, total=None)
        yield lambda done, total: bars.update(task, completed=done, total=total)


class _Lines:
    """How far it is, for logs."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._last = time.monotonic()

    def tell(self, done: int, total: int) -> None:
        """A line now and then."""
        now = time.monotonic()
        if now - self._last >= PLAIN_EVERY_S:
            self._last = now
            told = f"{self._what}: {done / 1e9:,.1f} of {total / 1e9:,.1f} GB"
            print(told, file=sys.stderr, flush=True)
