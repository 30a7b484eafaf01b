"""Whether models number their tokens alike, cut texts alike, and talk alike.

Other ids under the same row would average unlike things, so they are refused unless shared tokens
are asked for. Everything is read from the tokenizers' own files; sizes from config.json.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from arbitrage.merging.checkpoint import Checkpoint
from arbitrage.merging.config import MergeConfig
from arbitrage.merging.configs import TOKENIZER_KEY
from arbitrage.merging.reasons import Finding, Reason, by_value, counted, joined, short
from arbitrage.merging.vocabulary import (
    HARD,
    SOFT,
    Vocabulary,
    aligned,
    ambiguous,
    vocabularies,
    vocabulary_tensors,
)

TEMPLATE = "chat_template"
NO_TEMPLATE = "none"


class Tongues(NamedTuple):
    """All models, and their vocabularies by name."""

    config: MergeConfig
    checkpoints: Mapping[str, Checkpoint]
    found: Mapping[str, Vocabulary]

    @property
    def carrier(self) -> str:
        """Whose tokenizer is taken."""
        return self.config.carrier

    @property
    def sizes(self) -> dict[str, int | None]:
        """Rows by model."""
        return {name: one.vocabulary_size for name, one in self.checkpoints.items()}


def tokenizing(config: MergeConfig, checkpoints: Mapping[str, Checkpoint]) -> Iterator[Finding]:
    """All about vocabularies, tokenizers and chat templates."""
    tongues = Tongues(config, checkpoints, vocabularies(checkpoints))
    yield from _faults(tongues)
    if config.vocabulary == "shared":
        yield from _shared(tongues)
    else:
        yield from _same(tongues)
    yield from _templates(tongues)


def _faults(tongues: Tongues) -> Iterator[Finding]:
    """Files that cannot be read, and models without any."""
    for name, one in tongues.found.items():
        if one.fault:
            yield Reason("tokenizer", name, f"its {one.source} {one.fault}; fetch it again")
    lacking = [name for name, one in tongues.found.items() if not one.source]
    if lacking and tongues.config.vocabulary == "same":
        yield (
            f"there is no tokenizer in {joined(lacking)}, so that ids are not compared, only the "
            "sizes of vocabularies in config.json"
        )


def _same(tongues: Tongues) -> Iterator[Finding]:
    """Every row must be the same token in all models."""
    unlike = _unlike_ids(tongues)
    if unlike:
        yield Reason("vocabulary", joined(unlike), _told_unlike(tongues, unlike))
    elif len(set(tongues.sizes.values())) > 1:
        told = by_value((name, _rows_told(size)) for name, size in tongues.sizes.items())
        yield Reason(
            "vocabulary",
            ", ".join(tongues.checkpoints),
            f"config.json tells {told}; {_remedy(tongues)}",
        )
    yield from _tokenizers(tongues, [name for name in tongues.found if name not in unlike])


def _rows_told(size: int | None) -> str:
    return "no vocab_size" if size is None else counted(size, "row")


def _unlike_ids(tongues: Tongues) -> list[str]:
    """Models whose ids are others than the carrier's."""
    mine = tongues.found[tongues.carrier]
    return [
        name
        for name, one in tongues.found.items()
        if one.tokens is not None and mine.tokens is not None and one.digest != mine.digest
    ]


def _told_unlike(tongues: Tongues, unlike: list[str]) -> str:
    mine = tongues.found[tongues.carrier].tokens or {}
    other = tongues.found[unlike[0]].tokens or {}
    number = sum(mine.get(token) != row for token, row in other.items())
    number += sum(token not in other for token in mine)
    return (
        f"{counted(number, 'token')} of {unlike[0]} and {tongues.carrier} have other rows "
        f"({_example(tongues.carrier, mine, unlike[0], other)}); {_remedy(tongues)}"
    )


def _example(carrier: str, mine: Mapping[str, int], name: str, other: Mapping[str, int]) -> str:
    """One token that is elsewhere, or in one model only."""
    for token, row in mine.items():
        if token in other and other[token] != row:
            return f"{token!r:.40} is {row} in {carrier} and {other[token]} in {name}"
    only = next((token for token in mine if token not in other), None)
    who, token = (carrier, only) if only is not None else (name, _only(other, mine))
    return f"{token!r:.40} is in {who} only"


def _only(tokens: Mapping[str, int], others: Mapping[str, int]) -> str:
    return next((token for token in tokens if token not in others), "")


def _remedy(tongues: Tongues) -> str:
    """What asking for shared tokens would do."""
    if _unshareable(tongues):
        return "merge models of one tokenizer"
    return f"merge models of one tokenizer, or set `vocabulary: shared`, which {_sharing(tongues)}"


def _unshareable(tongues: Tongues) -> list[str]:
    """Models whose tokens or rows are not known."""
    return [
        name
        for name, one in tongues.found.items()
        if one.tokens is None or tongues.sizes[name] is None
    ]


