"""Languages: the table, tags, families, and detection.

`languages.toml` names every language the package knows; each answer here is one of its codes. This
module knows nothing of prompts or models. Invariants: `parse_tag` maps every code of one language
to one code; `contradicts` keeps silent when in doubt.

    python -c "from arbitrage import languages; print(languages.parse_tag('zh-Hant-TW'))"
"""

import importlib
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from types import MappingProxyType
from typing import Any, Final, NamedTuple

import numpy as np

# Measured with py3langid 0.4.0 on the 2,750 MGSM questions (11 languages) and the 324 quickstart
# prompts (27), whole, cut to 100, 40 and 20 characters, and as windows of 8 to 150 characters.
# A glance of 40 characters names the right language for 98.9%, the full look for 99.9%; where the
# glance is wrong it only costs the full look.
GLANCE_CHARS: Final = 40
LOOK_CHARS: Final = 400
# What a chunk gathers stays in the processor's cache: 7 us a text, against 13 one by one.
GLANCE_CHUNK: Final = 128
# "OK" scores 0.02, "New York" 0.06, "Harry Potter" 0.09; of the whole prompts, none below 0.4.
MIN_CONFIDENCE: Final = 0.1
# No family that the declared language is not in reached 0.9 on a window of 16 bytes or more.
MIN_BYTES: Final = 16
CERTAIN_FAMILY: Final = 0.95
# Within its own family the worst mistake reached 0.98 (Lingala for Swahili at 50 characters).
CERTAIN_LANGUAGE: Final = 0.99

# The lead of another language over the declared one, in nats of naive Bayes. Measured on 54,406
# short sentences in 59 languages (Tatoeba), the MGSM questions and the answers of the micro-world:
# of what is in its declared language 0.1% reach 12, in no language more than 0.6% but for Bosnian
# (1.4%, as Serbian); of six words of another family's language 99.9% do, of a sibling's 97%.
STRAY_CHARS: Final = 200
STRAY_LEAD: Final = 12.0
# "Nine, ten, eleven." is Dutch by 14.9.
SHORT_CHARS: Final = 24
SHORT_LEAD: Final = 15.0

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


@lru_cache(maxsize=4096)
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
        self._glancer = _Glancer(identifier)

    def detect(self, text: str) -> Detection:
        """The language of the opening of `text`; None without letters or without a lead."""
        return _leader(self._shares(text))

    def contradicts(self, text: str, declared: str) -> Detection | None:
        """What `text` is in, if that is surely not the `declared` language; otherwise None.

        Sure means that the other family as a whole, or a sibling by itself, leaves next to nothing
        for the declared language. Never contradicted are a language that the detector cannot name
        and a text that opens or closes in the declared one, such as a request to translate.
        """
        return self.contradictions([text], [declared])[0]

    def contradictions(
        self, texts: Sequence[str], declared: Sequence[str]
    ) -> list[Detection | None]:
        """`contradicts` for many texts, at half the cost of asking one by one."""
        openings = self._glancer.glance([text.lstrip()[:GLANCE_CHARS] for text in texts])
        return [
            None if self._code_of.get(label) == code else self._doubt(text, code)
            for text, code, label in zip(texts, map(parse_tag, declared), openings, strict=True)
        ]

    def _doubt(self, text: str, expected: str | None) -> Detection | None:
        """The full look, where the opening is not in the expected language."""
        if expected is None or expected not in self._reachable or _is_tiny(text):
            return None
        closing = self._glancer.glance([text.rstrip()[-GLANCE_CHARS:]])[0]
        if self._code_of.get(closing) == expected:
            return None
        shares = self._shares(text)
        found = _leader(shares)
        return found if _surely_not(expected, found, shares) else None

    @staticmethod
    def can_judge(text: str) -> bool:
        """Whether a text has letters, and enough of it to be told from another language."""
        return not _is_tiny(text) and any(map(str.isalpha, text))

    def strays(self, texts: Sequence[str], declared: Sequence[str]) -> list[str | None]:
        """The language that each text is surely in instead of the declared one, or None.

        Less cautious than `contradicts`, which is for a prompt and what its author says of it: this
        one is for what a model has written, line by line, siblings included.
        """
        openings = self._glancer.glance([text[:GLANCE_CHARS] for text in texts])
        expected = [parse_tag(tag) for tag in declared]
        doubted = [
            place
            for place, (label, code, text) in enumerate(zip(openings, expected, texts, strict=True))
            if label and self._code_of.get(label) != code and code in self._reachable
            if code and not _is_tiny(text)
        ]
        found: list[str | None] = [None] * len(texts)
        if doubted:
            leads = self._leads([texts[p] for p in doubted], [expected[p] for p in doubted])
            for place, (code, lead) in zip(doubted, leads, strict=True):
                short = len(texts[place]) < SHORT_CHARS
                found[place] = code if lead >= (SHORT_LEAD if short else STRAY_LEAD) else None
        return found

    def _leads(
        self, texts: Sequence[str], expected: Sequence[str | None]
    ) -> list[tuple[str | None, float]]:
        """The likeliest language of each text, and its lead over the expected one in nats."""
        scores = self._glancer.scores([text[:STRAY_CHARS] for text in texts])
        columns = [self._code_of[label] for label in self._glancer.labels]
        places: dict[str | None, list[int]] = {}
        for column, code in enumerate(columns):
            places.setdefault(code, []).append(column)
        found: list[tuple[str | None, float]] = []
        for row, code in zip(scores, expected, strict=True):
            best = int(row.argmax())
            found.append((columns[best], float(row[best] - row[places[code]].max())))
        return found

    def _shares(self, text: str) -> dict[str | None, float]:
        """Probability of every language, its variants added up; empty if there are no letters."""
        opening = text.lstrip()[:LOOK_CHARS]
        shares: dict[str | None, float] = {}
        if any(map(str.isalpha, opening)):
            for label, share in self._identifier.rank(opening):
                code = self._code_of[label]
                shares[code] = shares.get(code, 0.0) + share
        return shares


