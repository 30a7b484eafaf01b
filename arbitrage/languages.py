"""Languages: the table, tags, families, and detection.

`languages.toml` names every language the package knows; each answer here is one of its codes. This
module knows nothing of prompts or models. Invariants: `parse_tag` maps every code of one language
to one code; `contradicts` keeps silent when in doubt.

    python -c "from arbitrage import languages; print(languages.parse_tag('zh-Hant-TW'))"
"""

import importlib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Final, NamedTuple

# Measured with py3langid 0.4.0 on the 2,750 MGSM questions (11 languages) and the 324 quickstart
# prompts (27), whole, cut to 100, 40 and 20 characters, and as windows of 8 to 150 characters.
# A glance of 40 characters names the right language for 98.9%, the full look for 99.9%; where the
# glance is wrong it only costs the full look.
GLANCE_CHARS: Final = 40
LOOK_CHARS: Final = 400
# "OK" scores 0.02, "New York" 0.06, "Harry Potter" 0.09; of the whole prompts, none below 0.4.
MIN_CONFIDENCE: Final = 0.1
# No family that the declared language is not in reached 0.9 on a window of 16 bytes or more.
MIN_BYTES: Final = 16
CERTAIN_FAMILY: Final = 0.95
# Within its own family the worst mistake reached 0.98 (Lingala for Swahili at 50 characters).
CERTAIN_LANGUAGE: Final = 0.99

