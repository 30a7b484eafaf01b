"""Commands about Arbiters: their card, and where two of them disagree."""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from arbitrage import tables_arbiter
from arbitrage.card import LEAST
from arbitrage.configfile import load
from arbitrage.errors import UsageError
from arbitrage.terminal import JUDGE, AsJson, ConfigPath, Overrides, RunPath, out, run_of

if TYPE_CHECKING:
    from arbitrage.assay import Assayed
    from arbitrage.components import Arbiter, Components
    from arbitrage.pairs import PairSet

ATTACKED = 100
"""So many pairs are attacked, each in every way."""
SCORES = ".scores"
"""What the file with the scores has in its name after the card's."""

app = typer.Typer(
    name="arbiter", help="How far an Arbiter can be trusted, by language.", no_args_is_help=True
)


def add_to(main: typer.Typer) -> None:
    """Makes these commands part of the command line."""
    main.add_typer(app, rich_help_panel=JUDGE)
    main.command(rich_help_panel=JUDGE)(compare)


@app.callback()
def _group() -> None:
    """How far an Arbiter can be trusted, by language."""


@app.command()
def check(
    config: ConfigPath,
    pairs: Annotated[
        list[str],
        typer.Option(
            "--pairs",
            metavar="FILE",
            help="Labelled pairs: JSONL, CSV, TSV or Parquet with the columns prompt, chosen, "
            "rejected, language. May be given several times.",
        ),
    ],
    language: Annotated[
        str | None,
        typer.Option("--language", metavar="TAG", help="Language of rows that declare none."),
    ] = None,
    arbiter: Annotated[
        str | None, typer.Option("--arbiter", metavar="NAME", help="Which, if there are several.")
    ] = None,
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="FILE", help="Where to write the card.")
    ] = Path("card.json"),
    least: Annotated[
        float, typer.Option("--least", min=0, max=1, help="Name languages of a lower accuracy.")
    ] = LEAST,
    attacks: Annotated[
        bool, typer.Option("--attacks", help="Also try texts that want to move a judge.")
    ] = False,
    attack_pairs: Annotated[
        int, typer.Option("--attack-pairs", metavar="N", min=1, help="On so many pairs.")
    ] = ATTACKED,
    again: Annotated[
        bool, typer.Option("--again", help="Score once more what had an error before.")
    ] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Score labelled pairs with the Arbiter and write its card.

    Scores are kept beside the card, so that the same command, or one with more pairs, pays for
    nothing twice.
    """
    from arbitrage import assay
    from arbitrage import pairs as reader
    from arbitrage.resolve import FUSER, resolve

    assay.check_place(output)
    told = load(config, overrides or ()).config.model_copy(update={"trust": None})
    unseen = {f"candidates/{name}": name for name in (*told.teachers, FUSER)}  # need not be here
    unseen[f"routes/{told.routing.router}"] = told.routing.router
    who = _arbiter(resolve(told, unseen), arbiter)
    found = reader.read(pairs, language)
    made = _assayed(who, found, output, least, attack_pairs if attacks else 0, again=again)
    if as_json:
        print(json.dumps(asdict(made.card), indent=1))
        return
    out.print(tables_arbiter.of_card(made.card, found.examples), soft_wrap=True)
    out.print(tables_arbiter.of_work(made, f"{output}", f"{output}{SCORES}"), soft_wrap=True)


def _assayed(
    who: Arbiter, found: PairSet, output: Path, least: float, attacked: int, *, again: bool
) -> Assayed:
    """Makes the card and writes it, with the scores beside it."""
    from arbitrage.assay import assay
    from arbitrage.progress import counted
    from arbitrage.store import Store

    store = Store(output.resolve().parent)
    cache = (store, f"{output.name}{SCORES}")
    # Some engines talk on standard output; that is for results alone.
    with contextlib.redirect_stdout(sys.stderr), counted("completions scored") as tell:
        made = assay(who, found, cache, tell, least=least, attacked=attacked, again=again)
    store.write_text(output.name, made.card.as_json())
    return made


def _arbiter(components: Components, name: str | None) -> Arbiter:
    """The one of that name. Raises UsageError, which lists what there is."""
    known = {one.name: one for one in components.arbiters}
    if name is None and len(known) == 1:
        return next(iter(known.values()))
    if name is None or name not in known:
        what = "there are several Arbiters" if name is None else f"no Arbiter is called {name!r}"
        raise UsageError(f"{what}; give --arbiter one of {', '.join(known)}")
    return known[name]


def compare(
    place: RunPath,
    first: Annotated[str, typer.Argument(metavar="A", help="An Arbiter's name or fingerprint.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Another one's.")],
    as_json: AsJson = False,
) -> None:
    """Say where two Arbiters that have scored a run disagree, by language."""
    from arbitrage import compare as comparing
    from arbitrage.progress import counted

    with counted("shards read") as tell:
        found = comparing.compare(run_of(place), first, second, tell)
    if as_json:
        print(json.dumps(found.as_dict(), indent=1))
    else:
        out.print(tables_arbiter.of_comparison(found), soft_wrap=True)
