"""Answers that are there already: what names them, and what they are for the prompts of a shard.

From a file of answers, or from a run: what it has selected, or one teacher's first answers. Reads
them shard by shard, so that memory does not grow with a run.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from arbitrage.errors import ArbitrageError, ConfigError, StageError
from arbitrage.files import has_scheme
from arbitrage.reading import columns_of
from arbitrage.store import Store
from arbitrage.winrate.answer_files import read_answers
from arbitrage.winrate.config import AnswersFile, FromRun

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arbitrage.winrate.answer_files import Answers

READ_BYTES = 1 << 20


class Asked(NamedTuple):
    """One prompt of the evaluation, as files may name it: its id, the user's own, its language and
    the last turn's text."""

    prompt_id: str
    user_id: str | None
    language: str
    text: str


def source_identity(place: str, block: AnswersFile | FromRun) -> dict[str, Any]:
    """What names answers: a file's content, or which files of a run they are in. `place` is where
    the model stands in the config. Raises ConfigError where there are none, or no good ones."""
    if isinstance(block, AnswersFile):
        content = _content_of(place, block.answers)
        try:
            _answers(block.answers, block.model, content)
        except ArbitrageError as error:
            raise ConfigError(f"{place}: {error}") from error
        return {"answers": content, "model": block.model}
    try:
        store, files = _files_of(block)
        owner = files[0].rpartition("/")[0].rpartition("-")[2]
        keys = {path.rpartition("/")[2]: path for path in files}
        if block.teacher is not None:
            return {"teacher": owner, "files": sorted(keys)}
        told = store.footers(files)
        return {
            "selector": owner,
            "files": [[name, told[path].get("key", "")] for name, path in sorted(keys.items())],
        }
    except ArbitrageError as error:
        raise ConfigError(f"{place}: {error}") from error


def _content_of(place: str, path: str) -> str:
    found = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while data := file.read(READ_BYTES):
                found.update(data)
    except OSError as error:
        raise ConfigError(f"{place}: {path} cannot be read: {error.strerror}") from error
    return found.hexdigest()


def _files_of(block: FromRun) -> tuple[Store, list[str]]:
    """The files of a run that hold the answers. Raises ConfigError where there are none."""
    store = Store(block.run if has_scheme(block.run) else Path(block.run))
    papers = store.read_json("run.json")
    if not isinstance(papers, dict):
        raise ConfigError(f"{block.run} is no run directory; `arbitrage run CONFIG` makes one")
    if block.teacher is None:
        folder = store.latest()
        if folder is None:
            raise ConfigError(f"{block.run} has selected nothing yet; run it first")
    else:
        known = papers.get("fingerprints", {})
        found = known.get(f"candidates/{block.teacher}")
        folder = store.listing().folders.get(("candidates", found or ""))
        if folder is None:
            names = [n.removeprefix("candidates/") for n in known if n.startswith("candidates/")]
            raise ConfigError(
                f"{block.run} has no answers of a teacher {block.teacher!r}; its teachers are "
                f"{', '.join(names)}"
            )
    files = sorted(store.files_in(folder))
    if not files:
        raise ConfigError(f"{folder} of {block.run} is empty; run it first")
    return store, files


def answers_for(
    place: str, block: AnswersFile | FromRun, identity: dict[str, Any], asked: Sequence[Asked]
) -> list[str | None]:
    """The answer to each prompt, none where there is none. Raises InputError, StoreError, and
    StageError where the answers are no longer those that were named."""
    found = _found(block, identity, asked)
    if source_identity(place, block) != identity:
        raise StageError(f"the answers of {place} changed while they were read; run again")
    return found


def _found(
    block: AnswersFile | FromRun, identity: dict[str, Any], asked: Sequence[Asked]
) -> list[str | None]:
    if isinstance(block, AnswersFile):
        answers = _answers(block.answers, block.model, identity["answers"])
        return [
            answers.find(one.prompt_id, one.user_id or "", one.language, one.text) for one in asked
        ]
    found = _stored(block, {one.prompt_id for one in asked})
    return [found.get(one.prompt_id) for one in asked]


@lru_cache(maxsize=4)
def _answers(path: str, model: str | None, content: str) -> Answers:
    """A file is parsed once for all of its shards."""
    del content
    return read_answers(Path(path), model)


def _stored(block: FromRun, wanted: set[str]) -> dict[str, str]:
    """Completions by prompt id: a run's best one, or the teacher's first."""
    store, files = _files_of(block)
    place = "sample" if block.teacher is not None else "rank"
    found: dict[str, tuple[int, str]] = {}
    for path in files:
        table = columns_of(store, path, ["prompt_id", "completion", place])
        table = table.filter(
            pc.is_in(table["prompt_id"], value_set=pa.array(list(wanted), pa.string()))
        )
        for key, text, number in zip(
            *(table[name].to_pylist() for name in ("prompt_id", "completion", place)), strict=True
        ):
            earlier = found.get(key)
            if text is not None and (earlier is None or (number or 0) < earlier[0]):
                found[key] = (number or 0, text)
    return {key: text for key, (_, text) in found.items()}
