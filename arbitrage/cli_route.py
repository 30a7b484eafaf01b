"""The commands about routing: fit a router to a stored run, and report what routing saves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from arbitrage import tables_route
from arbitrage.errors import UsageError
from arbitrage.terminal import JUDGE, AsJson, RunPath, out, run_of

app = typer.Typer(
    help="Fit a router to a stored run, and say what routing saves and loses.",
    no_args_is_help=True,
)


def add_to(main: typer.Typer) -> None:
    """Makes these commands part of the command line."""
    main.add_typer(app, name="route", rich_help_panel=JUDGE)


@app.command()
def fit(
    place: RunPath,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Where to write the router.")
    ],
    router: Annotated[
        Literal["learned", "fixed"], typer.Option("--router", help="What is fitted.")
    ] = "learned",
    count: Annotated[
        int, typer.Option("--count", min=1, help="Teachers per prompt: of a table, of the regret.")
    ] = 1,
    as_json: AsJson = False,
) -> None:
    """Fit a router to a run's rewards; name the file in `routing.file` of the next config."""
    from arbitrage import routing

    found = routing.fit(run_of(place), router, count)
    try:
        output.write_text(found.text, encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{output} cannot be written: {error.strerror}") from error
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        out.print(tables_route.of_fitted(found, str(output)), soft_wrap=True)


@app.command()
def report(place: RunPath, as_json: AsJson = False) -> None:
    """Say what the run's routing saved, and what each router would have saved and lost."""
    from arbitrage import routing

    found = routing.report(run_of(place))
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        out.print(tables_route.of_report(found), soft_wrap=True)
