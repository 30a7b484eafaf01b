"""Brings all candidates of a shard together: one table, and the arrays that are chosen from.

Pure Arrow and numpy. Of the scores of several Arbiters it makes the one number by which candidates
are compared.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from arbitrage.columns import names_any, numbers
from arbitrage.combine import combined, residualised
from arbitrage.errors import StageError
from arbitrage.selection import NOBODY, Field

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from arbitrage.choices import SelectionConfig
    from arbitrage.components import Teacher

    Floats = NDArray[np.float64]


class Part(NamedTuple):
    """One teacher's candidates of a shard, row by row with the names of the gates that each fails
    (`failed`, lists of strings) and a table of scores per Arbiter, in the order of the Arbiters."""

    teacher: Teacher
    candidates: pa.Table
    failed: pa.ChunkedArray | pa.ListArray
    scores: tuple[pa.Table, ...]


@dataclass(frozen=True)
class Choosing:
    """How a shard is chosen from.

    `enforced` names the gates that keep a candidate from being chosen. `method` combines several
    Arbiters (see `combine`); `weights` has a number per Arbiter for each language, and `slopes`
    what length alone brings in each Arbiter's scores there (0 leaves them as they are). `preferred`
    lists, for languages in which no Arbiter is trusted, fingerprints of teachers: the first that
    has an eligible candidate wins there. In all three `default` serves the languages not named;
    nothing at all means weights of 1, no slopes, and trust.
    """

    selection: SelectionConfig
    enforced: tuple[str, ...] = ()
    method: str = "zscore"
    weights: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    slopes: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    preferred: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Lineup:
    """All candidates of a shard in one table, in the order of the arrays of `field`; `enforced`:
    which of them fail an enforced gate."""

    table: pa.Table
    field: Field
    enforced: NDArray[np.bool_]


def lined_up(prompts: pa.Table, parts: list[Part], choosing: Choosing) -> Lineup:
    """Joins what belongs to the same candidates, and makes one number of their scores.

    Raises StageError where the parts do not belong together or the numbers do not fit the Arbiters.
    """
    ids = prompts["prompt_id"].combine_chunks()
    codes = prompts["language"].combine_chunks().dictionary_encode()
    if len({len(part.scores) for part in parts}) > 1:
        raise StageError("not all candidates have scores of the same number of Arbiters")
    tables = [_joined(part, index) for index, part in enumerate(parts)]
    table = pa.concat_tables(tables).combine_chunks() if tables else _joined_schema().empty_table()
    place = pc.index_in(table["prompt_id"], value_set=ids)
    if place.null_count:
        raise StageError("there are candidates for prompts that the shard does not have")
    prompt, owner = numbers(place), numbers(table["owner"])
    table = table.append_column("chars", pc.utf8_length(table["completion"]).cast(pa.int32()))
    language = _Languages(codes.dictionary.to_pylist(), numbers(codes.indices))
    prints = [part.teacher.fingerprint for part in parts]
    table, score = _judged(table, parts, prompt, language, choosing)
    stopped = names_any(table["gates"].combine_chunks(), choosing.enforced)
    sound = pc.is_null(table["error"]).to_numpy(zero_copy_only=False)
    text = table["completion"].combine_chunks().dictionary_encode().indices
    field = Field(
        ids.to_pylist(),
        prints,
        language.codes,
        prompt,
        owner,
        numbers(table["sample"]),
        score,
        ~np.isnan(score) & ~stopped & sound,
        numbers(pc.fill_null(text, NOBODY)),
        language.of,
        _standing(language, prompt, owner, prints, choosing.preferred),
    )
    return Lineup(table, field, stopped)


class _Languages(NamedTuple):
    """The languages of a shard, and the place in them of each prompt's."""

    codes: list[str]
    of: NDArray[np.int64]

    def told(self, what: Mapping[str, tuple[float, ...]], width: int, default: float) -> Floats:
        """(languages, width): what is said for each, or the default."""
        rows = [what.get(code, what.get("default", (default,) * width)) for code in self.codes]
        if any(len(row) != width for row in rows):
            raise StageError(f"there are {width} Arbiters, and numbers for more or fewer of them")
        return np.array(rows, np.float64).reshape(len(rows), width)


def _judged(
    table: pa.Table,
    parts: list[Part],
    prompt: NDArray[np.int64],
    language: _Languages,
    choosing: Choosing,
) -> tuple[pa.Table, Floats]:
    """The one number of each candidate; the table with it, and with the errors of the Arbiters that
    count. Where one that counts has an error, there is no number."""
    if not parts:
        return table.append_column("score", pa.array([], pa.float64())), np.empty(0)
    width = len(parts[0].scores)
    weights = language.told(choosing.weights, width, 1.0)
    if (weights.sum(axis=1) == 0).any():
        code = language.codes[int(np.argmin(weights.sum(axis=1)))]
        raise StageError(f"no Arbiter counts in language {code}; give one a weight there")
    slopes = language.told(choosing.slopes, width, 0.0)
    mine = language.of[prompt]
    length = numbers(pc.fill_null(table["chars"], 0))
    scores = np.empty((table.num_rows, width))
    error = table["error"]
    for arbiter in range(width):
        score = table[f"score {arbiter}"].to_numpy().astype(np.float64)
        scores[:, arbiter] = residualised(score, length, mine, slopes[:, arbiter])
        counts = pa.array(weights[mine, arbiter] > 0)
        error = pc.coalesce(error, pc.if_else(counts, table[f"error {arbiter}"], None))
    score = combined(scores, prompt, weights[mine], choosing.method)
    table = table.set_column(table.schema.get_field_index("error"), "error", error)
    return table.append_column("score", pa.array(score, from_pandas=True)), score


def _standing(
    language: _Languages,
    prompt: NDArray[np.int64],
    owner: NDArray[np.int64],
    prints: list[str],
    preferred: Mapping[str, tuple[str, ...]],
) -> Floats | None:
    """By what candidates are ordered where no Arbiter is trusted: their teacher's place."""
    told = [preferred.get(code, preferred.get("default")) for code in language.codes]
    if not any(told) or not prints:
        return None
    places = np.full((len(told), len(prints)), np.nan)
    for number, names in enumerate(told):
        if names:
            last = len(names)
            places[number] = [-(names.index(p) if p in names else last) for p in prints]
    standing: Floats = places[language.of[prompt], owner]
    return standing


def _joined(part: Part, index: int) -> pa.Table:
    """Candidates and scores side by side; they must be about the same rows."""
    table = part.candidates
    if not part.scores:
        raise StageError(f"there are no scores of {part.teacher.name}")
    for number, scores in enumerate(part.scores):
        for column in ("prompt_id", "sample"):
            if not part.candidates[column].equals(scores[column]):
                raise StageError(f"scores of {part.teacher.name} are not those of its candidates")
        for column in ("score", "error"):
            table = table.append_column(f"{column} {number}", scores[column])
    if len(part.failed) != table.num_rows:
        raise StageError(f"gates of {part.teacher.name} are not those of its candidates")
    table = table.append_column("gates", part.failed)
    table = table.append_column(
        "teacher", pa.array([part.teacher.name] * table.num_rows, pa.string())
    )
    return table.append_column("owner", pa.array(np.full(table.num_rows, index, np.int64)))


def _joined_schema() -> pa.Schema:
    return pa.schema(
        [
            ("prompt_id", pa.string()),
            ("sample", pa.int32()),
            ("completion", pa.string()),
            ("gates", pa.list_(pa.string())),
            ("owner", pa.int64()),
            ("error", pa.string()),
        ]
    )
