"""The forms in which tools record judgements, and how a row of each becomes games.

A form is known by the fields of its rows. `FORMS` is the table of them; a new one is a test of the
fields, a function from a row to games, and a line in it. Knows no statistics and no files. Texts of
judges are not looked at; of answers only the style is kept.

Invariant: a game is always told from the side of the judged model, whatever the order was.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

from arbitrage.errors import InputError
from arbitrage.stats.outcomes import FIRST_SHOWN, SECOND_SHOWN, UNKNOWN
from arbitrage.winrate.style import Features, features

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Row = dict[str, Any]

_TOLD = {
    (1.0, True): ("A>>B", "B<<A"),
    (1.0, False): ("A>B", "B<A"),
    (0.5, False): ("A=B", "B=A"),
    (0.0, False): ("B>A", "A<B"),
    (0.0, True): ("B>>A", "A<<B"),
}
VERDICTS = {label: verdict for verdict, labels in _TOLD.items() for label in labels}
"""By label: A's score, and whether the verdict is a strong one."""
BASELINE_OF_V1 = "gpt-4-0314"
"""Whom Arena-Hard v0.1 compares with; its files do not say so."""
COPIES = 3
"""Rows that a strong win has in a file of battles."""
UNNAMED = "unnamed"
"""The judge of games that name none."""

NO_VERDICT = "the judge gave no verdict"
NO_GAME = "the game was not played, or its call failed"
NO_LABEL = "what is recorded is no verdict"


class Game(NamedTuple):
    """One game as recorded. `score` is the model's, nan where there is no verdict; `reason` says
    why. `copies` is set where the file holds a strong win as so many rows. `styles`: of the model's
    answer and the opponent's, where the row holds both."""

    judge: str
    model: str
    opponent: str
    question: str
    language: str
    category: str
    position: int
    score: float
    strong: bool = False
    reason: str = ""
    copies: int = 0
    styles: tuple[Features, Features] | None = None


class Context(NamedTuple):
    """What a row does not say: the file's place for messages, and the baseline that was told."""

    place: str
    baseline: str = ""


class Form(NamedTuple):
    """A way to record judgements: its name for remarks, what its rows look like, and how to read
    one. `declares`: whether the opponent of all its games is the baseline."""

    name: str
    looks: str
    knows: Callable[[Row], bool]
    games: Callable[[Row, Context], Iterator[Game]]
    declares: bool = True


def _text(row: Row, context: Context, *names: str) -> str:
    """The first of some fields that is there, a text or a whole number. Raises InputError."""
    for name in names:
        value = row.get(name)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
    raise InputError(f"{context.place}: {' or '.join(names)!r} is missing or is no text")


def _word(row: Row, *names: str) -> str:
    """The first of some optional texts that is there, else none."""
    return next((row[name] for name in names if isinstance(row.get(name), str)), "")


def language_of(row: Row) -> str:
    """What a row says of its language."""
    return _word(row, "language", "lang")


def label_score(label: Any) -> tuple[float, bool, str]:
    """A's score by a verdict's label, whether it is strong, and why there is none (then nan)."""
    if label is None or label == "":
        return math.nan, False, NO_VERDICT
    known = VERDICTS.get(label) if isinstance(label, str) else None
    if known is None:
        known = VERDICTS.get("".join(str(label).upper().split()).strip("[]"))
    return (*known, "") if known else (math.nan, False, NO_LABEL)


def _arena(row: Row, context: Context) -> Iterator[Game]:
    """Two games: in the first A is the baseline, in the second the model."""
    recorded = row["games"]
    if not isinstance(recorded, list) or len(recorded) > 2:
        raise InputError(f"{context.place}: 'games' is no list of two games")
    model = _text(row, context, "model", "model_id")
    if context.baseline == model != BASELINE_OF_V1 and not _word(row, "baseline"):
        raise InputError(
            f"{context.place}: {model} was judged itself, and these files do not say against whom; "
            f"--baseline names that model, for Arena-Hard v0.1 it is {BASELINE_OF_V1}"
        )
    told = (
        _word(row, "judge") or UNNAMED,
        model,
        _word(row, "baseline") or context.baseline or BASELINE_OF_V1,
        _text(row, context, "uid", "question_id"),
        language_of(row),
        _word(row, "category"),
    )
    for number, position in enumerate((SECOND_SHOWN, FIRST_SHOWN)):
        game = recorded[number] if number < len(recorded) else None
        if not isinstance(game, dict):
            yield Game(*told, position, math.nan, reason=NO_GAME)
            continue
        score, strong, reason = label_score(game.get("score"))
        yield Game(*told, position, 1 - score if number == 0 else score, strong, reason)


def _alpaca(row: Row, context: Context) -> Iterator[Game]:
    """One annotation. Who was shown first was drawn and is not recorded."""
    score, reason = _preference(row["preference"], context)
    styles = None
    first, second = row.get("output_1"), row.get("output_2")
    if isinstance(first, str) and isinstance(second, str):
        styles = (features(second), features(first))
    yield Game(
        _word(row, "annotator") or UNNAMED,
        _text(row, context, "generator_2"),
        _text(row, context, "generator_1"),
        _text(row, context, "instruction", "index"),
        language_of(row),
        _word(row, "dataset"),
        UNKNOWN,
        score,
        reason=reason,
        styles=styles,
    )


