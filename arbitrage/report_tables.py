"""The large tables of a run's report: teachers, languages, and the diversity of answers. Pure.

Columns and cells are what a reader sees, with the number in full beside each; see `report_view`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from arbitrage import shown
from arbitrage.costs import Cost
from arbitrage.report_matrix import alone_of, codes_of
from arbitrage.report_view import Figure, amount, digits_of, mean, part, whole
from arbitrage.results import LanguageResult
from arbitrage.verdicts import UNITS, cost_parts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arbitrage.account import Account
    from arbitrage.baselines import Baseline
    from arbitrage.cells import Cell

OTHER_GATES = ("empty", "repetition", "refusal", "instruction", "script")


class Column(NamedTuple):
    """A column: its header, and what it means."""

    label: str
    title: str


class Row(NamedTuple):
    """A row: its header, what stands behind it, and its cells."""

    label: str
    title: str
    cells: list[Figure]
    note: str = ""


class Sheet(NamedTuple):
    """A table with its columns, the first of which is the rows' own."""

    key: str
    columns: list[Column]
    rows: list[Row]


def teachers(account: Account) -> Sheet:
    """What each teacher is worth, did and cost."""
    costs = {cost.name: cost for cost in account.costs if cost.stage == "generate"}
    parts = cost_parts(account)
    columns = [
        Column("Teacher", "By its name in the config; the title is its model"),
        Column(
            "Value", "Reward lost per prompt without it, over the prompts others can answer too"
        ),
        Column("Only it", "Prompts that no other teacher has a usable answer to"),
        Column("Would change", "Prompts that would get another answer without it"),
        Column("Won", "Share of all selected prompts; of equal answers each teacher has a part"),
        Column("Reward alone", "Mean of its own best rewards, over its prompts that were selected"),
        Column("Truncated", "Share of its completions that were cut off"),
        Column("Wrong language", "Share of its completions with lines in another language"),
        Column("Line pass", "Line-level pass rate: completions with no line in a wrong language"),
        Column("Word pass", "Word-level pass rate: of those, without a word of a foreign script"),
        Column("Other gates", "Share that fails: " + ", ".join(OTHER_GATES)),
        Column("Errors", "Completions that failed"),
        Column("Completions", "Completions that it was asked for"),
        Column("Tokens", "Completion tokens, as the teacher counts them"),
        Column("Tokens/s", "Of one replica while it has work in flight"),
        Column("GPU hours", "Accelerators times hours at work"),
        Column("CPU hours", "Processor cores times hours at work"),
        Column("Money", "By the prices in the config"),
        Column("Cost share", f"Part of {UNITS[account.unit]} of all teachers"),
    ]
    fine = _fine(account)
    rows = [
        _teacher(account, name, costs.get(name, Cost(name, "generate")), parts.get(name), fine)
        for name in account.teachers
    ]
    return _without_empty(
        Sheet("teacher", columns, rows), {"GPU hours", "CPU hours", "Money", "Tokens/s"}
    )


def _fine(account: Account) -> int:
    """Decimals of the column of values, which may be far smaller than rewards."""
    halves = [half for loss in account.losses.values() if (half := loss.reward.half_width) > 0]
    return max(digits_of(account), min(6, shown.digits_for(min(halves, default=1.0)) - 1))


