"""The head of a run's report: what the run was, and its figures in tiles. Pure: an account in.

Every figure has the number in full beside what is shown of it, so that a page can be checked.
Text of others (names of teachers, models, runs) stays as it is; whoever renders it escapes it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from arbitrage import shown
from arbitrage.permits import last_part
from arbitrage.results import beside
from arbitrage.stats import Moments
from arbitrage.verdicts import UNITS

if TYPE_CHECKING:
    from arbitrage.account import Account, Single
    from arbitrage.costs import Cost


@dataclass(frozen=True)
class Figure:
    """A number as it is shown, in full (`value`, half of its `interval`), and by name."""

    text: str
    value: float | int | str | None = None
    name: str = ""
    title: str = ""
    interval: float | None = None
    tone: str = ""


@dataclass(frozen=True)
class Tile:
    """A figure with its label, and notes below it: figures or plain text."""

    label: str
    figure: Figure
    notes: list[Figure] = field(default_factory=list)
    title: str = ""
    is_wide: bool = False


def whole(value: float, name: str = "", text: str = "{}", title: str = "") -> Figure:
    """A count, as a part of some text."""
    return Figure(text.format(shown.count(value)), value, name, title)


def part(value: float | None, name: str = "", text: str = "{}", title: str = "") -> Figure:
    """A share, as a part of some text; what is not all is not called 100 %."""
    is_nearly_all = value is not None and 0.9995 <= value < 1
    told = shown.percent(value, 3 if is_nearly_all else 1)
    return Figure(text.format(told), shown.known(value), name, title)


def mean(
    moments: Moments, name: str = "", digits: int | None = None, sign: str = "-", title: str = ""
) -> Figure:
    """A mean with its interval."""
    half = shown.known(moments.half_width)
    text = shown.interval(moments, digits, sign)
    return Figure(text, shown.known(moments.mean), name, title, half)


def amount(value: float | None, name: str = "", text: str = "{}", title: str = "") -> Figure:
    """Tokens, hours or money: nothing at all is not known."""
    shape = shown.compact if value and abs(value) >= 1000 else shown.significant
    return Figure(text.format(shape(value or None)), value or None, name, title)


def said(text: str, title: str = "") -> Figure:
    """Words among figures."""
    return Figure(text, title=title)


def digits_of(account: Account) -> int:
    """So many decimals all rewards of a page have: a tenth of their deviation counts."""
    deviation = account.reward.deviation
    return min(4, shown.digits_for(deviation / 10)) if deviation > 0 else 2


def head(account: Account) -> dict[str, Any]:
    """The run's name, when it ended, and what it was made of as (label, text, title)."""
    facts = account.facts
    name = last_part(account.run) or "run"
    arbiters = {
        arbiter: last_part(told["model"] or "") or told["engine"]
        for arbiter, told in facts["arbiters"].items()
    }
    gates = ", ".join(facts["gates"]) or "none"
    said_of = [
        ("", _many(len(account.teachers), "teacher"), ", ".join(account.teachers)),
        ("", _many(len(account.languages), "language"), ", ".join(_codes(account))),
        ("", _many(account.ledger.prompts, "prompt"), "in the run's prompt shards"),
        (
            "Arbiter",
            ", ".join(f"{key} ({model})" for key, model in arbiters.items()),
            "The reward model that scored every completion",
        ),
        ("router", facts["router"], "How it was decided which teachers answer a prompt"),
        ("rule", facts["selector"], "How answers were chosen"),
        (
            "",
            _many(len(facts["gates"]), "gate"),
            f"A candidate that fails one is never chosen: {gates}",
        ),
        ("seed", str(facts["seed"]), "Of everything that is drawn by lot"),
    ]
    return {
        "name": name,
        "ended": _time(facts["ended"]),
        "facts": said_of,
        "gates": gates,
    }


