"""Checks that a candidate passes or fails, each with a name; a failed one is never chosen.

Two steps, both pure. `measure` looks at a text once and writes down facts, with no threshold in
them. `apply` holds the facts against the thresholds of a config, so that a change of mind measures
and judges nothing anew. Every gate is applied, enforced or not. A new gate is one small function
and one line in `GATES`; its name is a switch of `choices.GatesConfig`.

    python -c "from arbitrage import gates; print(*gates.GATES)"
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arbitrage.confusion import Asked, Confusion, confusion
from arbitrage.loops import words_and_repetition
from arbitrage.phrases import instructs_judge, refuses
from arbitrage.records import GATES as GATES_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from arbitrage.choices import GatesConfig
    from arbitrage.records import Prompt

VERSION: Final = 1
"""Of the measures: one more whenever `measure` may find another fact in the same text."""

FACTS: Final = pa.schema([column for column in GATES_SCHEMA if column.nullable])
"""What `measure` finds: the columns of a gates file without the candidate's own."""

SIMILAR_LANGUAGES: Final = (("bs", "hr", "sr"), ("id", "ms"))
"""Languages that no short text tells apart, so that they always count as one."""


def identity(config: GatesConfig) -> dict[str, Any]:
    """What the facts depend on besides the texts; no threshold and no switch is part of it."""
    told: dict[str, Any] = {"version": VERSION}
    return told if refusals_of(config) is None else {**told, "refusals": list(config.refusals)}


def refusals_of(config: GatesConfig) -> Sequence[str] | None:
    """The phrases to look for; none where nobody asks: it takes as long as all other facts."""
    return config.refusals if config.refusal else None


def measure(
    prompts: Sequence[Prompt],
    completions: Sequence[str | None],
    finish_reasons: Sequence[str],
    phrases: Sequence[str] | None = (),
) -> pa.Table:
    """The facts about some candidates, one row each in their order, with the columns of `FACTS`.

    `prompts` holds each candidate's prompt, `phrases` further beginnings of a refusal; where that
    is none, refusals are not looked for and null. All facts are null where there is no completion.

    Raises ValueError for a language that is not in the table, and where the lengths differ.
    """
    if not len(prompts) == len(completions) == len(finish_reasons):
        raise ValueError("there must be one prompt and one finish reason per completion")
    some = [place for place, text in enumerate(completions) if text is not None]
    texts = [text for text in completions if text is not None]
    asked = _asked([prompts[place] for place in some])
    words, repetition = zip(*map(words_and_repetition, texts), strict=True) if some else ((), ())
    found = {
        "truncated": [finish_reasons[place] != "stop" for place in some],
        "empty": [not text.strip() for text in texts],
        "repetition": repetition,
        "refusal": [None if phrases is None else refuses(text, phrases) for text in texts],
        "instruction": [instructs_judge(text) for text in texts],
        "words": words,
        **_columns(confusion(texts, asked)),
    }
    facts = pa.table([pa.array(found[name], FACTS.field(name).type) for name in FACTS.names], FACTS)
    if len(some) == len(completions):
        return facts
    row = dict(zip(some, range(len(some)), strict=True))
    return facts.take(pa.array([row.get(place) for place in range(len(completions))], pa.int64()))


def _columns(found: Sequence[Confusion]) -> dict[str, Sequence[Any]]:
    columns = list(zip(*found, strict=True)) or [()] * len(Confusion._fields)
    return dict(zip(Confusion._fields, columns, strict=True))


def _asked(prompts: Sequence[Prompt]) -> list[Asked]:
    """What is looked at of each prompt; a system prompt is in any language and shows nothing."""
    return [
        Asked(
            prompt.language,
            [turn["content"] for turn in prompt.messages if turn["role"] != "system"],
        )
        for prompt in prompts
    ]


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts of many candidates as arrays; nulls are False or 0, which fail no gate.

    `wrong_lines` counts those that are in no language equal to the prompt's.
    """

    truncated: NDArray[np.bool_]
    empty: NDArray[np.bool_]
    refusal: NDArray[np.bool_]
    instruction: NDArray[np.bool_]
    repetition: NDArray[np.float64]
    foreign_words: NDArray[np.int64]
    foreign_letters: NDArray[np.int64]
    lines: NDArray[np.int64]
    wrong_lines: NDArray[np.int64]


def _truncated(facts: Facts, config: GatesConfig) -> NDArray[np.bool_]:
    """The engine ended the answer (token budget), not the model."""
    return facts.truncated


def _empty(facts: Facts, config: GatesConfig) -> NDArray[np.bool_]:
    """There is nothing but white space."""
    return facts.empty


def _repetition(facts: Facts, config: GatesConfig) -> NDArray[np.bool_]:
    """The answer runs in a loop."""
    return facts.repetition > config.max_repetition


def _script(facts: Facts, config: GatesConfig) -> NDArray[np.bool_]:
    """Letters that the language is not written with."""
    return facts.foreign_letters > config.max_foreign_letters


def _language(facts: Facts, config: GatesConfig) -> NDArray[np.bool_]:
    """Lines in another language than the prompt's."""
    return facts.wrong_lines > config.max_wrong_lines * facts.lines


def _refusal(facts: Facts, config: GatesConfig) -> NDArray[np.bool_]:
    """The answer opens with a refusal."""
    return facts.refusal


def _instruction(facts: Facts, config: GatesConfig) -> NDArray[np.bool_]:
    """Text that tries to instruct whoever judges it."""
    return facts.instruction


GATES: Final[dict[str, Callable[[Facts, GatesConfig], NDArray[np.bool_]]]] = {
    "truncated": _truncated,
    "empty": _empty,
    "repetition": _repetition,
    "script": _script,
    "language": _language,
    "refusal": _refusal,
    "instruction": _instruction,
}