def _teacher(account: Account, name: str, cost: Cost, share: float | None, fine: int) -> Row:
    digits = digits_of(account)
    loss = account.losses[name]
    cell = account.cells.of(teacher=name)
    prompts = sum(row.prompts for row in account.languages)
    wins = sum(row.teachers[name].wins for row in account.languages if name in row.teachers)
    told = account.facts["teachers"][name]
    cells = [
        mean(loss.reward, f"value:{name}", fine),
        whole(loss.alone, f"alone:{name}"),
        whole(loss.changed, f"changed:{name}"),
        part(wins / prompts if prompts else None, f"won:{name}"),
        mean(alone_of(account, name), f"reward:{name}", digits),
        *_rates(cell, name),
        whole(cell.errors, f"errors:{name}"),
        whole(cell.completions, f"completions:{name}"),
        amount(cell.completion_tokens, f"tokens:{name}"),
        amount(cost.tokens_per_s, f"speed:{name}"),
        amount(cost.gpu_hours, f"gpu_hours:{name}"),
        amount(cost.cpu_hours, f"cpu_hours:{name}"),
        amount(cost.money, f"money:{name}"),
        part(share, f"cost_share:{name}"),
    ]
    return Row(name, f"{told['engine']} {told['model'] or ''}".strip(), cells)


def _rates(cell: Cell, name: str) -> list[Figure]:
    rates = cell.rates
    share = {
        gate: rates.failed[gate] / rates.candidates if rates.candidates else None
        for gate in ("truncated", "language")
    }
    others = {gate: rates.failed[gate] for gate in OTHER_GATES if rates.failed[gate]}
    title = ", ".join(f"{gate} {count:,}" for gate, count in others.items())
    most = sum(others.values()) / rates.candidates if rates.candidates else None
    return [
        part(share["truncated"], f"truncated:{name}"),
        part(share["language"], f"wrong:{name}"),
        part(rates.line_level, f"lines:{name}"),
        part(rates.word_level, f"words:{name}"),
        part(most, f"gates:{name}", title=title),
    ]


def _without_empty(sheet: Sheet, optional: set[str]) -> Sheet:
    """Without those optional columns of which nothing at all is known."""
    kept = [
        place
        for place, column in enumerate(sheet.columns)
        if column.label not in optional or any(row.cells[place - 1].value for row in sheet.rows)
    ]
    rows = [
        row._replace(cells=[row.cells[place - 1] for place in kept if place]) for row in sheet.rows
    ]
    return sheet._replace(columns=[sheet.columns[place] for place in kept], rows=rows)


def languages(account: Account) -> Sheet:
    """What came of each language's prompts, against other ways to choose."""
    columns = [
        Column("Language", "Code, name and family"),
        Column("Prompts", "Selected and quarantined; unfinished ones are not counted"),
        Column("Selected", "Prompts with an answer"),
        Column("Lost", "In quarantine; the title has the reasons"),
        Column("Reward", "Mean reward of what was chosen, with its 95 % interval"),
        Column("Best alone", "The teacher with the highest mean reward by itself"),
        Column("Gain: best", "Over that teacher; marked where the interval holds 0"),
        Column("Gain: family", "Over the teacher that is best by itself in the whole family"),
        Column("Gain: random", "Over a teacher drawn by lot"),
        Column("Gain: longest", "Over always taking the longest answer"),
        Column("Longest", "How often the longest answer was chosen, where lengths differ"),
        Column("By chance", "How often it would be, if answers were drawn by lot"),
        Column("Tokens", "Completion tokens of all teachers"),
        Column("GPU hours", "By each teacher's share of tokens in the language"),
        Column("CPU hours", "By each teacher's share of tokens in the language"),
        Column("Money", "By each teacher's share of tokens in the language"),
    ]
    known = {row.language: row for row in account.languages}
    told = {row["language"]: row for row in account.as_dict()["languages"]}
    rows = [
        _language(account, known.get(code) or LanguageResult(code, family), name, told.get(code))
        for code, name, family in codes_of(account)
    ]
    return _without_empty(Sheet("language", columns, rows), {"GPU hours", "CPU hours", "Money"})


