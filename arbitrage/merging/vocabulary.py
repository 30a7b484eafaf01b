"""What a tokenizer's vocabulary is, from its files alone, and which rows are the same token.

Reads `tokenizer.json` (BPE, WordPiece and WordLevel: a mapping; Unigram: a list), else `vocab.json`
or `vocab.txt`, else takes a digest of the file that there is. Needs no library of tokenizers, and
runs none. A token is its text; a row is its id. An id of two texts is the added one's.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from arbitrage.errors import InputError
from arbitrage.merging.checkpoint import TOKENIZER, Checkpoint
from arbitrage.merging.schedule import layer_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from arbitrage.merging.config import MergeConfig

PLAIN, LINES = "vocab.json", "vocab.txt"
ADDED = "added_tokens.json"
BESIDE = {PLAIN: (ADDED, "merges.txt"), LINES: (ADDED,)}
"""What a vocabulary goes on in."""
OPAQUE = ("*.model", "tekken.json", "*.tiktoken")
"""Files whose content is not looked at."""
HARD = ("model", "merges", "normalizer", "pre_tokenizer")
"""Parts that decide how a text is cut into tokens."""
SOFT = ("post_processor", "decoder", "special tokens")
FLAGS = ("content", "single_word", "lstrip", "rstrip", "normalized", "special")


@dataclass(frozen=True)
class Vocabulary:
    """Of one tokenizer. `source`: the file that it was read from; empty where there is none.
    `tokens`: id by text; none where only a digest of the file is known. `parts`: digests of what
    else the tokenizer is, without padding and truncation. `fault`: why it cannot be read."""

    source: str = ""
    tokens: Mapping[str, int] | None = None
    digest: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)
    fault: str = ""

    @property
    def tokenizer_digest(self) -> str:
        """Of ids and all parts: equal for tokenizers that do the same."""
        return _digest([self.digest, sorted(self.parts.items())])

    def unlike(self, other: Vocabulary, parts: tuple[str, ...]) -> list[str]:
        """Which of some parts differ."""
        return [part for part in parts if self.parts.get(part) != other.parts.get(part)]


@dataclass(frozen=True)
class Alignment:
    """Which rows belong to one another. `rows`: by model, for each shared token its row there, in
    the order of the carrier's rows. `lost`: how many tokens of each model the carrier lacks; they
    are dropped. `kept`: how many rows of the carrier not all share; they stay as they are."""

    rows: dict[str, NDArray[np.int64]]
    lost: dict[str, int]
    kept: int


def tokens_of(folder: Path) -> dict[str, int] | None:
    """Ids by token; none where there is no file that says them."""
    tokens = vocabulary_of(folder).tokens
    return None if tokens is None else dict(tokens)


def vocabulary_of(folder: Path) -> Vocabulary:
    """A folder's vocabulary; never raises: what is odd is its `fault`."""
    return _read(folder, {})


def vocabularies(checkpoints: Mapping[str, Checkpoint]) -> dict[str, Vocabulary]:
    """The vocabularies of models; equal files are looked into once."""
    known: dict[str, Vocabulary] = {}
    return {name: _read(one.folder, known) for name, one in checkpoints.items()}


def _read(folder: Path, known: dict[str, Vocabulary]) -> Vocabulary:
    source = _source(folder)
    if source is None:
        return Vocabulary()
    try:
        files = [source, *(folder / name for name in BESIDE.get(source.name, ()))]
        data = [path.read_bytes() for path in files if path.is_file()]
        content = hashlib.blake2b(b"\0".join([source.name.encode(), *data])).hexdigest()
        if content not in known:
            known[content] = _parsed(source.name, data, content)
    except OSError as error:
        return Vocabulary(source.name, fault=f"cannot be read ({error.strerror})")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        return Vocabulary(source.name, fault="is not as it should be")
    return known[content]


def _source(folder: Path) -> Path | None:
    """The file that tells the vocabulary, the one that tells most first."""
    for name in (TOKENIZER, PLAIN, LINES):
        if (folder / name).is_file():
            return folder / name
    found = [path for pattern in OPAQUE for path in sorted(folder.glob(pattern))]
    return next((path for path in found if path.is_file()), None)


def _parsed(name: str, data: list[bytes], content: str) -> Vocabulary:
    """Raises what a file raises that is not as it should be."""
    if name == TOKENIZER:
        return _of_tokenizer(name, json.loads(data[0]))
    if name == PLAIN:
        mappings = [json.loads(part) for part in data if part.lstrip().startswith(b"{")]
        tokens = {token: row for mapping in mappings for token, row in mapping.items()}
    elif name == LINES:
        lines = io.StringIO(data[0].decode("utf-8"), newline=None)  # a token may be any other end
        tokens = {line.rstrip("\n"): row for row, line in enumerate(lines)}
        for part in data[1:]:
            tokens |= json.loads(part)
    else:
        return Vocabulary(name, None, content, {"file": content})
    return Vocabulary(name, _checked(tokens), _digest_of(tokens), {"file": content})


