"""The command that writes the report of a run."""

from __future__ import annotations

import webbrowser
from pathlib import Path
from typing import Annotated

import typer

from arbitrage import tables
from arbitrage.terminal import SEE, RunPath, out, run_of


def add_to(main: typer.Typer) -> None:
    """Makes this command part of the command line."""
    main.command(rich_help_panel=SEE)(report)


def report(
    place: RunPath,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="FILE", help="Default: RUN/report.html."),
    ] = None,
    samples: Annotated[
        int, typer.Option("--samples", metavar="N", min=0, help="Show up to N prompts with texts.")
    ] = 600,
    winrate: Annotated[
        Path | None,
        typer.Option(
            "--winrate",
            metavar="PATH",
            help="Show the win rates of an evaluation too: its folder, or its winrate.json.",
        ),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write one HTML file that explains a run: what it gained, who could go, samples to read.

    It opens without a net, and holds texts of the run: share it as you would share those.
    """
    from arbitrage.report import write
    from arbitrage.winrate.results import read_results

    found = read_results(winrate) if winrate else None
    made = write(run_of(place), output, samples, found)
    out.print(tables.harmless(f"wrote {made.path} ({made.size / 1e6:.1f} MB)"), soft_wrap=True)
    if show:
        webbrowser.open(made.path.resolve().as_uri())
