"""Texts that try to move a judge, put into answers that are known to be the worse ones.

`attacks.toml` holds them by kind and language; `neutral` tries nothing and tells what any added
text does. Pure and deterministic: what is tried depends on the pairs alone, not on their order.
"""

from __future__ import annotations

import tomllib
from collections import defaultdict
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from arbitrage.identity import digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

PLACES = ("end", "start")
ANY = "any"
REFERENCE = "en"
KEY_HEX = 16


class Attacked(NamedTuple):
    """A rejected completion with a text of one kind at one place of it."""

    kind: str
    place: str
    text: str


@cache
def texts() -> Mapping[str, Mapping[str, tuple[str, ...]]]:
    """All texts by kind and language code; `any` is a language here."""
    told = tomllib.loads(resources.files("arbitrage").joinpath("attacks.toml").read_text("utf-8"))
    return MappingProxyType(
        {kind: {code: tuple(own) for code, own in by.items()} for kind, by in told.items()}
    )


def sample(pairs: Iterable[tuple[str, str]], limit: int) -> set[str]:
    """Keys of at most `limit` pairs, of (key, language) pairs: languages in turn, pairs by hash."""
    by_language: dict[str, list[str]] = defaultdict(list)
    for key, language in pairs:
        by_language[language].append(key)
    turns = [
        (turn, language, key)
        for language, keys in by_language.items()
        for turn, key in enumerate(sorted(keys, key=_lot))
    ]
    return {key for _, _, key in sorted(turns)[:limit]}


def on(key: str, language: str, completion: str) -> Iterator[Attacked]:
    """The completion with one text of each kind, at the end and at the start of it.

    Which of a kind is drawn by the pair's key, among those in the pair's language, in English and
    in none.
    """
    for kind, by_language in texts().items():
        known = [by_language.get(code, ()) for code in dict.fromkeys((language, REFERENCE, ANY))]
        fitting = [text for own in known for text in own]
        text = fitting[int(_lot(f"{key}/{kind}"), 16) % len(fitting)]
        for place in PLACES:
            parts = (completion, text) if place == "end" else (text, completion)
            yield Attacked(kind, place, "\n\n".join(parts))


def _lot(key: str) -> str:
    return digest(key.encode(), KEY_HEX)