def apply(facts: pa.Table, languages: Sequence[str] | pa.Array, config: GatesConfig) -> pa.Array:
    """The names of all gates that each candidate fails, in the order of `GATES`: a list array.

    `languages` holds the code of each row's prompt, as a list or an array (dictionary or plain).
    """
    told = _facts(facts, languages, config)
    fails = np.stack([gate(told, config) for gate in GATES.values()], axis=1)
    offsets = np.concatenate([[0], np.cumsum(fails.sum(axis=1))]).astype(np.int32)
    names = pa.array(list(GATES), pa.string()).take(pa.array(np.nonzero(fails)[1]))
    return pa.ListArray.from_arrays(pa.array(offsets), names)


def _facts(facts: pa.Table, languages: Sequence[str] | pa.Array, config: GatesConfig) -> Facts:
    columns = {
        name: _filled(facts[name]) for name in Facts.__dataclass_fields__ if name != "wrong_lines"
    }
    return Facts(**columns, wrong_lines=_wrong_lines(facts["wrong_lines"], languages, config))


def _filled(column: pa.ChunkedArray) -> NDArray[Any]:
    """Nulls become False or 0."""
    zero = False if pa.types.is_boolean(column.type) else 0
    values: NDArray[Any] = column.fill_null(zero).to_numpy()
    return values.astype(np.int64) if values.dtype == np.int32 else values


def _wrong_lines(
    column: pa.ChunkedArray, languages: Sequence[str] | pa.Array, config: GatesConfig
) -> NDArray[np.int64]:
    """Per candidate, the lines in no language that equals the prompt's."""
    lists = _whole(column)
    own_codes, own = _coded(languages)
    if len(own) != len(lists):
        raise ValueError("there must be one language per row of facts")
    codes, found = _coded(lists.flatten())
    group = equal_groups(config)
    differ = np.array(
        [[group.get(a, a) != group.get(b, b) for b in own_codes] for a in codes], dtype=bool
    ).reshape(len(codes), len(own_codes))
    parents = pc.list_parent_indices(lists).to_numpy()
    wrong = parents[differ[found, own[parents]]]
    return np.bincount(wrong, minlength=len(lists)).astype(np.int64)


def _whole(values: Any) -> pa.Array:
    """One plain array of a chunked one, a dictionary array or a list of strings."""
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    return values if isinstance(values, pa.Array) else pa.array(values, pa.string())


def _coded(values: Any) -> tuple[list[str], NDArray[np.int64]]:
    """The different values of a column without nulls, and which of them each row has."""
    whole = _whole(values)
    encoded = whole if pa.types.is_dictionary(whole.type) else whole.dictionary_encode()
    return encoded.dictionary.to_pylist(), encoded.indices.to_numpy().astype(np.int64)


def equal_groups(config: GatesConfig) -> dict[str, str]:
    """Code -> one code that stands for all languages that count as the same, for those in groups.

    Groups that share a language are one group.
    """
    group: dict[str, str] = {}
    for codes in (*SIMILAR_LANGUAGES, *config.equal_languages):
        known = {group.get(code, code) for code in codes}
        first = min(known)
        group.update((code, first) for code, name in group.items() if name in known)
        group.update((code, first) for code in (*codes, *known))
    return group


@dataclass
class Rates:
    """How the candidates of one teacher in one language did; all are counts, so they add up.

    After Marchisio et al. 2024 (arXiv 2406.20052): `line_level` is the share of candidates in which
    no line is in a wrong language, `word_level` of those the share without a foreign word.
    """

    candidates: int = 0
    right_lines: int = 0
    right_words: int = 0
    failed: Counter[str] = field(default_factory=Counter)

    @property
    def line_level(self) -> float | None:
        """Line-level pass rate, None without candidates."""
        return self.right_lines / self.candidates if self.candidates else None

    @property
    def word_level(self) -> float | None:
        """Word-level pass rate, None where no candidate has all lines right."""
        return self.right_words / self.right_lines if self.right_lines else None

    def add(self, other: Rates) -> None:
        """Counts another one's candidates too."""
        self.candidates += other.candidates
        self.right_lines += other.right_lines
        self.right_words += other.right_words
        self.failed.update(other.failed)


def confusion_rates(
    facts: pa.Table,
    teachers: Sequence[str] | pa.Array,
    languages: Sequence[str] | pa.Array,
    config: GatesConfig,
) -> dict[tuple[str, str], Rates]:
    """Per (teacher, language of the prompt): candidates with a completion, and how they did.

    `teachers` and `languages` hold one value per row of `facts`. Lines in equal languages are
    right, foreign letters are counted without a threshold, and `failed` counts every gate.
    """
    names, teacher = _coded(teachers)
    codes, language = _coded(languages)
    told = _facts(facts, languages, config)
    some = facts["truncated"].is_valid().to_numpy()
    right = some & (told.wrong_lines == 0)
    cells = teacher * len(codes) + language
    counts = {
        "candidates": some,
        "right_lines": right,
        "right_words": right & (told.foreign_words == 0),
        **{gate: fails(told, config) for gate, fails in GATES.items()},
    }
    sums = {
        name: np.bincount(cells[rows], minlength=len(names) * len(codes)).tolist()
        for name, rows in counts.items()
    }
    return {
        (names[cell // len(codes)], codes[cell % len(codes)]): Rates(
            sums["candidates"][cell],
            sums["right_lines"][cell],
            sums["right_words"][cell],
            Counter({gate: sums[gate][cell] for gate in GATES if sums[gate][cell]}),
        )
        for cell in np.unique(cells[some]).tolist()
    }