# BCP 47: language, extended languages, script, region, variants, extensions, private use.
_TAG: Final = re.compile(
    r"([a-z]{2,3})(-[a-z]{3}){0,3}(-[a-z]{4})?(-[a-z]{2}|-[0-9]{3})?"
    r"(-[a-z0-9]{5,8}|-[0-9][a-z0-9]{3})*(-[a-wyz0-9](-[a-z0-9]{2,8})+)*(-x(-[a-z0-9]{1,8})+)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Language:
    """One row of `languages.toml`; `aliases` are other codes for it besides `code` and `iso3`."""

    code: str
    name: str
    iso3: str
    script: str
    family: str
    aliases: tuple[str, ...] = ()


class Detection(NamedTuple):
    """A table code, or None for an abstention, and the probability behind it."""

    language: str | None
    confidence: float


@cache
def table() -> Mapping[str, Language]:
    """Every known language by its code."""
    rows = tomllib.loads(resources.files("arbitrage").joinpath("languages.toml").read_text("utf-8"))
    return MappingProxyType({code: _language(code, **row) for code, row in rows.items()})


def _language(code: str, aliases: Sequence[str] = (), **row: str) -> Language:
    return Language(code, **row, aliases=tuple(aliases))


@cache
def _codes() -> Mapping[str, str]:
    """Every code, ISO 639-3 code and alias -> the code of its language."""
    return MappingProxyType(
        {tag: row.code for row in table().values() for tag in (row.code, row.iso3, *row.aliases)}
    )


def parse_tag(tag: str) -> str | None:
    """The code of an ISO 639 code or a BCP 47 tag in any case, with '-' or '_'; None if unknown."""
    match = _TAG.fullmatch(tag.replace("_", "-").lower()) if tag.isascii() else None
    return _codes().get(match[1]) if match else None


def families(overrides: Mapping[str, Sequence[str]] | None = None) -> dict[str, str]:
    """Language code -> family, where each family in `overrides` is exactly the languages listed.

    A language that its redefined family no longer lists becomes a family of its own code. Raises
    ValueError for an unknown tag, and for a language or a code claimed by two families.
    """
    claimed = _claims(overrides or {})
    redefined = set(overrides or ())
    return {
        row.code: claimed.get(row.code) or (row.code if row.family in redefined else row.family)
        for row in table().values()
    }


def _claims(overrides: Mapping[str, Sequence[str]]) -> dict[str, str]:
    claimed: dict[str, str] = {}
    for family, tags in overrides.items():
        for tag in tags:
            code = parse_tag(tag)
            if code is None:
                raise ValueError(f"families: {tag!r} in {family!r} is not a language we know.")
            if claimed.setdefault(code, family) != family:
                raise ValueError(f"families: {code!r} is in {claimed[code]!r} and in {family!r}.")
    for family in overrides:
        if family in table() and claimed.get(family) != family:
            raise ValueError(f"families: {family!r} is the code of a language it does not list.")
    return claimed


class Detector:
    """Names the language of a text with py3langid, among the languages of the table."""

    _identifier: Any
    _quick: Any
    _code_of: dict[str, str | None]
    _reachable: frozenset[str | None]

    def __init__(self) -> None:
        langid = importlib.import_module("py3langid.langid")
        identifier = langid.LanguageIdentifier.from_model_file(langid.MODEL_FILE, norm_probs=True)
        codes = _codes()
        # "zxx" (no linguistic content) stays in, to abstain with.
        self._code_of = {x: codes.get(x) for x in identifier.labels if x in codes or x == "zxx"}
        self._reachable = frozenset(self._code_of.values())
        identifier.set_languages(list(self._code_of))
        # Rows in memory order and as float32: the same answers at nearly twice the speed.
        identifier.nb_ptc = identifier.nb_ptc.astype("float32", order="C")
        self._identifier = identifier
        # A glance needs the winner alone: the same weights without the softmax, at half the cost.
        self._quick = langid.LanguageIdentifier(
            identifier.nb_ptc,
            identifier.nb_pc,
            identifier.nb_classes,
            identifier.tk_nextmove,
            identifier.tk_output,
            tk_row=identifier.tk_row,
        )

    def detect(self, text: str) -> Detection:
        """The language of the opening of `text`; None without letters or without a lead."""
        return _leader(self._shares(text))

    def contradicts(self, text: str, declared: str) -> Detection | None:
        """What `text` is in, if that is surely not the `declared` language; otherwise None.

        Sure means that the other family as a whole, or a sibling by itself, leaves next to nothing
        for the declared language. Never contradicted are a language that the detector cannot name
        and a text that opens or closes in the declared one, such as a request to translate.
        """
        expected = parse_tag(declared)
        if expected is None or expected not in self._reachable:
            return None
        if _is_tiny(text) or self._glance(text.lstrip()[:GLANCE_CHARS]) == expected:
            return None
        if self._glance(text.rstrip()[-GLANCE_CHARS:]) == expected:
            return None
        shares = self._shares(text)
        found = _leader(shares)
        return found if _surely_not(expected, found, shares) else None

    def _glance(self, excerpt: str) -> str | None:
        label, _ = self._quick.classify(excerpt)
        return self._code_of[label]

    def _shares(self, text: str) -> dict[str | None, float]:
        """Probability of every language, its variants added up; empty if there are no letters."""
        opening = text.lstrip()[:LOOK_CHARS]
        shares: dict[str | None, float] = {}
        if any(map(str.isalpha, opening)):
            for label, share in self._identifier.rank(opening):
                code = self._code_of[label]
                shares[code] = shares.get(code, 0.0) + share
        return shares


def _leader(shares: Mapping[str | None, float]) -> Detection:
    if not shares:
        return Detection(None, 0.0)
    code, share = max(shares.items(), key=lambda item: item[1])
    return Detection(code if share >= MIN_CONFIDENCE else None, min(share, 1.0))


def _is_tiny(text: str) -> bool:
    return len(text.strip()[:MIN_BYTES].encode("utf-8", "surrogatepass")) < MIN_BYTES


def _surely_not(expected: str, found: Detection, shares: Mapping[str | None, float]) -> bool:
    if found.language is None or found.language == expected:
        return False
    family = table()[found.language].family
    if table()[expected].family == family:
        return found.confidence >= CERTAIN_LANGUAGE
    siblings = (share for code, share in shares.items() if code and table()[code].family == family)
    return sum(siblings) >= CERTAIN_FAMILY
