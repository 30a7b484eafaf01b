"""The command that ranks the teachers of runs: as a page, as Markdown, as CSV, as JSON."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from arbitrage.errors import UsageError
from arbitrage.files import has_scheme
from arbitrage.languages import parse_tag
from arbitrage.store import Store
from arbitrage.tables import harmless
from arbitrage.terminal import SEE, AsJson, err, run_of

if TYPE_CHECKING:
    from arbitrage.standings import Leaderboard
    from arbitrage.winrate.results import Results

PAGE = "leaderboard.html"

Output = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--output",
        metavar="FILE",
        help=f"Where to write it; else a page is RUN/{PAGE}, and the others are printed.",
    ),
]
Pattern = Annotated[
    str,
    typer.Option(
        "--filter",
        metavar="PATTERN",
        help="Rows whose name, run, kind, engine, model or license has this in it, is like it "
        "(* and ?), or has a match for it (re:...).",
    ),
]
WinRates = Annotated[
    list[Path] | None,
    typer.Option(
        "--winrate",
        metavar="PATH",
        help="Add the win rates of an evaluation: its folder, or its winrate.json; may be "
        "given several times.",
    ),
]


def add_to(main: typer.Typer) -> None:
    """Makes the command part of the command line."""
    main.command(rich_help_panel=SEE)(leaderboard)


def leaderboard(
    places: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...", help="Run directories or addresses, or the configs that name them."
        ),
    ],
    form: Annotated[
        Literal["html", "md", "csv", "json"], typer.Option("--format", help="What is made.")
    ] = "html",
    output: Output = None,
    pattern: Pattern = "",
    sort: Annotated[
        str, typer.Option("--sort", metavar="COLUMN", help="A column or a language; best first.")
    ] = "reward",
    languages: Annotated[
        str, typer.Option("--languages", metavar="de,fr", help="Average over these alone.")
    ] = "",
    common: Annotated[
        bool, typer.Option("--common", help="Average over what all rows shown have answers in.")
    ] = False,
    winrates: WinRates = None,
    as_json: AsJson = False,
) -> None:
    """Rank teachers, and what was selected from them, by quality and cost; from files alone."""
    from arbitrage.leaderboard import leaderboard as read
    from arbitrage.standings import standing
    from arbitrage.tables_leaderboard import of_csv, of_json, of_markdown, of_page

    form = "json" if as_json else form
    rates = _rates(winrates or [])
    runs = [run_of(place) for place in places]
    target = _target(runs, form, output)
    codes = tuple(map(_code, filter(None, (tag.strip() for tag in languages.split(",")))))
    board = _with_rates(read(runs), rates)
    # What the user asked for is checked for a page too, which would apply it later.
    found = standing(board, pattern=pattern, languages=codes, common=common, sort=sort)
    start = {"pattern": pattern, "languages": list(codes), "common": common, "sort": sort}
    if form == "html":
        _write(target, of_page(board, start))
        return
    text = {"csv": of_csv, "json": of_json, "md": of_markdown}[form](board, found)
    if target:
        _write(target, text)
    else:
        print(text, end="")
    if form != "json":
        _say(board)


def _rates(paths: list[Path]) -> list[tuple[str, Results]]:
    """The win rates of some files, each with what it is called. Raises UsageError."""
    from arbitrage.winrate.results import read_results

    if len(set(paths)) < len(paths):
        raise UsageError("win rates are given twice; name each --winrate once")
    return [(_label(path), read_results(path)) for path in paths]


def _label(path: Path) -> str:
    """What an evaluation is called; not its whole path, as a page may leave this machine."""
    told = path.resolve()
    return told.parent.name if told.name == "winrate.json" else told.name


def _with_rates(board: Leaderboard, rates: list[tuple[str, Results]]) -> Leaderboard:
    from arbitrage.winrate.entries import with_win_rates

    return with_win_rates(board, rates) if rates else board


def _target(runs: list[str], form: str, output: Path | None) -> Path | None:
    """Where to write; none: standard output. Raises UsageError where nobody can know, before much
    is read."""
    if output is not None or form != "html":
        return output
    if len(runs) > 1 or has_scheme(runs[0]):
        raise UsageError("say where the page goes: -o leaderboard.html")
    return Path(runs[0]) / PAGE


def _code(tag: str) -> str:
    """A language's code. Raises UsageError for a tag that is none."""
    code = parse_tag(tag)
    if code is None:
        raise UsageError(f"{tag!r} in --languages is no language tag; write them like de,fr")
    return code


def _write(target: Path | None, text: str) -> None:
    if target is None:
        return
    if not target.parent.is_dir() or target.is_dir():
        what = "is a folder" if target.is_dir() else "is in no folder that is there"
        raise UsageError(f"{target} {what}; name another file with -o")
    Store(target.resolve().parent).write_text(target.name, text)
    err.print(harmless(f"wrote {target}"), soft_wrap=True)


def _say(board: Leaderboard) -> None:
    """What keeps rows from comparing, beside figures that go into a file or a pipe."""
    for note in board.notes:
        err.print(harmless(f"note: {note}"), soft_wrap=True)