def _many(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def _codes(account: Account) -> list[str]:
    return [row.language for row in account.languages]


def _time(told: str | None) -> str | None:
    return None if told is None else f"{told[:10]} {told[11:16]} UTC"


def tiles(account: Account) -> list[Tile]:
    """What went in and came out, what was gained, and what it cost."""
    generated = [cost for cost in account.costs if cost.stage == "generate"]
    scored = [cost for cost in account.costs if cost.stage == "score"]
    others = [cost for cost in account.costs if not cost.stage]
    return [
        *_ledger(account),
        _failed(account),
        *_gains(account),
        _tokens(generated, scored, others),
        _hours(account.costs),
        *_money(account.costs),
        _factor(account),
    ]


def _ledger(account: Account) -> list[Tile]:
    ledger = account.ledger
    refused, lost = sum(ledger.refused.values()), sum(ledger.quarantined.values())
    share = ledger.selected / ledger.prompts if ledger.prompts else None
    aside = [whole(n, f"quarantined:{why}", f"{{}} {why}") for why, n in ledger.quarantined.items()]
    unfinished = [whole(ledger.unfinished, "unfinished", "{} unfinished")]
    rows = [
        whole(ledger.rows_read, "rows_read", "of {} rows read,"),
        whole(refused, "refused", "{} of them refused", _counts(ledger.refused)),
    ]
    return [
        Tile("Prompts in", whole(ledger.prompts, "prompts"), rows),
        Tile("Selected", whole(ledger.selected, "selected"), [part(share, "selected_share")]),
        Tile(
            "Quarantined",
            whole(lost, "quarantined"),
            (aside[:3] or [said("no prompt is lost")]) + (unfinished if ledger.unfinished else []),
            "Prompts without an answer that could be selected, by reason",
        ),
    ]


def _counts(told: dict[str, int]) -> str:
    return ", ".join(f"{why} {number:,}" for why, number in sorted(told.items()))


def _gains(account: Account) -> list[Tile]:
    each = beside(account.languages).get("best single teacher")
    single = account.single
    gain = Moments() if single is None else single.gain
    notes = [said("no teacher has answers in every language")]
    better: list[Figure] = []
    if single is not None:
        notes = [_relative(single), Figure(single.name, name="single")]
        better = [whole(single.better, "better", "{}"), whole(gain.count, "compared", "of {}")]
    share = single.better / gain.count if single is not None and gain.count else None
    return [
        Tile(
            "Gain over one teacher",
            mean(gain, "gain", sign="+"),
            notes,
            "Mean reward of what was chosen minus that of the one teacher that is best by itself, "
            "paired by prompt, with its 95 % interval",
            is_wide=True,
        ),
        Tile(
            "Gain over best per language",
            mean(Moments() if each is None else each.gain, "gain_each", sign="+"),
            [said("each language's best by itself")],
            "The same against the teacher that is best by itself in the prompt's language",
            is_wide=True,
        ),
        Tile(
            "Better answers",
            part(share, "better_share"),
            [*better, said("prompts")] if better else [],
            "Prompts of which the chosen answer has a higher reward than that best teacher's",
        ),
    ]


def _tokens(generated: list[Cost], scored: list[Cost], others: list[Cost]) -> Tile:
    made = sum(cost.usage.completion_tokens for cost in generated)
    asked = sum(cost.usage.prompt_tokens for cost in generated)
    judged = sum(cost.usage.requests for cost in scored)
    notes = [
        amount(asked, "prompt_tokens", "{} prompt tokens,"),
        whole(judged, "scored", "{} scored answers"),
    ]
    old = sum(cost.usage.completion_tokens for cost in others)
    if old:
        notes.append(amount(old, "other_tokens", "and {} of former teachers"))
    return Tile("Completion tokens", amount(made, "tokens"), notes, "As the teachers count them")


def _hours(costs: list[Cost]) -> Tile:
    gpus, cpus = sum(cost.gpu_hours for cost in costs), sum(cost.cpu_hours for cost in costs)
    title = (
        "Hours in which replicas had work in flight, times what each holds; loading is not in it"
    )
    if gpus:
        return Tile(
            "GPU hours", amount(gpus, "hours"), [amount(cpus, "cpu_hours", "{} CPU hours")], title
        )
    notes = [said("no accelerator was used" if cpus else "the diary tells no time")]
    return Tile("CPU hours", amount(cpus, "hours"), notes, title)


def _money(costs: list[Cost]) -> list[Tile]:
    """Nothing where the config has no prices."""
    total = sum(cost.money for cost in costs)
    judging = sum(cost.money for cost in costs if cost.stage == "score")
    notes = [amount(judging, "judging_money", "{} of it for scoring")] if judging else []
    tile = Tile("Money", amount(total, "money"), notes, "By the prices in the config")
    return [tile] if total else []


def _failed(account: Account) -> Tile:
    cell = account.cells.of()
    rates = cell.rates
    shares = [
        part(rates.failed[gate] / rates.candidates, f"all_{gate}", text)
        for gate, text in (("truncated", "{} truncated,"), ("language", "{} in a wrong language"))
        if rates.candidates
    ]
    title = "Completions that came to nothing, of all teachers; and shares of the others"
    return Tile("Errors", whole(cell.errors, "errors"), shares, title)


def _factor(account: Account) -> Tile:
    times = {} if account.single is None else account.single.times
    notes = [
        _times(times[unit], name, f"{{}} {told}")
        for unit, name, told in (
            ("gpu_hours", "times_gpu_hours", "the GPU hours, Arbiter included"),
            ("cpu_hours", "times_cpu_hours", "the CPU hours, Arbiter included"),
        )
        if unit in times and unit != account.unit
    ]
    return Tile(
        "Cost factor",
        _times(times.get(account.unit), "times"),
        [said(f"{UNITS[account.unit]} of one teacher")][: len(times)] + notes[:1],
        "What the run cost, in what it costs with the best single teacher alone",
    )


def _times(value: float | None, name: str, text: str = "{}") -> Figure:
    value = shown.known(value)
    told = shown.MISSING if value is None else f"{shown.number(value, 1)}\u00d7"
    return Figure(text.format(told), value, name)


def _relative(single: Single) -> Figure:
    """A gain in a measure that another Arbiter's would share, as far as there is one."""
    if single.relative is not None:
        told = f"{shown.percent(single.relative, 1, '+')} over"
        return Figure(told, single.relative, "gain_relative")
    told = f"{shown.number(single.in_deviations, 2)} standard deviations of its rewards, over"
    return Figure(told, shown.known(single.in_deviations), "gain_deviations")
