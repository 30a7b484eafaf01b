"""The run's papers beside its data: configs, identities, the diary, the product's manifest.

None of them decides anything: they can be lost and are written anew.
"""

from __future__ import annotations

import hashlib
import json
import platform
from typing import TYPE_CHECKING, Any

from arbitrage import __version__

if TYPE_CHECKING:
    from arbitrage.components import Components
    from arbitrage.configfile import Loaded
    from arbitrage.plan import Planner, Report, Task
    from arbitrage.store import Store

# Beside a component's folder, never in it: readers take every file in there for data.
IDENTITY = ".identity.json"
MANIFEST = ".manifest.json"


def record_start(store: Store, loaded: Loaded, components: Components, planner: Planner) -> None:
    """Writes run.yaml, run.json and each component's identity, and opens the diary."""
    routes = [part for part in (components.router, components.retry, components.fuse) if part]
    parts = [*routes, components.gates, components.selector, *components.served]
    parts += components.variants
    resolved = {
        "version": __version__,
        "python": platform.python_version(),
        "run_fingerprint": components.fingerprint,
        "fingerprints": {f"{part.kind}/{part.name}": part.fingerprint for part in parts},
        "config": loaded.config.model_dump(mode="json"),
    }
    store.write_text("run.yaml", loaded.text)
    store.write_text("run.json", pretty(resolved))
    for part in parts:
        path = f"{planner.folder_of(part)}{IDENTITY}"
        if not store.has(path):
            store.write_text(path, pretty({"name": part.name, "identity": part.identity}))
    store.append_event("run_started", run_fingerprint=components.fingerprint)


def record_task(store: Store, task: Task, report: Report, replica: str = "") -> None:
    """One line per finished task: what it made, on which replica, and how fast.

    The first shard of a first product is worth a look: from then on `selected/latest` leads to it.
    """
    if task.stage == "read" and not report.rows:
        return
    if task.stage == "select" and store.latest() is None:
        store.point_latest(task.output.rsplit("/", 1)[0])
    store.append_event(
        "task_done",
        stage=task.stage,
        owner=task.owner,
        shard=task.shard,
        output=task.output,
        replica=replica,
        rows=report.rows,
        errors=report.errors,
        seconds=round(report.seconds, 4),
        requests=report.spent.requests,
        prompt_tokens=report.spent.prompt_tokens,
        completion_tokens=report.spent.completion_tokens,
        cost=report.spent.cost,
    )


def record_end(store: Store, components: Components, planner: Planner) -> None:
    """Brings the product's manifest up to date and lets `selected/latest` lead to it."""
    folder = planner.folder_of(components.selector)
    names = sorted(path for path in planner.selected if store.has(path))
    path = f"{folder}{MANIFEST}"
    earlier = {entry["file"]: entry for entry in (store.read_json(path) or {}).get("files", [])}
    files = [_entry(store, name, planner.selected[name], earlier) for name in names]
    told = {
        "run_fingerprint": components.fingerprint,
        "rows": sum(entry["rows"] for entry in files),
        "files": files,
    }
    store.write_text(path, pretty(told))
    if files:
        store.point_latest(folder)
    store.sync_folders()
    store.append_event("run_ended", rows=told["rows"], files=len(files))


def _entry(store: Store, path: str, key: str, earlier: dict[str, Any]) -> dict[str, Any]:
    """A shard's line in the manifest; read again only if it was made anew."""
    name = path.rsplit("/", 1)[1]
    known: dict[str, Any] = earlier.get(name, {})
    if known.get("key") == key:
        return known
    data = store.read_bytes(path)
    return {
        "file": name,
        "rows": store.footer(path)["rows"],
        "bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "key": key,
    }


def identities(store: Store, parent: str) -> list[dict[str, Any]]:
    """The identities of all components that ever were in this run, of one kind."""
    found = []
    for (kind, _), folder in sorted(store.listing().folders.items()):
        note = store.read_json(f"{folder}{IDENTITY}") if kind == parent else None
        if note:
            found.append(note)
    return found


def pretty(value: Any) -> str:
    """The text of a paper: JSON that a human can read, the same for the same value."""
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=True) + "\n"