def _language(account: Account, row: LanguageResult, name: str, told: dict[str, Any] | None) -> Row:
    code = row.language
    digits = digits_of(account)
    lost = account.ledger.by_language.get(code, {})
    longest = row.lengths
    cell = account.cells.of(language=code)
    why = ", ".join(f"{reason} {count:,}" for reason, count in sorted(lost.items()))
    ways = {
        "best": row.of_teacher(row.best_alone),
        "family": row.of_teacher(row.fixed),
        "random": row.random,
        "longest": row.longest,
    }
    cells = [
        whole(row.prompts + sum(lost.values()), f"prompts:{code}"),
        whole(row.prompts, f"selected:{code}"),
        whole(sum(lost.values()), f"lost:{code}", title=why),
        mean(row.reward, f"reward:{code}", digits),
        Figure(row.best_alone or shown.MISSING, row.best_alone, f"best:{code}"),
        *(_gain(way, f"gain_{key}:{code}", digits) for key, way in ways.items()),
        part(longest.longest / longest.prompts if longest.prompts else None, f"longest:{code}"),
        part(longest.chance / longest.prompts if longest.prompts else None, f"chance:{code}"),
        amount(cell.completion_tokens, f"tokens:{code}"),
        *(
            amount(_price(told, key), f"{key}:{code}")
            for key in ("gpu_hours", "cpu_hours", "money")
        ),
    ]
    return Row(code, f"{name}, {row.family}", cells, name)


def _gain(way: Baseline, name: str, digits: int) -> Figure:
    figure = mean(way.gain, name, digits, "+")
    is_open = way.gain.count > 1 and not way.is_beaten
    title = "The 95 % interval holds 0: it may be chance" if is_open else ""
    return Figure(
        figure.text, figure.value, name, title, figure.interval, "unsure" if is_open else ""
    )


def _price(told: dict[str, Any] | None, key: str) -> float | None:
    values = [cell[key] for cell in told["teachers"].values() if cell[key]] if told else []
    return sum(values) if values else None


def diversity(told: Mapping[str, Any]) -> Sheet:
    """The selected answers against each teacher's own, means over languages; see `variety`."""
    columns = [
        Column(
            "Selected \u2212 teacher alone", "Each over the prompts that both have an answer to"
        ),
        Column("Languages", "In which both have enough answers to compare"),
        Column("Prompts", "That both have an answer to"),
        *(
            Column(f"Distinct-{n}", f"Different {n}-grams / all {n}-grams: higher is more diverse")
            for n in (1, 2, 3)
        ),
        Column(
            "Similarity", "Mean cosine of two answers' character 3-grams: lower is more diverse"
        ),
        Column("Compression", "Bytes / zlib's bytes: lower is more diverse; selected | alone"),
        Column("Characters", "Mean length: longer answers repeat more"),
        Column("Words", "Mean length in words, or letters where there are no spaces"),
    ]
    rows = [_kept(name, one) for name, one in told["teachers"].items()]
    return Sheet("diversity", columns, rows)


def _kept(name: str, one: Mapping[str, Any]) -> Row:
    figures = ("distinct_1", "distinct_2", "distinct_3", "similarity")
    compression = [one[whose]["compression"] for whose in ("selected", "alone")]
    return Row(
        name,
        ", ".join(one["languages"]),
        [
            whole(len(one["languages"]), f"languages:{name}"),
            whole(one["prompts"], f"compared:{name}"),
            *(_difference(one, figure, 4, name) for figure in figures),
            Figure(" | ".join(shown.number(value) for value in compression), compression[0]),
            *(_difference(one, figure, 1, name) for figure in ("chars", "words")),
        ],
    )


def _difference(one: Mapping[str, Any], key: str, digits: int, name: str) -> Figure:
    told = one["differences"][key]
    value, half = told["value"], shown.known(told["interval"])
    beside = "" if half is None else f" {shown.PLUS_MINUS}\u00a0{shown.number(half, digits)}"
    selected, alone = (shown.number(one[whose][key], digits) for whose in ("selected", "alone"))
    is_open = value is not None and half is not None and abs(value) <= half
    return Figure(
        shown.signed(value, digits) + beside,
        value,
        f"{key}:{name}",
        f"selected {selected}, alone {alone}",
        half,
        "unsure" if is_open else "",
    )
