"""What was spent, as the footers of the files tell that engines made; reads nothing else."""

from __future__ import annotations

from typing import TYPE_CHECKING

from arbitrage.usage import Usage, total_of

if TYPE_CHECKING:
    from arbitrage.plan import Task
    from arbitrage.store import Listing, Store

PAID = ("candidates/", "scores/", "judgements/")
"""What engines make."""


def paid(store: Store, listing: Listing) -> dict[str, Usage]:
    """What each teacher, Arbiter and judge that ever was in this run has spent, by fingerprint.

    It is what the footers of all that they made say, so a file that is gone is forgotten.
    """
    files = sorted(p for p in listing.files if p.startswith(PAID))
    spent: dict[str, list[Usage]] = {}
    for told in store.footers(files).values():
        owner = next(told[who] for who in ("teacher", "arbiter", "judge") if who in told)
        spent.setdefault(owner, []).append(Usage(**told.get("spent", {})))
    return {owner: total_of(usages) for owner, usages in spent.items()}


def spent_before(store: Store, task: Task) -> Usage:
    """What the file has cost so far that a task makes again, which reads it; nothing of others."""
    if task.output not in task.inputs:
        return Usage()
    return Usage(**store.footer(task.output).get("spent", {}))
