"""Turns win rates into what a terminal shows; prints nothing itself.

Fits 80 columns and uses more where there are more; what does not fit beside each other stands in
blocks below each other. A color never says what no sign says. Where a terminal knows ASCII alone,
bars are made of that. Names of models, judges and categories are text.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from arbitrage.tables import harmless
from arbitrage.winrate import telling
from arbitrage.winrate.results import ALL, CATEGORY, LANGUAGE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import ConsoleOptions, RenderableType, RenderResult

    from arbitrage.winrate.results import Estimate, Results, Row

WIDE = 120
"""So many columns hold the table of models as a whole."""
NAME_WIDTH = 20
COLUMN_WIDTH = 12
LEAST_BAR, MOST_BAR = 11, 41
SIGNS = {"above": "+", "level": "=", "below": "-", "unknown": "?"}
STYLES = {"above": "green", "level": "", "below": "red", "unknown": "dim"}
LEGEND = (
    "+ surely above 50 %, - surely below, = not told apart, ? no interval; mean: plain mean over "
    "the languages"
)
MEANING = (
    "win rate: wins and half of the ties, strong ones with their weight; controlled: the same at "
    "equal style and neither shown first; points: the rate less the opponent's; gain: relative to "
    "it; flips: prompts whose verdict follows the position"
)
UNKNOWN = "?"
WIDEST = 0.5
"""Interval of a rate that is still told by itself."""
CUT = ".."
"""What stands for the rest of a name that is cut, in any encoding."""


@dataclass(frozen=True)
class Scale:
    """From where to where a bar goes, in how many letters, and whether they are ASCII."""

    low: float
    high: float
    width: int
    plain: bool

    @property
    def marks(self) -> str:
        """Letters for: nothing, one half, the interval, the rate."""
        return " |-o" if self.plain else " \u2502\u2500\u25cf"

    def place(self, value: float) -> int:
        """The letter at which a value stands."""
        share = (value - self.low) / (self.high - self.low)
        return min(self.width - 1, max(0, round(share * (self.width - 1))))


class Shown:
    """Win rates that fit themselves to the terminal they are printed on."""

    def __init__(self, results: Results) -> None:
        self._results = results

    def __rich_console__(self, console: object, options: ConsoleOptions) -> RenderResult:
        yield from _parts(self._results, options.max_width, plain=options.ascii_only)


def of_results(results: Results) -> RenderableType:
    """Headline, models, matrices, judges and what is missing."""
    return Shown(results)


def _parts(results: Results, width: int, *, plain: bool) -> Iterator[RenderableType]:
    for place, sentence in enumerate(telling.headline(results)):
        yield harmless(sentence, "bold" if place == 0 else "")
    rows = telling.ranked(results)
    if rows:
        yield harmless(telling.seen_by(results), "dim")
        yield Text()
        yield from _models(results, rows, width, plain=plain)
        yield Text(MEANING, style="dim")
        yield from _matrices(results, rows, width)
    yield from _judges(results)
    for remark in results.remarks:
        yield harmless(f"note: {remark}")
    lost = telling.failures(results)
    if lost:
        yield harmless(lost, "bold yellow")


def _models(
    results: Results, rows: list[Row], width: int, *, plain: bool
) -> Iterator[RenderableType]:
    """Every model; on a narrow terminal what it wins, and below that what that is made of."""
    second = _counts(rows)
    name: Cells = ("model", _names([row.model for row in rows]))
    if width >= WIDE:
        room = width - _width([name, *second])
        yield _table([name, *_rates(results, rows, room, plain=plain), *second])
        return
    room = width - _width([name])
    yield _table([name, *_rates(results, rows, room, plain=plain)])
    yield Text()
    yield _table([name, *second])


Cells = tuple[str | Text, "Sequence[str | Text]"]


def _table(columns: Sequence[Cells]) -> Table:
    """From columns: the first, and those with a head of two lines, flushed left."""
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for place, (head, _) in enumerate(columns):
        right = place > 0 and "\n" not in str(head)
        table.add_column(head, justify="right" if right else "left", no_wrap=True)
    for cells in zip(*(cells for _, cells in columns), strict=True):
        table.add_row(*cells)
    return table


def _width(columns: Sequence[Cells]) -> int:
    """How wide columns are, with what stands between them."""
    return sum(1 + max(cell_len(str(told)) for told in (head, *cells)) for head, cells in columns)


def _name(name: str, width: int = NAME_WIDTH) -> Text:
    """A name in one line, and cut where it is longer."""
    told = harmless(name.replace("\n", "\\n").replace("\t", "\\t"))
    if cell_len(told.plain) > width:
        told.truncate(width - len(CUT))
        told.append(CUT)
    return told


def _names(names: Sequence[str]) -> list[Text]:
    """Names in one line each; where their beginnings are alike, the ends of the long ones."""
    found = [_name(name) for name in names]
    if len({name.plain for name in found}) == len(set(names)):
        return found
    return [_end(name) for name in names]


def _end(name: str) -> Text:
    """A name in one line, its end alone where it is longer."""
    told = harmless(name.replace("\n", "\\n").replace("\t", "\\t"))
    if cell_len(told.plain) <= NAME_WIDTH:
        return told
    tail = told.plain
    while cell_len(tail) > NAME_WIDTH - len(CUT):
        tail = tail[1:]
    return Text(f"{CUT}{tail}")


def _rates(results: Results, rows: list[Row], room: int, *, plain: bool) -> list[Cells]:
    against = f"vs {results.baseline}" if results.baseline else "vs all others"
    found: list[Cells] = [
        ("win rate", [_rate(row.rate) for row in rows]),
        ("95 % interval", [_interval(row.rate) for row in rows]),
    ]
    if any(row.controlled for row in rows):
        found.append(("controlled", [_plain_rate(row.controlled) for row in rows]))
    width = max(LEAST_BAR, min(MOST_BAR, room - _width(found)))
    scale = _scale(rows, width, plain=plain)
    bars: Cells = (_axis(scale, against), [_bar(row.rate, scale) for row in rows])
    return [*found[:2], bars, *found[2:]]


def _counts(rows: list[Row]) -> list[Cells]:
    found: list[Cells] = []
    if any(row.strength for row in rows):
        found.append(("strength", [_number(row.strength, 1, 2) for row in rows]))
    return [
        *found,
        ("points", [_number(row.points, 100, 1) for row in rows]),
        ("gain", [_number(row.gain, 100, 0, "%") for row in rows]),
        ("games", [f"{row.games:,}" for row in rows]),
        ("ties", [_share(row.ties, row.games) for row in rows]),
        ("flips", [_share(row.flipped, row.both) for row in rows]),
        ("missing", [f"{row.missing:,}" for row in rows]),
    ]


def _rate(estimate: Estimate) -> Text:
    sign = telling.side(estimate)
    told = _percent(estimate.value)
    return Text(told if told == UNKNOWN else f"{told} {SIGNS[sign]}", style=STYLES[sign])


def _plain_rate(estimate: Estimate | None) -> str:
    """Without an interval beside it, so only where that is no more than half of all there is."""
    if estimate is None or estimate.high - estimate.low > WIDEST:
        return UNKNOWN
    return _percent(estimate.value)


def _percent(value: float, digits: int = 1) -> str:
    return f"{100 * value:.{digits}f}%" if math.isfinite(value) else UNKNOWN


def _interval(estimate: Estimate) -> str:
    if telling.side(estimate) == "unknown":
        return UNKNOWN
    return f"{100 * estimate.low:.1f} to {100 * estimate.high:.1f}"


def _number(estimate: Estimate | None, times: float, digits: int, unit: str = "") -> str:
    if estimate is None or not math.isfinite(estimate.value):
        return UNKNOWN
    return f"{times * estimate.value:+,.{digits}f}{unit}"


def _share(part: int, of: int) -> str:
    return _percent(telling.share(part, of), 0) if of else ""


def _scale(rows: list[Row], width: int, *, plain: bool) -> Scale:
    """One scale for all, which holds every interval and the middle."""
    told = [number for row in rows for number in row.rate if math.isfinite(number)]
    low = math.floor(10 * min([0.45, *told])) / 10
    high = math.ceil(10 * max([0.55, *told])) / 10
    return Scale(low, high, width, plain)


def _axis(scale: Scale, against: str) -> Text:
    """The head of the bars: the ends of the scale, its middle, and whom it is against."""
    letters = [" "] * scale.width
    middle = scale.place(0.5)
    for text, at in (
        (f"{100 * scale.low:.0f}", 0),
        ("50%", max(0, middle - 1)),
        (f"{100 * scale.high:.0f}", scale.width - len(f"{100 * scale.high:.0f}")),
    ):
        if all(letter == " " for letter in letters[max(0, at - 1) : at + len(text) + 1]):
            letters[at : at + len(text)] = text
    told = _name(against, scale.width)
    told.pad_right(scale.width - cell_len(told.plain))
    return told.append("\n").append("".join(letters)[: scale.width])


def _bar(estimate: Estimate, scale: Scale) -> Text:
    """An interval and its middle on the scale, beside one half."""
    blank, half, line, dot = tuple(scale.marks)
    letters = [blank] * scale.width
    letters[scale.place(0.5)] = half
    sign = telling.side(estimate)
    if sign != "unknown":
        for at in range(scale.place(estimate.low), scale.place(estimate.high) + 1):
            letters[at] = line
    if math.isfinite(estimate.value):
        letters[scale.place(estimate.value)] = dot
    return Text("".join(letters), style=STYLES[sign])


def _matrices(results: Results, rows: list[Row], width: int) -> Iterator[RenderableType]:
    """Models by languages, categories, other models and judges, each where there is more of it."""
    if len(results.languages) > 1:
        by_code = [telling.scope_rows(results, row, LANGUAGE) for row in rows]
        means = [telling.averaged(results, row) for row in rows]
        heads = [*results.languages, "mean"]

        def in_language(row: int, column: int) -> Row | None:
            codes = results.languages
            return by_code[row].get(codes[column]) if column < len(codes) else means[row]

        yield from _matrix("by language", rows, heads, in_language, width)
        yield Text(LEGEND, style="dim")
    if len(results.categories) > 1:
        by_name = [telling.scope_rows(results, row, CATEGORY) for row in rows]
        names = list(results.categories)
        yield from _matrix("by category", rows, names, lambda r, c: by_name[r].get(names[c]), width)
    if not results.baseline and len(rows) > 2:
        yield from _against(results, rows, width)
    if len(results.judges) > 1:
        judges = list(results.judges)

        def as_judged(row: int, column: int) -> Row | None:
            one = rows[row]
            return results.row(one.model, one.against, ALL, "", judges[column])

        yield from _matrix("by judge", rows, judges, as_judged, width)


def _against(results: Results, rows: list[Row], width: int) -> Iterator[RenderableType]:
    """Everyone against everyone; columns are numbered as the rows are."""
    heads = [str(place) for place in range(1, len(rows) + 1)]

    def met(row: int, column: int) -> Row | None:
        return results.row(rows[row].model, rows[column].model, judge=rows[row].judge)

    yield from _matrix("row against column", rows, heads, met, width, numbered=True)


def _matrix(
    title: str,
    rows: list[Row],
    heads: Sequence[str],
    found: Callable[[int, int], Row | None],
    width: int,
    *,
    numbered: bool = False,
) -> Iterator[RenderableType]:
    """One table, or several below each other, of rates in per cent with their sign."""
    names = _names([row.model for row in rows])
    if numbered:
        names = [Text.assemble(f"{place} ", name) for place, name in enumerate(names, 1)]
    beside = max(cell_len(title), *(cell_len(name.plain) for name in names))
    told = [_name(head, COLUMN_WIDTH) for head in heads]
    for block in _blocks([max(4, cell_len(head.plain)) for head in told], width - beside):
        columns: list[Cells] = [(title, names)]
        columns += [(told[at], [_cell(found(row, at)) for row in range(len(rows))]) for at in block]
        yield Text()
        yield _table(columns)


def _blocks(widths: Sequence[int], room: int) -> Iterator[list[int]]:
    """Columns in turn, as many as fit beside each other, and one at least."""
    block: list[int] = []
    used = 0
    for at, width in enumerate(widths):
        if block and used + width + 1 > room:
            yield block
            block, used = [], 0
        block.append(at)
        used += width + 1
    if block:
        yield block


def _cell(row: Row | None) -> Text:
    if row is None or not math.isfinite(row.rate.value):
        return Text("")
    sign = telling.side(row.rate)
    return Text(f"{100 * row.rate.value:.0f}{SIGNS[sign]}", style=STYLES[sign])


def _judges(results: Results) -> Iterator[RenderableType]:
    """Agreement and effects, a line each."""
    told = [telling.agreed(one) for one in results.agreements if one.scope == ALL]
    told += telling.biases(results)
    if told:
        yield Text()
    for sentence in told:
        yield harmless(sentence)