class _Glancer:
    """py3langid's winner for many short texts at once: its automaton and weights, vectorised.

    The same labels as its `classify` (a test holds them together), without the softmax and with
    numpy's cost per step shared by all texts of a chunk.
    """

    def __init__(self, identifier: Any) -> None:
        self._encode = identifier._encode
        self._next = np.asarray(identifier.tk_nextmove)
        self._row = np.asarray(identifier.tk_row, dtype=np.int64) << 8
        self._feature = np.asarray(identifier.tk_output, dtype=np.int32)
        self._weights = identifier.nb_ptc
        self._priors = identifier.nb_pc
        self.labels = identifier.nb_classes
        self._twins = identifier._alias_pairs

    def glance(self, texts: Sequence[str]) -> list[str]:
        """A label per text; the empty string where it shows nothing of any language."""
        found: list[str] = []
        for some, scores in self._chunks(texts):
            labels = [""] * len(some)
            told = np.flatnonzero(some)
            if len(told):
                winners = self._winners(scores).tolist()
                for text, winner in zip(told.tolist(), winners, strict=True):
                    labels[text] = self.labels[winner]
            found += labels
        return found

    def scores(self, texts: Sequence[str]) -> Any:
        """(texts, labels) the naive Bayes score of each, in nats; zeros where nothing shows."""
        found = np.zeros((len(texts), len(self.labels)), np.float32)
        start = 0
        for some, scores in self._chunks(texts):
            found[start + np.flatnonzero(some)] = scores + self._priors
            start += len(some)
        return found

    def _chunks(self, texts: Sequence[str]) -> Iterator[tuple[Any, Any]]:
        """Chunk by chunk: which texts show anything, and the scores of those, without priors."""
        for start in range(0, len(texts), GLANCE_CHUNK):
            yield self._chunk([self._encode(t) for t in texts[start : start + GLANCE_CHUNK]])

    def _chunk(self, texts: list[bytes]) -> tuple[Any, Any]:
        features = self._walk(texts)
        features.sort(axis=1)
        valid = features >= 0
        first = valid.copy()
        first[:, 1:] &= features[:, 1:] != features[:, :-1]
        kept = features[valid]
        places = np.flatnonzero(first[valid])
        counts = np.diff(np.append(places, len(kept)))
        per_text = first.sum(axis=1)
        some = per_text > 0
        if not some.any():
            return some, np.zeros((0, len(self.labels)), np.float32)
        weights = np.log1p(counts).astype(np.float32)[:, None]
        starts = np.concatenate([[0], np.cumsum(per_text[some])[:-1]])
        rows = self._weights[kept[places]]
        rows *= weights
        return some, np.add.reduceat(rows, starts, axis=0)

    def _walk(self, texts: list[bytes]) -> Any:
        """(texts, longest) the feature that the automaton shows after each byte, or -1."""
        lengths = np.array([len(text) for text in texts])
        longest = max(1, int(lengths.max()))
        padded = b"".join(text.ljust(longest, b"\0") for text in texts)
        columns = np.frombuffer(padded, np.uint8).reshape(len(texts), longest).T
        features = np.empty((longest, len(texts)), np.int32)
        state = np.zeros(len(texts), np.int64)
        for place, letters in enumerate(columns):
            state = self._next[self._row[state] + letters]
            features[place] = self._feature[state]
        features = np.ascontiguousarray(features.T)
        features[np.arange(longest) >= lengths[:, None]] = -1
        return features

    def _winners(self, scores: Any) -> Any:
        scores = scores + self._priors
        for first, twin in self._twins:
            np.maximum(scores[:, first], scores[:, twin], out=scores[:, first])
        return scores.argmax(axis=1)


def _leader(shares: Mapping[str | None, float]) -> Detection:
    if not shares:
        return Detection(None, 0.0)
    code, share = max(shares.items(), key=lambda item: item[1])
    return Detection(code if share >= MIN_CONFIDENCE else None, min(share, 1.0))


def _is_tiny(text: str) -> bool:
    opening = text.strip()[:MIN_BYTES]
    return len(opening) < MIN_BYTES and len(opening.encode("utf-8", "surrogatepass")) < MIN_BYTES


def _surely_not(expected: str, found: Detection, shares: Mapping[str | None, float]) -> bool:
    if found.language is None or found.language == expected:
        return False
    family = table()[found.language].family
    if table()[expected].family == family:
        return found.confidence >= CERTAIN_LANGUAGE
    siblings = (share for code, share in shares.items() if code and table()[code].family == family)
    return sum(siblings) >= CERTAIN_FAMILY
