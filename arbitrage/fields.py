"""Which fields of two configs differ: those that change what is produced first, then the others.

Pure; knows blocks and no files. Configs hold no secrets, but what is handed on to a server may: a
value whose name sounds like one is never told.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from arbitrage.blocks import Block

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

NOT_TOLD = "(not told)"
SECRET = re.compile(r"(?i)(key|secret|password|passwd|credential|authori[sz]ation|cookie|^token)$")
ABSENT = "absent"


class Change(NamedTuple):
    """A field that differs; `identity`: it changes what is produced. Values are plain data."""

    field: str
    first: Any
    second: Any
    identity: bool


def differing(first: Block, second: Block, but: tuple[str, ...] = ()) -> list[Change]:
    """All fields that differ, without the top ones named in `but`; in the order of the config."""
    found = [one for one in _walk(first, second, "", identity=True) if one.field not in but]
    return sorted(found, key=lambda one: not one.identity)


def _walk(first: Any, second: Any, place: str, *, identity: bool) -> Iterator[Change]:
    if first == second and type(first) is type(second):
        return
    if isinstance(first, Block) and isinstance(second, Block):
        for name in dict.fromkeys((*type(first).model_fields, *type(second).model_fields)):
            counts = identity and (_counts(first, name) or _counts(second, name))
            pair = (getattr(first, name, ABSENT), getattr(second, name, ABSENT))
            yield from _walk(*pair, _below(place, name), identity=counts)
    elif isinstance(first, dict) and isinstance(second, dict):
        for name in dict.fromkeys((*first, *second)):
            pair = (first.get(name, ABSENT), second.get(name, ABSENT))
            yield from _walk(*pair, _below(place, name), identity=identity)
    elif isinstance(first, list | tuple) and isinstance(second, list | tuple):
        yield from _walk_list(first, second, place, identity=identity)
    else:
        name = place.rpartition(".")[2]
        yield Change(place, _told(name, first), _told(name, second), identity)


def _walk_list(first: Any, second: Any, place: str, *, identity: bool) -> Iterator[Change]:
    """Place by place where it has blocks, and as a whole where it has values."""
    if any(isinstance(one, Block | dict) for one in (*first, *second)):
        for number in range(max(len(first), len(second))):
            one, other = (
                side[number] if number < len(side) else ABSENT for side in (first, second)
            )
            yield from _walk(one, other, _below(place, str(number)), identity=identity)
    elif list(first) != list(second):
        name = place.rpartition(".")[2]
        yield Change(place, _told(name, list(first)), _told(name, list(second)), identity)


def _below(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name


def _counts(block: Block, name: str) -> bool:
    field = type(block).model_fields.get(name)
    extra = field.json_schema_extra if field else {"identity": False}
    return not (isinstance(extra, dict) and extra.get("identity") is False)


def _told(name: str, value: Any) -> Any:
    """Plain data without what may be secret."""
    if value is not None and value != ABSENT and SECRET.search(name):
        return NOT_TOLD
    if isinstance(value, Block):
        return _told(name, value.model_dump(mode="json", exclude_defaults=True))
    if isinstance(value, dict):
        return _without_secrets(value)
    if isinstance(value, list | tuple):
        return [_told(name, item) for item in value]
    return value


def _without_secrets(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _told(name, item) for name, item in values.items()}