def _of_tokenizer(name: str, told: dict[str, Any]) -> Vocabulary:
    model = told["model"]
    pieces = model["vocab"]
    if isinstance(pieces, list):
        tokens = {piece[0]: row for row, piece in enumerate(pieces)}
    else:
        tokens = dict(pieces)
    added = told.get("added_tokens") or []
    names = {one["id"]: one["content"] for one in added}
    tokens = {token: row for token, row in tokens.items() if names.get(row, token) == token}
    tokens |= {token: row for row, token in names.items()}
    return Vocabulary(name, _checked(tokens), _digest_of(tokens), _parts(told, model, added))


def _parts(told: dict[str, Any], model: dict[str, Any], added: list[Any]) -> dict[str, str]:
    """Digests of what a tokenizer is beside its ids. Merges are pairs or texts by the version of
    the library that wrote them, and settings that say no or nothing may be left out."""
    scores = model["vocab"] if isinstance(model["vocab"], list) else []
    merges = [one if isinstance(one, str) else " ".join(one) for one in model.get("merges") or []]
    rest = {
        k: v for k, v in model.items() if k not in ("vocab", "merges") and v not in (None, False)
    }
    found = {"model": _digest([rest, scores]), "merges": _digest(merges)}
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        found[part] = _digest(told.get(part))
    flags = [{key: one.get(key) for key in FLAGS} for one in added]
    found["special tokens"] = _digest(sorted(flags, key=lambda one: str(one["content"])))
    return found


def _checked(tokens: dict[Any, Any]) -> dict[str, int]:
    """The tokens themselves. Raises ValueError where a row is no row."""
    for token, row in tokens.items():
        if not isinstance(token, str) or type(row) is not int or row < 0:
            raise ValueError("a token has no row")
    return tokens


def _digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value, sort_keys=True).encode(), digest_size=16).hexdigest()


def _digest_of(tokens: Mapping[str, int]) -> str:
    return _digest(sorted(tokens.items()))


def vocabulary_tensors(checkpoints: Mapping[str, Checkpoint]) -> list[str]:
    """Tensors of no layer that have a row per token in every model; each has its own number."""
    sizes = [one.vocabulary_size for one in checkpoints.values()]
    first = next(iter(checkpoints.values()))
    found = []
    for name in first.tensors:
        weights = [one.tensors.get(name) for one in checkpoints.values()]
        rows = [None if weight is None else (weight.shape or (-1,))[0] for weight in weights]
        if None not in sizes and rows == sizes and layer_of(name) is None:
            found.append(name)
    return found


def ambiguous(checkpoints: Mapping[str, Checkpoint]) -> list[str]:
    """Tensors of which it is not clear whether they have a row per token: one of a layer that has
    that size somewhere, or one that has it in another dimension than the first; and all of them
    where something else is as many (positions, say)."""
    if any(one.has_twin_of_vocabulary for one in checkpoints.values()):
        return vocabulary_tensors(checkpoints)
    first = next(iter(checkpoints.values()))
    found = []
    for name in first.tensors:
        start = 1 if layer_of(name) is None else 0
        if all(_has_size(one, name, start) for one in checkpoints.values()):
            found.append(name)
    return found


def _has_size(checkpoint: Checkpoint, name: str, start: int) -> bool:
    weight = checkpoint.tensors.get(name)
    size = checkpoint.vocabulary_size
    return weight is not None and size is not None and size in weight.shape[start:]


def align(config: MergeConfig, checkpoints: Mapping[str, Checkpoint]) -> Alignment:
    """Which rows of all models are the same token. Raises InputError where a vocabulary is not
    known, which the preflight has told."""
    return aligned(config.carrier, checkpoints, vocabularies(checkpoints))


def aligned(
    carrier: str, checkpoints: Mapping[str, Checkpoint], found: Mapping[str, Vocabulary]
) -> Alignment:
    """As `align`, of vocabularies that are read already."""
    rows = {name: _rows(checkpoints[name], found[name]) for name in checkpoints}
    mine = rows[carrier]
    shared = set(mine).intersection(*rows.values())
    order = sorted(shared, key=mine.__getitem__)
    size = checkpoints[carrier].vocabulary_size or 0
    return Alignment(
        {name: np.array([told[token] for token in order], np.int64) for name, told in rows.items()},
        {name: len(told.keys() - mine.keys()) for name, told in rows.items() if name != carrier},
        size - len(order),
    )


def _rows(checkpoint: Checkpoint, found: Vocabulary) -> dict[str, int]:
    """Rows by token, where there is such a row and it is that token's alone."""
    size = checkpoint.vocabulary_size
    if found.tokens is None or size is None:
        raise InputError(f"{checkpoint.name}: its vocabulary is not known, so no token is shared")
    counts = Counter(found.tokens.values())
    return {token: row for token, row in found.tokens.items() if row < size and counts[row] == 1}
