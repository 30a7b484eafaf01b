"""Scores labelled pairs with an Arbiter, and makes its card of what comes out.

Every completion is scored once, whatever pairs it is in. Scores are kept in a file beside the card,
by the Arbiter's fingerprint and a hash of prompt and completion, and put there every few seconds:
no second call, and none after a kill, asks for a score that is there. Needs no Ray: the engine is
built in this process, and only where a score is missing.

    arbitrage arbiter check CONFIG.yaml --pairs pairs.jsonl -o card.json
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from arbitrage import __version__, attacks
from arbitrage.arbiter import Verdict, judge
from arbitrage.card import Card, Evidence, Outcome, Subject, Trial, make
from arbitrage.engines import build_scorer, require, require_variables
from arbitrage.errors import (
    ArbitrageError,
    EngineError,
    Stopped,
    UsageError,
)
from arbitrage.identity import canonical, digest
from arbitrage.journal import Journal
from arbitrage.resumable import Resumable, Work
from arbitrage.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from arbitrage.components import Arbiter
    from arbitrage.engines import Scorer
    from arbitrage.pairs import Pair, PairSet
    from arbitrage.records import Prompt
    from arbitrage.store import Store

Item = tuple["Prompt", str]
KEY_HEX = 32
MADE_WITH = "made_with"


@dataclass(frozen=True)
class Assayed:
    """The card, how many of its completions have been scored just now, and what the Arbiter tells
    of tokens spent on this and on all earlier calls with the same file of scores."""

    card: Card
    completions: int
    fresh: int
    spent: Usage


def assay(
    arbiter: Arbiter,
    found: PairSet,
    cache: tuple[Store, str],
    tell: Callable[[int, int], None],
    *,
    least: float,
    attacked: int = 0,
    again: bool = False,
) -> Assayed:
    """Scores what is missing of the pairs, and makes the card.

    `cache` is the file of the scores, in a store; `attacked` the number of pairs whose rejected
    completion is attacked; `again`: what had an error is scored once more. `tell` hears how many
    completions are done, of all. Raises UsageError before anything is scored, EngineError where the
    engine is of no use, Stopped on Ctrl-C.
    """
    trials = _trials(found, attacked)
    items = {_key(*item): item for pair in found.pairs for item in _items(pair)}
    items |= {_key(pair.prompt, one.text): (pair.prompt, one.text) for pair, one in trials}
    scores = _Scores(*cache, arbiter.fingerprint, again=again)
    scores.read()
    fresh = sum(key not in scores.found for key in items)
    if fresh:
        _score(arbiter, items, scores, tell)
    marks = {key: Verdict(*scores.found[key]) for key in items}
    config = arbiter.config
    made_with = scores.found.get(MADE_WITH, {})
    subject = Subject(arbiter.name, arbiter.fingerprint, config.model, config.revision, made_with)
    evidence = Evidence(found.digest, found.files, found.rows, len(found.pairs), found.refused)
    card = make(
        subject,
        evidence,
        [_outcome(pair, marks) for pair in found.pairs],
        [_trial(pair, one, marks) for pair, one in trials],
        least=least,
        package=__version__,
    )
    return Assayed(card, len(items), fresh, scores.spent.priced(config.price))


class _Scores(Journal):
    """What has been scored, by any Arbiter; each finds its own lines only."""

    def __init__(self, store: Store, path: str, fingerprint: str, *, again: bool) -> None:
        super().__init__(store, path, fingerprint)
        self.path = path
        self.noted = Usage()
        self._again = again
        self._is_read = False

    def read(self) -> None:
        """Once; those who share it need not read it again."""
        if self._is_read:
            return
        super().read()
        self._is_read = True
        if self._again:
            self.found = {
                key: value for key, value in self.found.items() if key == MADE_WITH or not value[1]
            }

    def add(self, key: str, value: Any) -> None:
        """Notes a score, which is then found here too."""
        super().add(key, value)
        self.found[key] = value

    def note_spent(self, usage: Usage) -> None:
        """Notes what was spent, and remembers it."""
        super().note_spent(usage)
        self.noted = self.noted.plus(usage)


def _items(pair: Pair) -> tuple[Item, Item]:
    return (pair.prompt, pair.chosen), (pair.prompt, pair.rejected)


def _key(prompt: Prompt, completion: str) -> str:
    """Of everything that the engine is given."""
    return digest(canonical([prompt.language, prompt.id, completion]), KEY_HEX)


def _trials(found: PairSet, limit: int) -> list[tuple[Pair, attacks.Attacked]]:
    drawn = attacks.sample(((pair.key, pair.prompt.language) for pair in found.pairs), limit)
    return [
        (pair, one)
        for pair in sorted(found.pairs, key=lambda pair: pair.key)
        if pair.key in drawn
        for one in attacks.on(pair.key, pair.prompt.language, pair.rejected)
    ]


def _outcome(pair: Pair, marks: Mapping[str, Verdict]) -> Outcome:
    chosen, rejected = (marks[_key(*item)] for item in _items(pair))
    return Outcome(
        pair.prompt.language,
        pair.category,
        chosen.score,
        rejected.score,
        len(pair.chosen),
        len(pair.rejected),
        chosen.error or rejected.error,
        chosen.over_window or rejected.over_window,
    )


def _trial(pair: Pair, one: attacks.Attacked, marks: Mapping[str, Verdict]) -> Trial:
    chosen, rejected = (marks[_key(*item)].score for item in _items(pair))
    return Trial(one.kind, one.place, chosen, rejected, marks[_key(pair.prompt, one.text)].score)


def _score(
    arbiter: Arbiter,
    items: Mapping[str, Item],
    scores: _Scores,
    tell: Callable[[int, int], None],
) -> None:
    """Scores what is missing; what has been scored is kept whatever happens."""
    _check(arbiter)
    scorer = build_scorer(arbiter)
    kept = "what has been scored is kept, and the same command goes on from there"
    try:
        scores.add(MADE_WITH, scorer.provenance())
        asyncio.run(_score_all(scorer, items, scores, tell))
    except KeyboardInterrupt:
        raise Stopped(f"stopped on request; {kept}") from None
    except ArbitrageError:
        raise
    except Exception as error:
        raise EngineError(f"the Arbiter's engine failed ({error!r}); {kept}") from error
    finally:
        scorer.close()


def _check(arbiter: Arbiter) -> None:
    """Raises UsageError where the Arbiter cannot be built in this process."""
    python = arbiter.config.resources.python
    if python is not None and os.path.abspath(python) != os.path.abspath(sys.executable):  # noqa: PTH100
        raise UsageError(
            f"the config has the Arbiter run in another Python; call this command with that one, "
            f"`{python} -m arbitrage.cli arbiter check ...`"
        )
    require(arbiter.config.engine)
    require_variables(arbiter.config.options)


async def _score_all(
    scorer: Scorer,
    items: Mapping[str, Item],
    scores: _Scores,
    tell: Callable[[int, int], None],
) -> None:
    async def mark(item: Item) -> Verdict:
        made = await judge(scorer, *item)
        tell(len(work.results) + 1, len(items))
        return made

    def deadly(item: Item, why: str) -> Verdict:
        del item
        return Verdict(None, why)

    how = Work(mark, list, lambda told: Verdict(*told), deadly, id)
    work = Resumable(items, how, scores, scorer.max_in_flight, lambda: False)
    spent = await work.finish(wary=False)
    # The last ones, which it leaves to the file that a task makes.
    for key, made in work.results.items():
        if key not in scores.found:
            scores.add(key, list(made))
    scores.note_spent(spent.minus(scores.spent).minus(scores.noted))
    scores.spent = spent
    scores.flush()


def check_place(path: Path) -> None:
    """Raises UsageError, before anything is paid for, where no card can be written."""
    folder = path.resolve().parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise UsageError(f"{folder} is no folder that can be written to; name another with -o")
    if path.exists() and not _is_card(path):
        raise UsageError(f"{path} is there and is no card; name another file with -o")


def _is_card(path: Path) -> bool:
    """Whether it is one, of whatever version."""
    try:
        told = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(told, dict) and {"version", "arbiter", "languages"} <= set(told)