def _preference(value: Any, context: Context) -> tuple[float, str]:
    """1: the baseline's answer is better, 2: the model's; between: shares; 0 is an old 1.5."""
    if value is None or value != value:
        return math.nan, NO_VERDICT
    if not isinstance(value, int | float) or not (value == 0 or 1 <= value <= 2):
        raise InputError(
            f"{context.place}: 'preference' is {value!r:.40}, not from 1 to 2, 0 or null"
        )
    return (0.5 if value == 0 else value - 1.0), ""


def _battle(row: Row, context: Context) -> Iterator[Game]:
    """One row, which may be a copy; `unfolded` joins the copies."""
    winner = row["winner"]
    scores = {"model_a": 0.0, "model_b": 1.0}
    is_tie = isinstance(winner, str) and winner.startswith("tie")
    score = 0.5 if is_tie else scores.get(str(winner), math.nan)
    yield Game(
        _word(row, "judge") or UNNAMED,
        _text(row, context, "model_b"),
        _text(row, context, "model_a"),
        _text(row, context, "question_id", "uid"),
        language_of(row),
        _word(row, "category"),
        UNKNOWN,
        score,
        reason="" if score == score else NO_LABEL,
    )


def _own(row: Row, context: Context) -> Iterator[Game]:
    """One game of this package's own form.

    Wanted: `question` (an id, the same for all translations), `model`, `opponent`, and `verdict` (a
    label; A is the answer that was shown first, the model's where `shown_first` is not told) or
    `score` (the model's share, from 0 to 1); null is a game without a verdict. Optional:
    `shown_first` (model, opponent, or the name of one), `judge`, `language`, `category`; and for
    the control of style both answers, `answer` and `opponent_answer`, or their characters alone,
    `length` and `opponent_length`.
    """
    model, opponent = _text(row, context, "model"), _text(row, context, "opponent")
    shown = row.get("shown_first")
    is_first = shown in (model, "model")
    if not (shown is None or is_first or shown in (opponent, "opponent")):
        raise InputError(f"{context.place}: 'shown_first' is {shown!r:.40}, not model or opponent")
    score, strong, reason = _own_score(row, context)
    if row.get("score") is None and shown is not None and not is_first:
        score = 1 - score  # of a verdict A is the answer that was shown first
    position = UNKNOWN if shown is None else FIRST_SHOWN if is_first else SECOND_SHOWN
    told = (_word(row, "judge") or UNNAMED, model, opponent, _text(row, context, "question"))
    language, category = language_of(row), _word(row, "category")
    game = Game(*told, language, category, position, score, strong, reason)
    yield game._replace(styles=_own_styles(row, context))


def _own_styles(row: Row, context: Context) -> tuple[Features, Features] | None:
    """Of both answers, or of their lengths; none where the row has neither."""
    texts = [row.get(name) for name in ("answer", "opponent_answer")]
    if isinstance(texts[0], str) and isinstance(texts[1], str):
        return features(texts[0]), features(texts[1])
    lengths = [row.get(name) for name in ("length", "opponent_length")]
    if None in lengths:
        return None
    for one in lengths:
        if not isinstance(one, int | float) or not 0 <= one < math.inf:
            raise InputError(
                f"{context.place}: a length is {one!r:.40}, not a number of characters"
            )
    return Features(int(lengths[0] or 0), 0, 0, 0), Features(int(lengths[1] or 0), 0, 0, 0)


def _own_score(row: Row, context: Context) -> tuple[float, bool, str]:
    share = row.get("score")
    if share is None:
        return label_score(row.get("verdict"))
    if not isinstance(share, int | float) or not (0 <= share <= 1 or share != share):
        raise InputError(f"{context.place}: 'score' is {share!r:.40}, not from 0 to 1 or null")
    return float(share), False, "" if share == share else NO_VERDICT


def _has(*names: str) -> Callable[[Row], bool]:
    return lambda row: all(name in row for name in names)


V2 = "Arena-Hard v2"
BATTLES = "Arena-Hard's battles"
FORMS = (
    Form(V2, "uid, model, judge, baseline, games", _has("uid", "model", "games"), _arena),
    Form(
        "Arena-Hard v0.1", "question_id, model, judge, games", _has("question_id", "games"), _arena
    ),
    Form(
        "AlpacaEval",
        "instruction, generator_1, generator_2, annotator, preference",
        _has("generator_1", "generator_2", "preference"),
        _alpaca,
    ),
    Form(
        BATTLES,
        "question_id, model_a, model_b, winner",
        _has("model_a", "model_b", "winner"),
        _battle,
        declares=False,
    ),
    Form(
        "arbitrage's own",
        "question, language, category, judge, model, opponent, shown_first, verdict or score",
        lambda row: (
            {"question", "model", "opponent"} <= row.keys() and ("verdict" in row or "score" in row)
        ),
        _own,
        declares=False,
    ),
)


def form_of(row: Row) -> Form | None:
    """The form that a row is of, by its fields."""
    return next((form for form in FORMS if form.knows(row)), None)


def known_forms() -> str:
    """The forms and their fields, for messages."""
    return "; ".join(f"{form.name} ({form.looks})" for form in FORMS)


def unfolded(copies: list[Game]) -> Iterator[Game]:
    """Games from the rows of battles that are alike: each three of them are one strong win, the
    rest games of their own. The weights add up to the number of rows."""
    game, count = copies[0], len(copies)
    strong = 0 if game.score == 0.5 or game.reason else count // COPIES
    yield from [game._replace(strong=True, copies=COPIES)] * strong
    yield from [game] * (count - strong * COPIES)
