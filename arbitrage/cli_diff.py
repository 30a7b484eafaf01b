"""The command that says what differs between two runs."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from arbitrage.terminal import SEE, AsJson, out, run_of


def add_to(main: typer.Typer) -> None:
    """Makes the command part of the command line."""
    main.command(rich_help_panel=SEE)(diff)


def diff(
    first: Annotated[
        str, typer.Argument(metavar="RUN_A", help="A run directory or address, or its config.")
    ],
    second: Annotated[str, typer.Argument(metavar="RUN_B", help="Another one.")],
    rows: Annotated[
        int,
        typer.Option("--rows", metavar="N", min=0, help="Show the N answers that differ most."),
    ] = 0,
    as_json: AsJson = False,
) -> None:
    """Say what differs between two runs: config, answers, rewards, gates and costs."""
    from arbitrage import differences, tables_diff
    from arbitrage.progress import counted

    with counted("shards read") as tell:
        found = differences.diff(run_of(first), run_of(second), tell, rows)
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
        return
    out.print(tables_diff.of_differences(found), soft_wrap=True)
    if rows:
        out.print(tables_diff.of_rows(found.rows, found.incomparable), soft_wrap=True)
