"""What all commands share: the two consoles, and the arguments that many of them take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from arbitrage.configfile import load
from arbitrage.files import has_scheme

out = Console()
err = Console(stderr=True)

MAKE, SEE, JUDGE, KEEP = (
    "Make",
    "See what was made",
    "Judges, Arbiters and routers",
    "Keep it sound",
)
"""The groups in which `--help` shows the commands."""

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The run's config.")]
RunPath = Annotated[
    str,
    typer.Argument(metavar="RUN", help="A run directory or address, or the config that names it."),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Set one value: --set teachers.a.model=x"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")]


def run_of(place: str) -> str:
    """The run that a config names, or the folder or address itself."""
    is_config = not has_scheme(place) and Path(place).is_file()
    return load(Path(place)).config.run if is_config else place
