"""`arbitrage winrate`: models' answers compared in pairs by judges."""

from __future__ import annotations

import contextlib
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from arbitrage import tables, tables_outlook, tables_winrate
from arbitrage.deadline import seconds_until
from arbitrage.errors import ArbitrageError, Stopped, UsageError
from arbitrage.stopping import stop_in, stop_on_signals
from arbitrage.terminal import JUDGE, AsJson, Overrides, out
from arbitrage.winrate.loading import load_winrate

if TYPE_CHECKING:
    from arbitrage.winrate.evaluation import Evaluation

EvaluationPath = Annotated[
    Path, typer.Argument(metavar="CONFIG.yaml", help="The evaluation's config.")
]


def add_to(app: typer.Typer) -> None:
    """Adds the command to the command line."""
    app.command(rich_help_panel=JUDGE)(winrate)


def winrate(
    config: EvaluationPath,
    overrides: Overrides = None,
    retry_failed: Annotated[
        bool,
        typer.Option("--retry-failed", help="Ask again where there is no answer or no verdict."),
    ] = False,
    page: Annotated[
        Path | None, typer.Option("--html", metavar="FILE", help="Write the results as a page.")
    ] = None,
    stop_before: Annotated[
        str | None,
        typer.Option("--stop-before", metavar="TIME", help="Be over by then: 10m, 06:00."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be asked, and do nothing.")
    ] = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no table.")] = False,
) -> None:
    """Compare models in pairs and say who wins, per language, with intervals.

    Makes every answer and verdict that is missing and nothing twice: the same command resumes,
    adds models and judges, and sums up. Results: winrate.json in the evaluation's folder.
    """
    loaded = load_winrate(config, overrides or ())
    if page is not None and not page.absolute().parent.is_dir():
        raise UsageError(
            f"--html {page}: there is no folder {page.absolute().parent}; make it first"
        )
    if dry_run:
        from arbitrage.winrate.outlook import outlook

        out.print(tables_outlook.of_outlook(outlook(loaded.config, again=retry_failed)))
        return
    from arbitrage.progress import Progress
    from arbitrage.winrate import evaluation

    now = datetime.now().astimezone()
    left_s = None if stop_before is None else seconds_until(stop_before, now)
    progress = Progress(quiet=quiet)
    with contextlib.redirect_stdout(sys.stderr), stop_on_signals(progress) as stop:
        if left_s is not None:
            stop_in(left_s, loaded.config.cluster.grace_s, stop, progress)
        found = evaluation.run(loaded, progress, stop, again=retry_failed)
    _show(found, page, as_json=as_json, quiet=quiet)
    _exit_for(found)


def _show(found: Evaluation, page: Path | None, *, as_json: bool, quiet: bool) -> None:
    if found.results is None:
        return
    if page is not None:
        from arbitrage import winrate_page

        try:
            page.write_text(winrate_page.write(found.results), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"{page} cannot be written: {error.strerror}") from error
    if as_json:
        print(found.results.as_json(), end="")
    elif not quiet:
        out.print(tables_winrate.of_results(found.results), soft_wrap=True)
        written = [f"{found.address}/winrate.json", *([str(page)] if page else [])]
        out.print(Text(f"written: {', '.join(written)}"), soft_wrap=True)


def _exit_for(found: Evaluation) -> None:
    if found.stopped:
        raise Stopped("stopped on request; the same command goes on from here")
    if found.given_up:
        first, why = next(iter(found.given_up.items()))
        raise ArbitrageError(
            f"not complete: {first.output} failed for good ({why}) and {len(found.given_up) - 1} "
            "more steps with it; mend the cause and run again, all that was made is kept"
        )
    if found.held:
        spent = tables.of_budget(found.limits)
        raise Stopped(
            f"the budget does not pay for the next shard ({spent} are spent); {found.held:,} "
            "questions are unfinished; raise `budget:` and the same command goes on"
        )
    if found.results is None:
        raise ArbitrageError("no game could be played: no question has two answers")
    if not any(row.games for row in found.results.rows):
        raise ArbitrageError("no game has a verdict; mend the judge or its template, and run again")
