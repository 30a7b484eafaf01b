"""Commands that look at a run while it goes or later: how far it is, what its files hold, what one
prompt's candidates are, what the gates found.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from arbitrage import tables, tables_inspect, tables_state
from arbitrage.errors import StoreError
from arbitrage.terminal import SEE, AsJson, RunPath, out, run_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arbitrage.state import Status

EVERY_S = 2.0
FAILURES = 5
"""So many looks in a row may fail before watching ends."""


def add_to(main: typer.Typer) -> None:
    """Makes these commands part of the command line."""
    for command in (status, inspection, show, gates):
        name = "inspect" if command is inspection else None
        main.command(name, rich_help_panel=SEE)(command)


def status(
    place: RunPath,
    watch: Annotated[
        bool, typer.Option("--watch", help="Look again and again until the run is over.")
    ] = False,
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", min=0.1, help="How often.")
    ] = EVERY_S,
    as_json: AsJson = False,
) -> None:
    """Say how far a run is, from its files alone, whether or not it is running.

    With --watch it goes on until the run is over or Ctrl-C: on a terminal in place, elsewhere with
    a line for each change.
    """
    from arbitrage import state

    run = run_of(place)
    if not watch:
        found = state.status(run)
        if as_json:
            print(json.dumps(found.as_dict(), indent=1))
        else:
            out.print(tables_state.of_status(found), soft_wrap=True)
        return
    try:
        if out.is_terminal and not as_json:
            _show_live(run, every)
        else:
            _tell_changes(run, every, as_json=as_json)
    except KeyboardInterrupt:  # to stop watching is no failure
        return


def _looks(run: str, every: float) -> Iterator[Status]:
    """One look after the other until the run is over; a look that fails may go well the next time.

    The pause is at least as long as a look takes.
    """
    from arbitrage import state

    notes: state.Notes = {}
    seen, failed = False, 0
    while True:
        begun = time.monotonic()
        try:
            found = state.status(run, notes)
        except StoreError:
            failed += 1
            if failed == FAILURES or not seen:
                raise
        else:
            seen, failed = True, 0
            yield found
            if not found.running:
                return
        time.sleep(max(every, time.monotonic() - begun))


def _show_live(run: str, every: float) -> None:
    from rich.live import Live

    with Live(console=out, auto_refresh=False) as live:
        for found in _looks(run, every):
            live.update(tables_state.of_status(found), refresh=True)


def _tell_changes(run: str, every: float, *, as_json: bool) -> None:
    """A line per change; as JSON one object per line, of the same looks."""
    last = ""
    for found in _looks(run, every):
        line = tables_state.line_of(found)
        if line == last:
            continue
        last = line
        if as_json:
            print(json.dumps(found.as_dict()), flush=True)
        else:
            print(f"{time.strftime('%H:%M:%S')}  {tables.harmless(line).plain}", flush=True)


def inspection(
    place: RunPath,
    kind: Annotated[
        Literal["selected", "candidates", "scores", "gates", "prompts", "routes", "quarantine"],
        typer.Option("--kind", help="Which files."),
    ] = "selected",
    rows: Annotated[int, typer.Option("--rows", metavar="N", min=0, help="Show so many rows.")] = 0,
    nulls: Annotated[
        bool, typer.Option("--nulls", help="Count nulls of long texts too, which reads them.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Say what the files of a run hold: rows by language and teacher, columns, nulls, a few rows.

    Those that its config has now; files of earlier configs are left out.
    """
    from arbitrage.inspection import inspect

    found = inspect(run_of(place), kind, rows, nulls=nulls)
    if as_json:
        print(json.dumps(found.as_dict(), indent=1, default=str))
    else:
        out.print(tables_inspect.of_inspection(found), soft_wrap=True)


def show(
    place: RunPath,
    prompt: Annotated[
        str, typer.Argument(metavar="PROMPT_ID", help="A prompt id, its start, or your own id.")
    ],
    as_json: AsJson = False,
) -> None:
    """Show a prompt with every candidate, its score and gates, best first."""
    from arbitrage import views

    found = views.show(run_of(place), prompt)
    if as_json:
        print(json.dumps(asdict(found), indent=1, default=str))
    else:
        out.print(tables.of_prompt(found), soft_wrap=True)


def gates(place: RunPath, as_json: AsJson = False) -> None:
    """Say what the gates found, by teacher and language; of stored files alone."""
    from arbitrage import failures, tables_gates

    found = failures.failures(run_of(place))
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        out.print(tables_gates.of_failures(found), soft_wrap=True)
