"""What a router is told, once its names are resolved: teachers by fingerprint, files by content.

A resolved block names nothing outside itself, so that it can be sent to any machine, and what
changes no decision is no part of its identity: names, places of files, the order of the pool.
"""

from __future__ import annotations

import difflib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arbitrage.choices import CascadeRouting, FixedRouting, LearnedRouting, RoutingConfig
from arbitrage.errors import ConfigError
from arbitrage.identity import digest
from arbitrage.languages import table

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

FILE_VERSION = 1


def resolved(
    routing: RoutingConfig,
    names: Mapping[str, str],
    covers: Mapping[str, Iterable[str]],
    family_of: Mapping[str, str],
) -> RoutingConfig:
    """The block with fingerprints in place of teachers' names, and a file's text for its path.

    `names` leads from a name to a fingerprint, `covers` from a name to language codes. Raises
    ConfigError for an unknown teacher, language or family, for a teacher that does not cover the
    language that it is named for, and for a file that cannot be used.
    """
    changes: dict[str, Any] = {}
    if isinstance(routing, FixedRouting) and routing.table:
        changes["table"] = _table(routing.table, names, covers, family_of)
    if isinstance(routing, CascadeRouting):
        changes["order"] = _fingerprints("routing.order", routing.order, names)
    if isinstance(routing, FixedRouting | LearnedRouting) and routing.file is not None:
        changes["file"] = _text(routing.file, routing.router)
    return routing.model_copy(update=changes)


def identity_of(routing: RoutingConfig, family_of: Mapping[str, str]) -> dict[str, Any]:
    """What a resolved block decides by, as plain data: empty for the router `all`.

    `family_of` holds the languages that the pool covers. What rewards come from is no part of it:
    who was asked by the rewards of one Arbiter stays asked, so that another costs no generation.
    """
    if routing.router == "all":
        return {}
    found: dict[str, Any] = {**routing.identity(), "router": routing.router}
    if "file" in found:
        found["file"] = digest(found["file"].encode())
    if routing.router == "adaptive":
        found["families"] = dict(family_of)
    return found


def fitted(text: str, router: str) -> dict[str, Any]:
    """What `arbitrage route fit` wrote, as plain data; `teachers` are fingerprints.

    Raises ConfigError for anything else, or where it was made for another router.
    """
    try:
        note = json.loads(text)
        known = note["version"] == FILE_VERSION and isinstance(note["teachers"], list)
        made_for = note["router"]
    except (ValueError, KeyError, TypeError):
        known, made_for = False, None
    if not known:
        raise ConfigError(
            "routing.file is not there or no file of a router; `arbitrage route fit RUN -o FILE` "
            "makes one"
        )
    if made_for != router:
        raise ConfigError(
            f"routing.file was made for the router {made_for!r}; write `router: {made_for}`, or "
            f"make another: `arbitrage route fit RUN -o FILE --router {router}`"
        )
    found: dict[str, Any] = note
    return found


def _text(path: str, router: str) -> str:
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"routing.file {path} cannot be read; `arbitrage route fit RUN -o {path}` makes it"
        ) from error
    fitted(text, router)
    return text


def _table(
    rows: Mapping[str, Sequence[str]],
    names: Mapping[str, str],
    covers: Mapping[str, Iterable[str]],
    family_of: Mapping[str, str],
) -> dict[str, tuple[str, ...]]:
    """By language alone: whom its row, or else its family's, or else the default one names."""
    for place, named in rows.items():
        _check_row(place, named, names, covers, family_of)
    found = {}
    for code, family in family_of.items():
        row = next((rows[key] for key in (code, family, "default") if key in rows), ())
        named = [name for name in row if code in covers[name]]
        if named:
            found[code] = tuple(sorted(names[name] for name in named))
    return found


def _check_row(
    place: str,
    named: Sequence[str],
    names: Mapping[str, str],
    covers: Mapping[str, Iterable[str]],
    family_of: Mapping[str, str],
) -> None:
    known = [*table(), *sorted(set(family_of.values())), "default"]
    if place not in known:
        near = difflib.get_close_matches(place, known, n=1)
        hint = f"did you mean {near[0]!r}?" if near else "name a language or a family"
        raise ConfigError(
            f"routing.table: {place!r} is no language, no family and not `default`; {hint}"
        )
    _fingerprints(f"routing.table.{place}", named, names)
    for name in named:
        if place in table() and place not in covers[name]:
            raise ConfigError(
                f"routing.table.{place}: teacher {name!r} does not cover {place!r}; add it to "
                "the teacher's `languages:` or name another"
            )


def _fingerprints(place: str, named: Sequence[str], names: Mapping[str, str]) -> tuple[str, ...]:
    for name in named:
        if name not in names:
            near = difflib.get_close_matches(name, list(names), n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"teachers are {', '.join(names)}"
            raise ConfigError(f"{place}: there is no teacher {name!r}; {hint}")
    return tuple(names[name] for name in named)
