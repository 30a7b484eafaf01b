"""What is in a training set, counted while it is made: by language, teacher, license and split."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from arbitrage.stats import Moments

if TYPE_CHECKING:
    from arbitrage.permits import Permit
    from arbitrage.sieve import Passed

NOT_RECORDED = "not recorded"


@dataclass
class LanguageTally:
    """Rows of one language: how many, their rewards, and by whom."""

    rows: int = 0
    reward: Moments = field(default_factory=Moments)
    teachers: Counter[str] = field(default_factory=Counter)


@dataclass
class Tally:
    """`teachers` and `beside` (of rejected answers) by permit; `licenses` count rows by the license
    of each answer in them, `unlicensed` are the names of teachers that have none recorded."""

    rows: int = 0
    languages: dict[str, LanguageTally] = field(default_factory=lambda: defaultdict(LanguageTally))
    splits: Counter[str] = field(default_factory=Counter)
    teachers: Counter[Permit] = field(default_factory=Counter)
    beside: Counter[Permit] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    unlicensed: set[str] = field(default_factory=set)

    def add(self, split: str, one: Passed) -> None:
        """Takes in a row."""
        columns = one.row.columns
        mine = self.languages[columns["language"]]
        reward = columns["reward"]
        mine.rows += 1
        mine.reward.add(1, reward, reward**2)
        mine.teachers[one.by.name] += 1
        self.rows += 1
        self.splits[split] += 1
        self.teachers[one.by] += 1
        who = [one.by] if one.beside is None else [one.by, one.beside]
        if one.beside is not None:
            self.beside[one.beside] += 1
        for told in {permit.license or NOT_RECORDED for permit in who}:
            self.licenses[told] += 1
        self.unlicensed |= {permit.name for permit in who if permit.license is None}
