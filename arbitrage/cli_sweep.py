"""`arbitrage merge sweep`: a grid of merges, each made and evaluated."""

from __future__ import annotations

import contextlib
import json
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arbitrage import tables, tables_sweep
from arbitrage.deadline import seconds_until
from arbitrage.errors import ArbitrageError
from arbitrage.merging.sweep_config import load_sweep
from arbitrage.progress import Progress, measured
from arbitrage.stopping import stop_in, stop_on_signals
from arbitrage.terminal import AsJson, Overrides, out

if TYPE_CHECKING:
    from arbitrage.merging import sweep_config
    from arbitrage.merging.outcome import Swept

SweepPath = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The sweep's config.")]


def sweep(
    config: SweepPath,
    overrides: Overrides = None,
    stop_before: Annotated[
        str | None,
        typer.Option("--stop-before", metavar="TIME", help="Be over by then: 10m, 06:00."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be merged and asked; do nothing.")
    ] = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no table.")] = False,
) -> None:
    """Merge over a grid of methods and settings, evaluate every merge, and compare them.

    Makes every merge, answer and verdict that is missing and nothing twice: the same command
    resumes, and takes in a longer grid. Results: sweep.json in the sweep's folder. Exit code 1
    where a merge was refused or the evaluation is not whole.
    """
    loaded = load_sweep(config, overrides or ())
    if dry_run:
        _show_outlook(loaded, as_json=as_json)
        return
    from arbitrage.merging import merge
    from arbitrage.merging import sweep as sweeps

    now = datetime.now().astimezone()
    left_s = None if stop_before is None else seconds_until(stop_before, now)
    plan = sweeps.planned(loaded)
    progress = Progress(quiet=quiet)
    # Ray says on standard output that a replica died; that is for results alone.
    with contextlib.redirect_stdout(sys.stderr), stop_on_signals(progress) as stop:
        if left_s is not None:
            stop_in(left_s, plan.entry.loaded.config.cluster.grace_s, stop, progress)
        found = sweeps.sweep(
            plan, merge.merge, progress, stop, lambda what: measured(what, quiet=quiet)
        )
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
    elif not quiet:
        out.print(tables_sweep.of_sweep(found), soft_wrap=True)
        out.print(tables.harmless(f"written: {plan.folder / sweeps.RESULT}"), soft_wrap=True)
    _exit_for(found)


def _show_outlook(loaded: sweep_config.Loaded, *, as_json: bool) -> None:
    from arbitrage.merging.sweep_outlook import outlook_of

    found = outlook_of(loaded)
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        out.print(tables_sweep.of_outlook(found), soft_wrap=True)


def _exit_for(found: Swept) -> None:
    if found.refused:
        raise ArbitrageError(
            f"{len(found.refused)} of {len(found.points)} merges were refused, the first "
            f"{found.refused[0].name}: {found.refused[0].reasons[0]}"
        )
    if found.problems:
        raise ArbitrageError(found.problems[0])
