"""The command that makes a training set of a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from arbitrage.configfile import load
from arbitrage.datafolder import FILE_ROWS
from arbitrage.errors import UsageError
from arbitrage.files import has_scheme
from arbitrage.progress import counted
from arbitrage.terminal import MAKE, AsJson, RunPath, out, run_of

Form = Annotated[
    Literal["sft", "dpo", "openai", "sharegpt"],
    typer.Option("--format", help="What a row looks like."),
]
Output = Annotated[
    str, typer.Option("-o", "--output", metavar="FOLDER", help="The folder to make.")
]
Kind = Annotated[
    Literal["parquet", "jsonl"] | None,
    typer.Option("--to", help="The kind of its files; Parquet where the format allows it."),
]
Columns = Annotated[
    str | None,
    typer.Option("--columns", metavar="A,B", help="Columns beside the texts; '' for none."),
]
Reasoning = Annotated[
    bool, typer.Option("--reasoning", help="Keep what a model wrote before its answer.")
]
Split = Annotated[
    str, typer.Option("--split", metavar="NAME=SHARE,...", help="train=0.98,validation=0.02, say.")
]
PerLanguage = Annotated[
    bool, typer.Option("--per-language", help="A configuration for each language too.")
]
Languages = Annotated[str, typer.Option("--languages", metavar="A,B", help="Only these languages.")]
Teachers = Annotated[
    str, typer.Option("--teachers", metavar="A,B", help="Only answers of these teachers.")
]
MinMargin = Annotated[
    float | None,
    typer.Option("--min-margin", metavar="X", help="Of dpo: least distance of the rewards."),
]
NextBest = Annotated[
    bool,
    typer.Option(
        "--next-best", help="Instead of answers that are not for training take the next best."
    ),
]
Limit = Annotated[
    int | None,
    typer.Option("--limit", metavar="N", min=1, help="N rows by lot; a higher N keeps them."),
]
FileRows = Annotated[
    int, typer.Option("--file-rows", metavar="N", min=1, help="Rows of a file at most.")
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Replace an export that was changed since.")
]


def add_to(main: typer.Typer) -> None:
    """Makes this command part of the command line."""
    main.command(rich_help_panel=MAKE)(export)


def export(
    place: RunPath,
    form: Form,
    output: Output,
    kind: Kind = None,
    columns: Columns = None,
    reasoning: Reasoning = False,
    split: Split = "train=1",
    per_language: PerLanguage = False,
    languages: Languages = "",
    teachers: Teachers = "",
    min_margin: MinMargin = None,
    next_best: NextBest = False,
    limit: Limit = None,
    file_rows: FileRows = FILE_ROWS,
    overwrite: Overwrite = False,
    as_json: AsJson = False,
) -> None:
    """Make a training set with a data card, ready for `datasets.load_dataset` and for the Hub.

    An earlier export is replaced, any other folder is left alone. Give the config in the place of
    RUN where `license:` or `for_training:` were written into it after the run.
    """
    from arbitrage import tables_export
    from arbitrage.exporting import Layout
    from arbitrage.exporting import export as make
    from arbitrage.sieve import Wanted

    wanted = Wanted(
        form,
        None if columns is None else _names(columns),
        reasoning,
        _names(languages),
        _names(teachers),
        min_margin,
        next_best,
        limit,
        _splits(split),
    )
    layout = Layout(kind, per_language, file_rows, overwrite)
    is_config = not has_scheme(place) and Path(place).is_file()
    now = load(Path(place)).config if is_config else None
    with counted("shards read") as tell:
        found = make(run_of(place), output, wanted, layout, now, tell)
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        out.print(tables_export.of_exported(found), soft_wrap=True)


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))


def _splits(text: str) -> tuple[tuple[str, float], ...]:
    """Names and shares. Raises UsageError."""
    found = []
    for part in text.split(","):
        name, _, share = part.strip().partition("=")
        try:
            value = float(share)
        except ValueError:
            value = 0.0
        if not (name.isascii() and name.isidentifier() and 0 < value <= 1):
            raise UsageError(f"--split {part.strip()!r} is no split; write train=0.9,test=0.1, say")
        found.append((name, value))
    return tuple(found)
