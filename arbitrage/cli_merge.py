"""`arbitrage merge`: models of one architecture merged into one; and sweeps over settings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from arbitrage import tables, tables_merge
from arbitrage.cli_sweep import sweep
from arbitrage.merging.loading import load_merge
from arbitrage.merging.merge import Refused, look, merge
from arbitrage.progress import Progress, measured
from arbitrage.stopping import stop_on_signals
from arbitrage.terminal import MAKE, AsJson, Overrides, out

if TYPE_CHECKING:
    from arbitrage.merging.merge import Merged
    from arbitrage.merging.preflight import Examination

ONE = "one"
"""What `arbitrage merge CONFIG` is called inside; a user never types it."""

MergePath = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The merge's config.")]
Target = Annotated[
    Path, typer.Option("-o", "--output", metavar="DIR", help="The folder of the merged model.")
]


class _OneByDefault(TyperGroup):
    """`arbitrage merge CONFIG` merges; `arbitrage merge sweep CONFIG` sweeps."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Whatever does not begin with another command is meant for the one."""
        if not args or args[0] not in self.commands:
            args = [ONE, *(args or ["--help"])]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The one is called as the group is."""
        name, command, rest = super().resolve_command(ctx, args)
        return "" if name == ONE else name, command, rest


def add_to(app: typer.Typer) -> None:
    """Adds the commands to the command line."""
    group = typer.Typer(cls=_OneByDefault, help="Merge models of one architecture into one.")
    epilog = "A grid of merges, each evaluated: arbitrage merge sweep CONFIG.yaml (see its --help)."
    group.command(ONE, hidden=True, epilog=epilog)(one)
    group.command("sweep")(sweep)
    app.add_typer(group, name="merge", rich_help_panel=MAKE)


def one(
    config: MergePath,
    output: Target,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Look at the headers, say what there is, do nothing.")
    ] = False,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no summary.")] = False,
) -> None:
    """Merge models of one architecture into a model folder.

    What cannot be merged is refused before a weight is read, with all the reasons. A merge that was
    stopped or killed goes on with the same command.
    """
    wanted, output = load_merge(config, overrides or ()), output.expanduser()
    if dry_run:
        found = look(wanted, output)
        _show(found, as_json=as_json)
        raise typer.Exit(2 if found.reasons else 0)
    progress = Progress(quiet=quiet)
    try:
        with (
            stop_on_signals(progress, "the blocks at hand") as stop,
            measured("merging", quiet=quiet) as tell,
        ):
            merged = merge(wanted, output, tell, stop)
    except Refused as refused:
        _show(refused.examination, as_json=as_json)
        raise
    _tell(merged, as_json=as_json, quiet=quiet)


def _show(found: Examination, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        out.print(tables_merge.of_examination(found), soft_wrap=True)


def _tell(merged: Merged, *, as_json: bool, quiet: bool) -> None:
    if as_json:
        print(json.dumps({**merged.manifest, "folder": str(merged.folder), "made": merged.made}))
    elif not quiet:
        told = merged.manifest
        what = "wrote" if merged.made else "there already:"
        out.print(
            tables.harmless(
                f"{what} {merged.folder}: {told['parameters']:,} parameters in "
                f"{told['tensors']:,} tensors, by {told['method']}"
            ),
            soft_wrap=True,
        )
        for remark in told["remarks"]:
            out.print(tables.harmless(f"note: {remark}"), soft_wrap=True)