def _sharing(tongues: Tongues) -> str:
    """How many tokens are merged, kept and dropped."""
    told = aligned(tongues.carrier, tongues.checkpoints, tongues.found)
    number = counted(len(told.rows[tongues.carrier]), "token")
    parts = [f"merges the {number} that all have"]
    if told.kept:
        parts.append(f"keeps {counted(told.kept, 'row')} of {tongues.carrier}")
    dropped = [f"{counted(n, 'token')} of {short(name)}" for name, n in told.lost.items() if n]
    parts += [f"drops {joined(dropped)}"] * bool(dropped)
    return joined(parts)


def _shared(tongues: Tongues) -> Iterator[Finding]:
    """What merging over shared tokens needs, and what it does."""
    unknown = [name for name in _unshareable(tongues) if not tongues.found[name].fault]
    if unknown:
        yield Reason(
            "vocabulary",
            joined(unknown),
            "without a tokenizer.json and a vocab_size in config.json it is not known which tokens "
            "are shared; save the tokenizer there with `save_pretrained`",
        )
    doubtful = ambiguous(tongues.checkpoints)
    if doubtful:
        yield Reason(
            "vocabulary",
            joined(doubtful[:3]),
            "a size of it is that of the vocabulary, in every model, so that it cannot be told "
            "whether it has a row per token; `vocabulary: shared` is not for such models",
        )
    if not vocabulary_tensors(tongues.checkpoints):
        yield Reason(
            "vocabulary",
            ", ".join(tongues.checkpoints),
            "no tensor has as many rows in each model as its config.json tells by vocab_size; "
            "mend the config, or merge models of one vocabulary",
        )
    if _unshareable(tongues):
        return
    told = aligned(tongues.carrier, tongues.checkpoints, tongues.found)
    if not len(told.rows[tongues.carrier]):
        yield Reason("vocabulary", ", ".join(tongues.checkpoints), "no token is in all models")
    taken = joined(vocabulary_tensors(tongues.checkpoints))
    yield (
        f"`vocabulary: shared` {_sharing(tongues)}; rows are tokens in {taken}; the tokenizer is "
        f"that of {tongues.carrier}"
    )


def _tokenizers(tongues: Tongues, alike: list[str]) -> Iterator[Finding]:
    """The same ids, and yet another tokenizer."""
    mine = tongues.found[tongues.carrier]
    for name in alike:
        one = tongues.found[name]
        if not one.source or not mine.source or one.fault or mine.fault:
            continue
        told = _otherness(one, mine)
        if told and TOKENIZER_KEY in tongues.config.accept:
            yield f"the tokenizer of {name} {told}, as accepted; that of {tongues.carrier} is taken"
        elif told:
            yield Reason(
                "tokenizer",
                name,
                f"it {told} than {tongues.carrier}'s; merge models of one tokenizer, or set "
                f"`accept: [{TOKENIZER_KEY}]` to take that of {tongues.carrier}",
            )
        elif parts := one.unlike(mine, SOFT):
            yield f"{name} has other {joined(parts)}; the tokenizer of {tongues.carrier} is taken"


def _otherness(one: Vocabulary, mine: Vocabulary) -> str:
    """How a tokenizer cuts otherwise, though its ids are the same; empty where it does not."""
    if one.source != mine.source:
        return f"is written in another form ({one.source}, not {mine.source})"
    if parts := one.unlike(mine, HARD):
        return f"has the same ids, and other {joined(parts)}"
    return f"has another {one.source}" if one.unlike(mine, ("file",)) else ""


def _templates(tongues: Tongues) -> Iterator[Finding]:
    """Chat templates that are not the carrier's."""
    found = {name: _template(one) for name, one in tongues.checkpoints.items()}
    mine = found[tongues.carrier]
    unlike = [name for name, told in found.items() if told != mine and told != NO_TEMPLATE]
    if unlike and mine == NO_TEMPLATE:
        yield (
            f"{tongues.carrier} has no chat template, unlike {joined(unlike)}; the result has none "
            f"(`like: {unlike[0]}` takes that model's, and its tokenizer and config)"
        )
    elif unlike:
        yield f"other chat templates in {joined(unlike)}; that of {tongues.carrier} is taken"


def _template(checkpoint: Checkpoint) -> str:
    """A folder's chat template as text; `NO_TEMPLATE` where there is none that can be read."""
    try:
        text = (checkpoint.folder / f"{TEMPLATE}.jinja").read_text(encoding="utf-8")
    except (OSError, ValueError):
        return _json_template(checkpoint)
    return text.strip()


def _json_template(checkpoint: Checkpoint) -> str:
    try:
        text = (checkpoint.folder / "tokenizer_config.json").read_text(encoding="utf-8")
        told: Any = json.loads(text)
    except (OSError, ValueError, RecursionError):
        return NO_TEMPLATE
    template = told.get(TEMPLATE) if isinstance(told, dict) else None
    if isinstance(template, str):
        return template.strip()
    return NO_TEMPLATE if template is None else json.dumps(template, sort_keys=True)
