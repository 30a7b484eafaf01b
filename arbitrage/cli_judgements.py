"""The command that makes win rates of judgements that were recorded, by this or by other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer
from pydantic import ValidationError

from arbitrage.errors import UsageError
from arbitrage.terminal import JUDGE, AsJson, out
from arbitrage.winrate.choices import AnalysisConfig, Control

if TYPE_CHECKING:
    from arbitrage.winrate.recorded import Recorded
    from arbitrage.winrate.results import Results

Judgements = Annotated[
    list[Path],
    typer.Argument(
        metavar="PATH...",
        help="Files, folders or patterns of Arena-Hard, AlpacaEval or JSONL of your own.",
    ),
]
Missing = Annotated[
    Literal["game", "prompt"] | None,
    typer.Option(
        "--missing",
        help="A game without a verdict: it alone is out, or its prompt; else as the tool does that "
        "wrote the files.",
    ),
]


def add_to(main: typer.Typer) -> None:
    """Makes the command part of the command line."""
    main.command(rich_help_panel=JUDGE)(judgements)


def judgements(
    paths: Judgements,
    answers: Annotated[
        list[Path] | None,
        typer.Option("--answers", metavar="PATH", help="The models' answers, for their style."),
    ] = None,
    questions: Annotated[
        list[Path] | None,
        typer.Option("--questions", metavar="PATH", help="Language and category by question."),
    ] = None,
    baseline: Annotated[
        str, typer.Option("--baseline", metavar="MODEL", help="Compare with this one.")
    ] = "",
    category: Annotated[
        str, typer.Option("--category", metavar="NAME", help="Of this category alone.")
    ] = "",
    strong_weight: Annotated[
        float, typer.Option("--strong-weight", metavar="N", help="Games that A>>B counts for.")
    ] = 3.0,
    flips: Annotated[
        Literal["keep", "tie", "abstain"],
        typer.Option("--flips", help="What verdicts count that follow the position."),
    ] = "keep",
    missing: Missing = None,
    control: Annotated[
        str, typer.Option("--control", metavar="length,position", help="Of what it is controlled.")
    ] = ",".join(get_args(Control)),
    no_control: Annotated[
        bool, typer.Option("--no-control", help="No controlled win rate.")
    ] = False,
    resamples: Annotated[
        int, typer.Option("--resamples", metavar="N", help="Of the questions; 0: no intervals.")
    ] = 1000,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of the resamples.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Win rates of recorded judgements, with intervals; of files alone, no judge is asked."""
    from arbitrage.winrate.recorded import read_recorded

    choices = _choices(
        strong_weight=strong_weight,
        flips=flips,
        control=() if no_control else _names(control),
        resamples=resamples,
        seed=seed,
    )
    found = read_recorded(
        paths,
        choices,
        answers=answers or (),
        questions=questions or (),
        baseline=baseline,
        category=category,
    )
    results = _results(found, choices, missing)
    _show(results, as_json=as_json)


def _show(results: Results, *, as_json: bool) -> None:
    if as_json:
        print(results.as_json(), end="")
    else:
        from arbitrage import tables_winrate

        out.print(tables_winrate.of_results(results), soft_wrap=True)


def _results(found: Recorded, choices: AnalysisConfig, missing: str | None) -> Results:
    """The analysis, by the rule of the tool that wrote the files where nobody chose one."""
    from arbitrage.winrate.analysis import analyse

    return analyse(
        found.outcomes,
        choices.model_copy(update={"missing": missing or found.rule}),
        found.baseline,
        failures=found.failures,
        remarks=_remarks(found, missing),
        made_from={"judgements": [str(path) for path in found.files]},
        settings={"recorded": True},
    )


def _choices(**told: Any) -> AnalysisConfig:
    """Raises UsageError for the first value that cannot be."""
    try:
        return AnalysisConfig(**told)
    except ValidationError as error:
        first = error.errors()[0]
        option = f"--{str(first['loc'][0]).replace('_', '-')}"
        raise UsageError(f"{option} {first['input']!r}: {first['msg'].lower()}") from error


def _names(control: str) -> tuple[str, ...]:
    """Raises UsageError for a name that is none."""
    known = get_args(Control)
    names = tuple(filter(None, (name.strip() for name in control.split(","))))
    for name in names:
        if name not in known:
            raise UsageError(f"--control {name!r} is none of {', '.join(known)}")
    return names


def _remarks(found: Recorded, missing: str | None) -> list[str]:
    """What was found, and a rule that nobody chose, where it changes figures."""
    if missing or found.rule == "game" or not found.failures:
        return found.remarks
    return [
        *found.remarks,
        "a question without one of its verdicts is left out whole, as Arena-Hard v2 does; "
        "--missing game keeps the other game",
    ]
