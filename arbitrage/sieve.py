"""What of a product becomes a row of a training set, and why the rest does not.

Takes rows of the product as plain data, and other candidates' texts where it has to; writes
nothing. Invariant: rows of the product = rows that pass + rows left out, each for one reason.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from arbitrage.choices import in_language
from arbitrage.errors import StoreError
from arbitrage.exports import FORMATS, Row, Said
from arbitrage.permits import shown_model
from arbitrage.rivals import Rival, in_order, is_usable, rejected

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from arbitrage.choices import SelectionConfig
    from arbitrage.permits import Permit, Permits

    Texts = Callable[[str, str, int], tuple[str | None, str | None] | None]
    """Text and reasoning of a candidate by (teacher's fingerprint, prompt id, sample); none where
    it is not stored any longer."""

WHY = {
    "other_language": "in another language than those asked for",
    "other_teacher": "by another teacher than those asked for",
    "not_for_training": "by a teacher whose answers are not for training",
    "pair_not_for_training": "a pair whose rejected answer is by such a teacher",
    "fused_not_for_training": "written from answers that are not for training",
    "further_row": "a further row of a prompt, of which there is one pair",
    "no_pair": "no second answer with another text and a lower reward",
    "not_trusted": "the Arbiter is not trusted in the language, so that no answer is the worse one",
    "text_gone": "the other answer's text is not stored any longer",
    "below_margin": "the two rewards are closer than the least margin",
    "over_limit": "beyond the limit, by lot",
}
"""Why a row of the product is no row of the training set."""

BASE = ("prompt_id", "user_id", "language", "family", "messages", "completion", "teacher", "model")
MORE = ("revision", "reward", "margin", "rank", "sample", "teacher_fingerprint")
RIVALS = ("candidates", "rejected", "rejected_teacher", "rejected_reward")


@dataclass(frozen=True)
class Wanted:
    """What a user wants in a training set. `columns` beside the texts, none: all that the form has
    by itself; no `languages` or `teachers` (names): all. `splits` are names with their shares."""

    form: str
    columns: tuple[str, ...] | None = None
    reasoning: bool = False
    languages: tuple[str, ...] = ()
    teachers: tuple[str, ...] = ()
    min_margin: float | None = None
    next_best: bool = False
    limit: int | None = None
    splits: tuple[tuple[str, float], ...] = (("train", 1.0),)

    @property
    def beside(self) -> tuple[str, ...]:
        """The columns beside the texts."""
        return tuple(FORMATS[self.form].columns) if self.columns is None else self.columns


@dataclass
class Ledger:
    """Rows of the product = exported + left out. `left_out`: by reason and teacher, the empty name
    where no teacher has to do with it; `replaced`: by teacher, whose answers others stand for."""

    rows: int = 0
    exported: int = 0
    left_out: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    replaced: Counter[str] = field(default_factory=Counter)

    def as_dict(self) -> dict[str, Any]:
        """Plain data, in an order that does not depend on the rows'."""
        left = {why: dict(sorted(self.left_out[why].items())) for why in WHY if self.left_out[why]}
        return {
            "rows": self.rows,
            "exported": self.exported,
            "left_out": left,
            "next_best": dict(sorted(self.replaced.items())),
        }


@dataclass(frozen=True)
class Passed:
    """A row that is wanted, whose it is, and by what lot it counts."""

    row: Row
    by: Permit
    beside: Permit | None
    lot: int


class _LeftOut(Exception):  # noqa: N818 - an outcome, not a fault
    """The reason, and the teacher that has to do with it."""


@dataclass
class Sieve:
    """Judges rows; `ledger` says what became of them. `enforced` are the run's gates."""

    wanted: Wanted
    permits: Permits
    selection: SelectionConfig
    enforced: tuple[str, ...]
    untrusted: Callable[[str], bool] = lambda code: False
    highest: int | None = None
    ledger: Ledger = field(default_factory=Ledger)

    @property
    def read(self) -> list[str]:
        """The columns of the product that it looks at."""
        wanted, form = self.wanted, FORMATS[self.wanted.form]
        read = [*BASE, *MORE]
        read += RIVALS if form.pairs or wanted.next_best or self.permits.barred else ()
        read += ["reasoning"] if wanted.reasoning else []
        return read + (["extra"] if "extra" in wanted.beside else [])

    def passed(self, rows: Sequence[Mapping[str, Any]], texts: Texts) -> Iterator[Passed]:
        """Those of a shard's rows that are wanted. Raises StoreError where a text is another one
        than it was when the product was made."""
        taken: dict[str, set[str]] = defaultdict(set)
        for row in rows:
            taken[row["prompt_id"]].add(row["completion"])
        for row in rows:
            self.ledger.rows += 1
            try:
                found = self._judged(row, texts, taken[row["prompt_id"]])
            except _LeftOut as why:
                reason, name = why.args
                self.ledger.left_out[reason][name] += 1
                continue
            self.ledger.exported += 1
            yield found

    def _judged(self, row: Mapping[str, Any], texts: Texts, taken: set[str]) -> Passed:
        wanted, form = self.wanted, FORMATS[self.wanted.form]
        if wanted.languages and row["language"] not in wanted.languages:
            raise _LeftOut("other_language", "")
        if form.pairs and (row["rank"] or 1) > 1:
            raise _LeftOut("further_row", "")
        case = _Case(self, row, texts)
        chosen = case.chosen(taken)
        by = self._permit(chosen, row)
        if wanted.teachers and by.name not in wanted.teachers:
            raise _LeftOut("other_teacher", "")
        other = case.rejected(chosen) if form.pairs else None
        lot = lot_of("limit", row["prompt_id"], row["rank"] or 1)
        if self.highest is not None and lot > self.highest:
            raise _LeftOut("over_limit", "")
        if not case.is_own(chosen):
            self.ledger.replaced[self._permit_of(row["teacher_fingerprint"], row).name] += 1
        beside = self._permit(other, row) if other else None
        return Passed(self._row(row, case, chosen, other), by, beside, lot)

    def _permit(self, rival: Rival, row: Mapping[str, Any]) -> Permit:
        return self._permit_of(rival.teacher, row)

    def _permit_of(self, owner: str, row: Mapping[str, Any]) -> Permit:
        named = (
            c["teacher"] for c in row.get("candidates", ()) if c["teacher_fingerprint"] == owner
        )
        name = row["teacher"] if owner == row["teacher_fingerprint"] else next(named, owner)
        return self.permits.of(owner, name)

    def barred(self, owner: str, row: Mapping[str, Any]) -> tuple[str, str] | None:
        """Why a teacher's answer is not for training, and whose fault it is; none if it is."""
        permit = self._permit_of(owner, row)
        if not permit.for_training:
            return "not_for_training", permit.name
        if not permit.fuses:
            return None
        for one in row.get("candidates", ()):
            read = self._permit_of(one["teacher_fingerprint"], row)
            sound = not set(one["gates"]) & set(self.enforced)
            empty = one["chars"] is None and one["error"] is not None
            if not read.fuses and not read.for_training and sound and not empty:
                return "fused_not_for_training", read.name
        return None

    def _row(self, row: Mapping[str, Any], case: _Case, chosen: Rival, other: Rival | None) -> Row:
        by = self._permit(chosen, row)
        own = case.is_own(chosen)
        names = ("prompt_id", "user_id", "language", "family")
        values = {name: row[name] for name in names} | {
            "teacher": by.name,
            "model": shown_model(row["model"]) if own else by.model,
            "revision": row["revision"] if own else by.revision,
            "license": by.license,
            "reward": chosen.reward,
            "margin": row["margin"] if own else case.margin(chosen),
            "extra": row.get("extra"),
        }
        if other is not None and chosen.reward is not None and other.reward is not None:
            beside = self._permit(other, row)
            values |= {
                "margin": chosen.reward - other.reward,
                "rejected_teacher": beside.name,
                "rejected_model": beside.model,
                "rejected_license": beside.license,
                "rejected_reward": other.reward,
            }
        worse = self._said(other) if other else None
        return Row(row["messages"][:-1], self._said(chosen), worse, values)

    def _said(self, rival: Rival) -> Said:
        return Said(rival.text or "", rival.reasoning if self.wanted.reasoning else None)


@dataclass
class _Case:
    """One row of the product with the prompt's other candidates, whose texts are read when they
    are needed."""

    sieve: Sieve
    row: Mapping[str, Any]
    texts: Texts
    _rivals: list[Rival] | None = None

    def rivals(self) -> list[Rival]:
        """All candidates of the prompt, in the product's order."""
        if self._rivals is None:
            self._rivals = [self._rival(one) for one in self.row["candidates"]]
        return self._rivals

    def _rival(self, one: Mapping[str, Any]) -> Rival:
        owner, sample = one["teacher_fingerprint"], one["sample"]
        text, reasoning = self.texts(owner, self.row["prompt_id"], sample) or (None, None)
        if text is not None and one["chars"] not in (None, len(text)):
            raise StoreError(
                f"the stored answers to prompt {self.row['prompt_id']} are not those that the "
                "product was made of; `arbitrage verify RUN --repair` mends it"
            )
        return Rival(owner, sample, one["reward"], one["gates"], one["error"], text, reasoning)

    def _own(self) -> Rival:
        row = self.row
        owner, sample = row["teacher_fingerprint"], row["sample"]
        return Rival(
            owner, sample, row["reward"], (), None, row["completion"], row.get("reasoning")
        )

    def is_own(self, chosen: Rival) -> bool:
        """Whether it is the product's choice."""
        mine = (self.row["teacher_fingerprint"], self.row["sample"])
        return (chosen.teacher, chosen.sample) == mine

    def chosen(self, taken: set[str]) -> Rival:
        """The product's choice, or where that is not for training the next one, if it is wanted.
        `taken` are the texts of all rows of the prompt."""
        why = self.sieve.barred(self.row["teacher_fingerprint"], self.row)
        if why is None:
            return self._own()
        free = taken - {self.row["completion"]}
        able = self._able() if self.sieve.wanted.next_best else []
        found = next((one for one in able if one.text not in free), None)
        if found is None:
            raise _LeftOut(*why)
        taken.add(found.text or "")
        return found

    def _able(self) -> list[Rival]:
        """What could be chosen and is for training, best first."""
        sieve = self.sieve
        least = in_language(sieve.selection.min_reward, self.row["language"])
        return in_order(
            self.rivals(),
            lambda one: (
                is_usable(one, sieve.enforced, least)
                and sieve.barred(one.teacher, self.row) is None
            ),
        )

    def margin(self, chosen: Rival) -> float | None:
        """How far an answer that stands for another one is ahead of the next that could."""
        behind = [one for one in self._able() if one.text != chosen.text]
        after = [one.reward for one in behind if one.reward is not None]
        if chosen.reward is None or not after or self.sieve.untrusted(self.row["language"]):
            return None
        best = max((reward for reward in after if reward <= chosen.reward), default=None)
        return None if best is None else chosen.reward - best

    def rejected(self, chosen: Rival) -> Rival:
        """The answer to lead away from. Raises _LeftOut where there is none."""
        sieve = self.sieve
        if sieve.untrusted(self.row["language"]):
            raise _LeftOut("not_trusted", "")
        found = self._told(chosen) or self._found(chosen)
        why = sieve.barred(found.teacher, self.row)
        if why is not None and sieve.wanted.next_best:
            found = self._found(chosen, allowed=True)
        elif why is not None:
            raise _LeftOut("pair_not_for_training", why[1])
        distance = (chosen.reward or 0.0) - (found.reward or 0.0)
        if sieve.wanted.min_margin is not None and distance < sieve.wanted.min_margin:
            raise _LeftOut("below_margin", "")
        return found

    def _told(self, chosen: Rival) -> Rival | None:
        """The product's own rejected answer, where it has one and no more is wanted of it."""
        row = self.row
        if row["rejected"] is None or self.sieve.wanted.reasoning or not self.is_own(chosen):
            return None
        named = [one for one in row["candidates"] if one["teacher"] == row["rejected_teacher"]]
        if not named:
            return None
        one = next((o for o in named if o["reward"] == row["rejected_reward"]), named[0])
        owner, reward = one["teacher_fingerprint"], row["rejected_reward"]
        return Rival(owner, one["sample"], reward, one["gates"], None, row["rejected"])

    def _found(self, chosen: Rival, *, allowed: bool = False) -> Rival:
        """The same by the rule. Raises _LeftOut where there is none."""
        sieve, row = self.sieve, self.row
        gone = any(one.reward is not None and one.text is None for one in self.rivals())
        found = rejected(
            row["prompt_id"],
            self.rivals(),
            (chosen.text or "", chosen.reward or 0.0),
            lambda one: not allowed or sieve.barred(one.teacher, row) is None,
        )
        if gone or found is None:
            raise _LeftOut("text_gone" if gone else "no_pair", "")
        return found


def lot_of(what: str, prompt_id: str, place: int = 1) -> int:
    """A number below 2**64 that depends on the prompt alone, another for each use."""
    key = f"{what}/{prompt_id}/{place}"
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")


def split_of(prompt_id: str, splits: Sequence[tuple[str, float]]) -> str:
    """The split of a prompt, the same whatever else is exported with it."""
    drawn, reached = lot_of("split", prompt_id) / 2**64, 0.0
    for name, share in splits:
        reached += share
        if drawn < reached:
            return name
    return splits[-1][0]
