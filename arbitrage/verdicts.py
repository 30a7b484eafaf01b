"""Answers the three questions that everyone has of a run, in a sentence each, with their figures.

Was it worth what it cost? Which teacher could go? Which language is weak? Pure: an account in,
words out. A gain whose 95 % interval holds 0 is never called one.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import TYPE_CHECKING, Literal, NamedTuple

from arbitrage.costs import amount_of
from arbitrage.languages import table
from arbitrage.results import beside
from arbitrage.shown import interval
from arbitrage.stats import Z95

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from arbitrage.account import Account, Single
    from arbitrage.results import LanguageResult
    from arbitrage.stats import Moments
    from arbitrage.worth import Loss

UNITS = {
    "money": "the money",
    "gpu_hours": "the GPU hours",
    "completion_tokens": "the tokens",
    "requests": "the completions",
}
"""What costs are compared by, in words; see `costs.unit_of`."""
ALIKE, FEW = 4, 3
"""So many languages are named, and so many wrong answers are worth a word."""


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
    gain = ways["best single teacher"].gain
    told = ["Above the best teacher of each language by itself."]
    if account.single is not None:
        told.append(_against(account.single, account.unit))
    if not ways["longest answer"].is_beaten and ways["longest answer"].gain.count > 1:
        told.append("Taking the longest answer is not shown to be worse.")
    price = _price(account.times_each, account.unit, " for ")
    answer = f"{interval(gain, sign='+')} reward{price}"
    if _is_positive(gain):
        return Verdict(question, answer, " ".join(told), "good")
    return Verdict(question, f"Not shown: {answer}", " ".join(told), "bad")


def _price(times: Mapping[str, float], unit: str, before: str) -> str:
    return f"{before}{times[unit]:.1f}\u00d7 {UNITS[unit]}" if unit in times else ""


def _against(single: Single, unit: str) -> str:
    """What choosing is against the best single teacher, and at what price."""
    told = f"Above {single.name} for everything: {interval(single.gain, sign='+')}"
    told += _price(single.times, unit, ", for ")
    told += f"; {single.better:,} of {single.gain.count:,} prompts got a better answer"
    more = f", and {single.unanswered:,} that it does not answer got one"
    return f"{told}{more if single.unanswered else ''}."


def _droppable(account: Account) -> Verdict:
    question = "Which teacher could go?"
    if len(account.teachers) < 2:
        return Verdict(question, "None", "There is only one.", "plain")
    parts = cost_parts(account)
    losses = account.losses
    free = [name for name, loss in losses.items() if _is_free(loss)]
    if free:
        name = max(free, key=lambda name: (parts.get(name, 0.0), name))
        told = f"Without {name}: {_lost(account, name)}."
        others = [other for other in free if other != name]
        told += f" The same holds for {', '.join(others)}, one at a time." if others else ""
        return Verdict(question, f"{name}: no loss to be seen", told, "good")
    name = min(losses, key=lambda name: (_price_of(account, parts, name), name))
    least = min(losses, key=lambda name: (losses[name].reward.mean, name))
    told = f"Without {name}: {_lost(account, name)}."
    if least != name:
        told += f" Without {least}, where least is lost: {_lost(account, least)}."
    return Verdict(question, f"None for free; cheapest is {name}", told, "plain")


def _is_free(loss: Loss) -> bool:
    """Of one prompt there is no interval, so what is lost on it is not called nothing."""
    if loss.alone:
        return False
    return not loss.reward.total or (loss.reward.count > 1 and not _is_positive(loss.reward))


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
    part = cost_parts(account).get(name)
    saved = "" if part is None else f"{100 * part:.0f}\u00a0% of {UNITS[account.unit]} saved, "
    told = f"{saved}{interval(loss.reward)} of reward per prompt lost"
    return f"{told}, {_prompts(loss.alone)} without any answer" if loss.alone else told


def cost_parts(account: Account) -> dict[str, float]:
    """Each teacher's part of what all teachers cost, in the account's unit; empty if unknown."""
    costs = [cost for cost in account.costs if cost.stage == "generate"]
    total = sum(amount_of(cost, account.unit) for cost in costs)
    return {cost.name: amount_of(cost, account.unit) / total for cost in costs} if total else {}


def _weakest(account: Account) -> Verdict:
    question = "Which language is weak?"
    if len(account.languages) < 2:
        code = account.languages[0].language
        return Verdict(question, "There is one", f"All prompts are in {named(code)}.", "plain")
    worst = min(account.languages, key=lambda row: (row.reward.mean, row.language))
    told = f"Mean reward {interval(worst.reward)}, all languages {interval(account.reward)}."
    told += _alike(worst, account.languages)
    gain = worst.of_teacher(worst.best_alone).gain
    if worst.best_alone is not None and gain.count > 1:
        shown = "" if _is_positive(gain) else ", which may be chance"
        told += f" Choosing is {interval(gain, sign='+')} above its best teacher{shown}."
    told += _also(account)
    # The lowest of many is low by chance too, so the interval is made wider (Bonferroni).
    wider = NormalDist().inv_cdf(1 - 0.025 / len(account.languages)) / Z95
    if worst.reward.mean + wider * worst.reward.half_width < account.reward.mean:
        return Verdict(question, named(worst.language), told, "bad")
    return Verdict(question, f"None for certain; lowest {named(worst.language)}", told, "plain")


def _alike(worst: LanguageResult, rows: Sequence[LanguageResult]) -> str:
    """Languages whose mean reward is not told apart from the lowest."""
    near = [
        row.language
        for row in sorted(rows, key=lambda row: row.reward.mean)
        if row is not worst
        and row.reward.mean - worst.reward.mean
        <= math.hypot(row.reward.half_width, worst.reward.half_width)
    ]
    if not near:
        return ""
    more = f" and {len(near) - ALIKE} more" if len(near) > ALIKE else ""
    return f" Not told apart from it: {', '.join(near[:ALIKE])}{more}."


def _also(account: Account) -> str:
    """Where most prompts were lost, and most answers are in another language, if that is more than
    a few."""
    told = ""
    lost = {code: sum(why.values()) for code, why in account.ledger.by_language.items()}
    sizes = {row.language: row.prompts for row in account.languages}
    parts = {code: count / (count + sizes.get(code, 0)) for code, count in lost.items() if count}
    if parts:
        code = max(parts, key=lambda code: (parts[code], code))
        part = f"{100 * parts[code]:.1f}\u00a0%"
        told += f" Most is lost in {named(code)}: {_prompts(lost[code])}, {part}."
    rates = {code: account.cells.of(language=code).rates for code in sizes}
    wrong = {code: one.failed["language"] for code, one in rates.items()}
    strays = {code: n / rates[code].candidates for code, n in wrong.items() if n >= FEW}
    if strays:
        code = max(strays, key=lambda code: (strays[code], code))
        part = f"{wrong[code]:,} of {rates[code].candidates:,}"
        told += f" Most answers in a wrong language: {named(code)}, {part}."
    return told


def named(code: str) -> str:
    """A language by its name and code."""
    return f"{table()[code].name} ({code})" if code in table() else code
