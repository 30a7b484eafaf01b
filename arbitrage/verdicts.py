"""Answers the three questions that everyone has of a run, in a sentence each, with their figures.

Was it worth what it cost? Which teacher could go? Which language is weak? Pure: an account in,
words out. A gain whose 95 % interval holds 0 is never called one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from arbitrage.costs import amount_of
from arbitrage.languages import table
from arbitrage.results import beside
from arbitrage.shown import interval

if TYPE_CHECKING:
    from arbitrage.account import Account, Single
    from arbitrage.stats import Moments

UNITS = {
    "money": "the money",
    "gpu_hours": "the GPU hours",
    "completion_tokens": "the tokens",
    "requests": "the completions",
}
"""What costs are compared by, in words; see `costs.unit_of`."""


class Verdict(NamedTuple):
    """A question, the answer in a few words, the figures behind it, and how it sounds."""

    question: str
    answer: str
    detail: str
    tone: Literal["good", "bad", "plain"]


def verdicts_of(account: Account) -> list[Verdict]:
    """The three, in the order of their importance; none of a run without a product."""
    if not account.languages:
        return []
    return [_worth(account), _droppable(account), _weakest(account)]


def _prompts(count: int) -> str:
    return f"{count:,} prompt" if count == 1 else f"{count:,} prompts"


def _is_positive(moments: Moments) -> bool:
    return moments.mean - moments.half_width > 0


def _worth(account: Account) -> Verdict:
    question = "Was it worth it?"
    if len(account.teachers) < 2:
        return Verdict(question, "One teacher alone", "There was nobody to choose from.", "plain")
    ways = beside(account.languages)
    each = ways["best single teacher"].gain
    told = [f"Above the best teacher of each language: {interval(each, sign='+')}."]
    gain = each if account.single is None else account.single.gain
    if account.single is not None:
        told.insert(0, _against(account.single))
    if not ways["longest answer"].is_beaten and ways["longest answer"].gain.count > 1:
        told.append("Taking the longest answer is not shown to be worse.")
    times = account.single.times if account.single else None
    price = f" for {times:.1f}\u00d7 {UNITS[account.unit]}" if times is not None else ""
    answer = f"{interval(gain, sign='+')} reward{price}"
    if _is_positive(gain):
        return Verdict(question, answer, " ".join(told), "good")
    return Verdict(question, f"Not shown: {answer}", " ".join(told), "bad")


def _against(single: Single) -> str:
    """What choosing is against the best single teacher."""
    size = (
        [f"{100 * single.relative:.1f}\u00a0% of its size"] if single.relative is not None else []
    )
    if single.in_deviations is not None:
        size.append(f"{single.in_deviations:.2f} standard deviations")
    told = f"Mean reward of the chosen answers above {single.name} alone" + (
        f" ({', '.join(size)})" if size else ""
    )
    told += f"; {single.better:,} of {single.gain.count:,} prompts got a better answer"
    more = f", {single.unanswered:,} more got one at all" if single.unanswered else ""
    return f"{told}{more}."


def _droppable(account: Account) -> Verdict:
    question = "Which teacher could go?"
    if len(account.teachers) < 2:
        return Verdict(question, "None", "There is only one.", "plain")
    parts = cost_parts(account)
    free = [
        n for n, loss in account.losses.items() if not loss.alone and not _is_positive(loss.reward)
    ]
    if free:
        name = max(free, key=lambda name: (parts.get(name, 0.0), name))
        told = f"Nothing measurable is lost without it: {_lost(account, name)}."
        others = [other for other in free if other != name]
        told += f" The same holds for {', '.join(others)}, one at a time." if others else ""
        return Verdict(question, f"{name}, at no loss", told, "bad")
    name = min(account.losses, key=lambda name: (_price_of(account, parts, name), name))
    least = min(account.losses, key=lambda name: (account.losses[name].reward.mean, name))
    told = f"Least is lost for what it costs: {_lost(account, name)}."
    if least != name:
        told += f" Least of all is lost without {least}: {_lost(account, least)}."
    return Verdict(question, f"{name}, at a loss", told, "plain")


def _price_of(account: Account, parts: dict[str, float], name: str) -> float:
    """Reward lost per part of the cost saved; a prompt that nobody else answers weighs most."""
    loss, part = account.losses[name], parts.get(name, 0.0)
    weight = loss.reward.mean + (loss.alone * _scale(account) / max(1, loss.reward.count))
    return weight / part if part else float("inf")


def _scale(account: Account) -> float:
    """A loss of one deviation of the rewards stands for an answer that is not there."""
    return account.reward.deviation if account.reward.count > 1 else 1.0


def _lost(account: Account, name: str) -> str:
    loss = account.losses[name]
    told = f"{interval(loss.reward)} of reward per prompt"
    if loss.alone:
        told += f", {_prompts(loss.alone)} without any answer"
    part = cost_parts(account).get(name)
    saved = "" if part is None else f", for {100 * part:.0f}\u00a0% of {UNITS[account.unit]}"
    return f"{told}{saved}"


def cost_parts(account: Account) -> dict[str, float]:
    """Each teacher's part of what all teachers cost, in the account's unit; empty if unknown."""
    costs = [cost for cost in account.costs if cost.stage == "generate"]
    total = sum(amount_of(cost, account.unit) for cost in costs)
    return {cost.name: amount_of(cost, account.unit) / total for cost in costs} if total else {}


def _weakest(account: Account) -> Verdict:
    question = "Which language is weak?"
    if len(account.languages) < 2:
        code = account.languages[0].language
        return Verdict(question, "There is one", f"All prompts are in {code}.", "plain")
    worst = min(account.languages, key=lambda row: (row.reward.mean, row.language))
    told = f"Mean reward {interval(worst.reward)}, over all {interval(account.reward)}."
    gain = worst.of_teacher(worst.best_alone).gain
    if worst.best_alone is not None and gain.count > 1:
        shown = "" if _is_positive(gain) else ", which may be chance"
        told += f" Choosing adds {interval(gain, sign='+')} to {worst.best_alone}{shown}."
    told += _also(account)
    if worst.reward.mean + worst.reward.half_width < account.reward.mean:
        return Verdict(question, named(worst.language), told, "bad")
    return Verdict(question, f"None for certain; at most {named(worst.language)}", told, "plain")


def named(code: str) -> str:
    """A language by its name and code."""
    return f"{table()[code].name} ({code})" if code in table() else code


def _also(account: Account) -> str:
    """Where most prompts were lost, and most answers are in another language, if any."""
    told = ""
    lost = {code: sum(why.values()) for code, why in account.ledger.by_language.items()}
    sizes = {row.language: row.prompts for row in account.languages}
    parts = {code: count / (count + sizes.get(code, 0)) for code, count in lost.items() if count}
    if parts:
        code = max(parts, key=lambda code: (parts[code], code))
        part = f"{100 * parts[code]:.1f}\u00a0%"
        told += f" Most is lost in {named(code)}: {_prompts(lost[code])}, {part}."
    strays = {
        code: cell.rates.failed["language"] / cell.rates.candidates
        for code in sizes
        if (cell := account.cells.of(language=code)).rates.failed["language"]
    }
    if strays:
        code = max(strays, key=lambda code: (strays[code], code))
        told += (
            f" Most answers in another language: {named(code)}, {100 * strays[code]:.1f}\u00a0%."
        )
    return told
