"""The command line. Exit codes: 0 complete; 1 something failed, or nothing could be selected;
2 wrong usage, nothing written; 3 complete but rows are in quarantine (with --strict-ledger); 75
stopped on request or because the budget is spent, resumable.
"""

from __future__ import annotations

import contextlib
import json
import sys
from datetime import datetime
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from arbitrage import (
    __version__,
    cli_arbiter,
    cli_diff,
    cli_export,
    cli_judgements,
    cli_leaderboard,
    cli_look,
    cli_merge,
    cli_report,
    cli_route,
    cli_winrate,
    tables,
    tables_plan,
)
from arbitrage.configfile import load
from arbitrage.deadline import seconds_until
from arbitrage.errors import ArbitrageError, Stopped, UsageError
from arbitrage.files import has_scheme
from arbitrage.stopping import stop_in, stop_on_signals
from arbitrage.terminal import (
    KEEP,
    MAKE,
    AsJson,
    ConfigPath,
    Overrides,
    RunPath,
    err,
    out,
    run_of,
)

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arbitrage.configfile import Loaded
    from arbitrage.estimate import Figures
    from arbitrage.summary import Summary

app = typer.Typer(
    name="arbitrage",
    help="Multilingual synthetic-data arbitrage: a pool of teachers answers every prompt, the "
    "Arbiter scores every completion, and the best one per prompt lands in Parquet.",
    epilog="Exit codes: 0 complete, 1 something failed, 2 wrong usage, 3 complete with quarantined "
    "rows (--strict-ledger), 75 stopped on request or by the budget, and resumable.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def main() -> None:
    """Entry point: errors of this package become one sentence and an exit code."""
    try:
        app()
    except ArbitrageError as error:
        err.print(
            tables.harmless(f"arbitrage: {error}", "bold red" if err.is_terminal else ""),
            soft_wrap=True,
        )
        sys.exit(error.exit_code)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before a command."""


@app.command(rich_help_panel=MAKE)
def init(
    path: Annotated[Path, typer.Argument(help="Where to write the config.")] = Path(
        "arbitrage.yaml"
    ),
) -> None:
    """Write a commented example config, and a few prompts to run it on."""
    wanted = {path: "arbitrage.yaml", path.with_name("prompts.jsonl"): "prompts.jsonl"}
    if path.exists():
        raise UsageError(f"{path} is there already; name another file: arbitrage init other.yaml")
    for target, name in wanted.items():
        if not target.exists():
            text = (resources.files("arbitrage") / "templates" / name).read_text(encoding="utf-8")
            try:
                target.write_text(text, encoding="utf-8")
            except OSError as error:
                raise UsageError(f"{target} cannot be written: {error.strerror}") from error
            out.print(Text(f"wrote {target}"))
    out.print(Text(f"next: arbitrage run {path}"))


@app.command(rich_help_panel=MAKE)
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse the first bad input row; nothing is written.")
    ] = False,
    strict_ledger: Annotated[
        bool, typer.Option("--strict-ledger", help="Exit with 3 when any row is in quarantine.")
    ] = False,
    stop_before: Annotated[
        str | None,
        typer.Option(
            "--stop-before",
            metavar="TIME",
            help="Be over by then, resumable: 10m, 1h30m (from now), 06:00, 2030-01-31T06:00.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what `plan` says and do nothing.")
    ] = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")] = False,
) -> None:
    """Make everything that is missing. The same command resumes, adds teachers, judges anew.

    Ctrl-C (or SIGTERM, SIGUSR1) ends the answers that are begun and stops; a second one stops at
    once. Either way the same command goes on from there.
    """
    loaded = load(config, overrides or ())
    if dry_run:
        _show_plan(loaded, None, as_json=as_json)
        return
    from arbitrage import pipeline
    from arbitrage.progress import Progress

    now = datetime.now().astimezone()
    left_s = None if stop_before is None else seconds_until(stop_before, now)
    progress = Progress(quiet=quiet)
    # Ray says on standard output that a replica died; that is for results alone.
    with contextlib.redirect_stdout(sys.stderr), stop_on_signals(progress) as stop:
        if left_s is not None:
            stop_in(left_s, loaded.config.cluster.grace_s, stop, progress)
        summary = pipeline.run(loaded, progress, stop, strict=strict)
    if as_json:
        print(json.dumps(summary.as_dict(), indent=1))
    elif not quiet:
        out.print(tables.of_summary(summary), soft_wrap=True)
    _exit_for(summary, strict_ledger=strict_ledger)


def _exit_for(summary: Summary, *, strict_ledger: bool) -> None:
    if summary.stopped:
        raise Stopped("stopped on request; the same command goes on from here")
    if summary.given_up:
        first, why = next(iter(summary.given_up.items()))
        raise ArbitrageError(
            f"not complete: {first} failed for good ({why}) and {len(summary.given_up) - 1} more "
            "steps with it; mend the cause or take that part out of the config and run again, all "
            "that was made is kept"
        )
    if summary.held:
        spent = tables.of_budget(summary.budget)
        raise Stopped(
            f"the budget does not pay for the next shard ({spent} are spent); {summary.held:,} "
            "prompts are unfinished; raise `budget:` and the same command goes on"
        )
    if summary.ledger.unfinished:
        raise ArbitrageError(f"{summary.ledger.unfinished} prompts are unfinished; run again")
    if summary.ledger.prompts and not summary.ledger.selected:
        why = ", ".join(f"{reason} {n:,}" for reason, n in summary.ledger.quarantined.items())
        raise ArbitrageError(
            f"none of {summary.ledger.prompts:,} prompts has an answer that could be selected "
            f"({why}); see one with `arbitrage show`, mend the teachers, the Arbiter or `gates:`, "
            "and run again"
        )
    if strict_ledger and summary.ledger.lost:
        raise typer.Exit(3)


@app.command(rich_help_panel=MAKE)
def plan(
    config: ConfigPath,
    overrides: Overrides = None,
    probe: Annotated[
        int | None,
        typer.Option(
            "--probe",
            metavar="N",
            min=1,
            help="Try N prompts per teacher first, apart from the run: 16, say.",
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Say what `run` would do, why, and what it would take; write nothing."""
    loaded = load(config, overrides or ())
    _show_plan(loaded, _probed(loaded, probe) if probe else None, as_json=as_json)


def _show_plan(loaded: Loaded, probed: Mapping[str, Figures] | None, *, as_json: bool) -> None:
    from arbitrage.preview import preview

    found = preview(loaded.config, probed)
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        out.print(tables_plan.of_plan(found), soft_wrap=True)


def _probed(loaded: Loaded, count: int) -> dict[str, Figures]:
    from arbitrage.probe import probe
    from arbitrage.progress import Progress

    progress = Progress()
    with contextlib.redirect_stdout(sys.stderr), stop_on_signals(progress) as stop:
        return probe(loaded, count, progress, stop)


@app.command(rich_help_panel=KEEP)
def verify(
    place: RunPath,
    mend: Annotated[
        bool,
        typer.Option("--repair", help="Remove what is broken, so that `run` makes it again."),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Read a whole run again and name every fault. Exit code 1 where there is one left."""
    from arbitrage import repair
    from arbitrage.progress import counted

    with counted("shards read") as tell:
        found = repair.examine(run_of(place), tell, mend=mend)
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        out.print(tables.of_examination(found), soft_wrap=True)
    if not found.is_sound:
        raise typer.Exit(1)


@app.command(rich_help_panel=KEEP)
def gc(
    place: RunPath,
    keep: Annotated[
        list[str] | None, typer.Option("--keep", metavar="NAME", help="Spare this component.")
    ] = None,
    delete: Annotated[bool, typer.Option("--delete", help="Remove what is listed.")] = False,
    as_json: AsJson = False,
) -> None:
    """List what no current component needs, with what was paid for it; remove it with --delete.

    A config's components count as current, also those that have not run yet.
    """
    from arbitrage import garbage

    is_config = not has_scheme(place) and Path(place).is_file()
    config = load(Path(place)).config if is_config else None
    run = place if config is None else config.run
    found = garbage.collect_in(run, config, keep=keep or (), delete=delete)
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        out.print(tables.of_garbage(found), soft_wrap=True)


for commands in (
    cli_look,
    cli_report,
    cli_leaderboard,
    cli_diff,
    cli_export,
    cli_arbiter,
    cli_judgements,
    cli_merge,
    cli_route,
    cli_winrate,
):
    commands.add_to(app)

if __name__ == "__main__":
    main()
