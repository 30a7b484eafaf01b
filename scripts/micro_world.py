"""The micro-world: 23 languages, eleven kinds of small questions, each with one right answer.

Words and templates are in `data/micro/lexicons/<language>.yaml`, one file per language; this module
turns them into examples and splits them. It knows no model and no pipeline.

An example is a fact (seven plus five, the capital of Japan) put into one of several phrasings. The
held-out ones are fixed by a hash of their names: four per task and language, of four different
facts. Everything else is for training, so a held-out fact is met there in its other phrasings only.

    python scripts/micro_world.py             # checks the lexicons, rewrites data/micro/heldout/
    python scripts/micro_world.py --show de   # every question and answer of a language, to be read
"""

from __future__ import annotations

import hashlib
import json
import re
import string
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

MICRO = Path(__file__).parents[1] / "data/micro"
LEXICONS = MICRO / "lexicons"
HELDOUT = MICRO / "heldout"
REFERENCE = "en"
LARGEST_TERM = 10
LISTS = {"numbers": 2 * LARGEST_TERM, "weekdays": 7, "months": 12}
KEYS = {"language", *LISTS, "list_separator", "tasks"}
COUNT_FIRST, COUNT_LENGTHS = range(1, 10), range(3, 6)
PHRASINGS = 4
HELDOUT_PER_TASK = 4
OPENING = "\u00bf\u00a1"  # inverted question and exclamation marks
STRAY = re.compile(r"\s\s|^\s|\s$|[{}]")

Word: TypeAlias = "str | Mapping[str, str]"
"""A word that never changes, or its forms by name; `base` is the one a template gets by default."""

Fact: TypeAlias = "Mapping[str, Word]"
"""The words for the places of a task's templates."""


class LexiconError(ValueError):
    """A lexicon says something that makes no example, or two answers to one question."""


@dataclass(frozen=True)
class Example:
    """A question and its answer. Equal names (`language/task/fact/phrasing`) are equal examples."""

    language: str
    task: str
    fact: str
    phrasing: int
    prompt: str
    answer: str

    @property
    def name(self) -> str:
        """The example's id, also in the held-out files."""
        return f"{self.language}/{self.task}/{self.fact}/{self.phrasing}"


@dataclass(frozen=True)
class Split:
    """Examples to train on, and those that nothing ever trains on."""

    train: tuple[Example, ...]
    heldout: tuple[Example, ...]


class Lexicon:
    """One language: its templates, and per task every fact that can be asked.

    Raises LexiconError where the content lacks something.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        _check_content(content)
        self.language: str = content["language"]
        self.content = content
        self.tasks: dict[str, Mapping[str, Any]] = content["tasks"]
        self.facts: dict[str, dict[str, Fact]] = {
            task: dict(COMPUTED[task](content)) if task in COMPUTED else section["facts"]
            for task, section in self.tasks.items()
        }

    def examples(self) -> list[Example]:
        """Every fact of every task in every phrasing. Raises LexiconError."""
        return [
            Example(self.language, task, fact, number, self._fill(question, words), answer)
            for task, facts in self.facts.items()
            for fact, words in facts.items()
            for answer in [self._fill(self.tasks[task]["answer"], words)]
            for number, question in enumerate(self.tasks[task]["questions"])
        ]

    def asked(self, task: str, fact: str) -> Word:
        """The word that a question about this fact asks for: the answer's one uncertain place."""
        return self.facts[task][fact][ASKED[task]]

    def answer_about(self, task: str, fact: str, other: str) -> str:
        """The answer to a question about `fact`, with the word that `other` asks for."""
        words = {**self.facts[task][fact], ASKED[task]: self.asked(task, other)}
        return self._fill(self.tasks[task]["answer"], words)

    def _fill(self, template: str, words: Fact) -> str:
        """The sentence, its first letter large. Raises LexiconError for a word or form it lacks."""
        parts = []
        for literal, place, _, _ in string.Formatter().parse(template):
            parts.append(literal)
            if place is not None:
                name, _, form = place.partition(".")
                try:
                    parts.append(_form(words[name], form or "base"))
                except KeyError as error:
                    raise LexiconError(
                        f"{self.language}: {template!r} lacks {error} of {{{place}}} in {words}"
                    ) from None
        return _capitalised("".join(parts), self.language)


def read_lexicon(path: Path) -> Lexicon:
    """One language. Raises LexiconError where the file is no YAML mapping of its own language."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise LexiconError(f"{path.name} is no YAML: {error}") from error
    if not isinstance(content, dict) or content.get("language") != path.stem:
        raise LexiconError(f"{path.name} must be a mapping with `language: {path.stem}`")
    return Lexicon(content)


def read_lexicons(folder: Path = LEXICONS) -> dict[str, Lexicon]:
    """All languages, by code. Raises LexiconError."""
    return {path.stem: read_lexicon(path) for path in sorted(folder.glob("*.yaml"))}


def world(lexicons: Mapping[str, Lexicon]) -> Split:
    """The examples of all languages, checked. Raises LexiconError."""
    for lexicon in lexicons.values():
        _check(lexicon, lexicons[REFERENCE])
    found = [example for lexicon in lexicons.values() for example in lexicon.examples()]
    _check_texts(found)
    return split(found)


def split(found: Iterable[Example]) -> Split:
    """Holds out, per language and task, the examples of lowest hash, a fact at most once."""
    groups: dict[tuple[str, str], list[Example]] = defaultdict(list)
    train, heldout = [], []
    for example in found:
        groups[example.language, example.task].append(example)
    for group in groups.values():
        lowest: dict[str, Example] = {}
        for example in sorted(group, key=_rank):
            lowest.setdefault(example.fact, example)
        kept = {example.name for example in list(lowest.values())[:HELDOUT_PER_TASK]}
        heldout += [example for example in group if example.name in kept]
        train += [example for example in group if example.name not in kept]
    return Split(tuple(train), tuple(heldout))


def _rank(example: Example) -> bytes:
    return hashlib.blake2b(example.name.encode(), digest_size=8).digest()


def _sums(content: Mapping[str, Any]) -> Iterator[tuple[str, Fact]]:
    numbers = content["numbers"]
    for a in range(1, LARGEST_TERM + 1):
        for b in range(1, LARGEST_TERM + 1):
            words = {"a": numbers[a - 1], "b": numbers[b - 1], "sum": numbers[a + b - 1]}
            yield f"{a}+{b}", words


def _counts(content: Mapping[str, Any]) -> Iterator[tuple[str, Fact]]:
    numbers = content["numbers"]
    for first in COUNT_FIRST:
        for length in COUNT_LENGTHS:
            last = first + length - 1
            run = [_form(word, "base") for word in numbers[first - 1 : last]]
            words = {"first": numbers[first - 1], "last": numbers[last - 1]}
            yield f"{first}-{last}", {**words, "sequence": content["list_separator"].join(run)}


def _steps(
    names: str, given: str, asked: str, step: int
) -> Callable[[Mapping[str, Any]], Iterator[tuple[str, Fact]]]:
    def make(content: Mapping[str, Any]) -> Iterator[tuple[str, Fact]]:
        words = content[names]
        for number, word in enumerate(words):
            yield str(number + 1), {given: word, asked: words[(number + step) % len(words)]}

    return make


COMPUTED: dict[str, Callable[[Mapping[str, Any]], Iterator[tuple[str, Fact]]]] = {
    "sum": _sums,
    "count": _counts,
    "day_after": _steps("weekdays", "day", "next", +1),
    "day_before": _steps("weekdays", "day", "previous", -1),
    "month_after": _steps("months", "month", "next", +1),
    "month_before": _steps("months", "month", "previous", -1),
}
"""Tasks whose facts follow from the lists of a lexicon. The others list theirs."""

ASKED = {
    "sum": "sum",
    "count": "sequence",
    "day_after": "next",
    "day_before": "previous",
    "month_after": "next",
    "month_before": "previous",
    "opposite": "opposite",
    "colour": "colour",
    "category": "category",
    "capital": "city",
    "translate": "translation",
}
"""The place in each task's answer that the question asks for."""


def _form(word: Word, form: str) -> str:
    return word if isinstance(word, str) else word[form]


def _capitalised(text: str, language: str) -> str:
    at = 1 if text[:1] in OPENING else 0
    first = "\u0130" if (language, text[at]) == ("tr", "i") else text[at].upper()
    return text[:at] + first + text[at + 1 :]


def _check_content(content: Mapping[str, Any]) -> None:
    """A lexicon's own file. Raises LexiconError."""
    language = content["language"]
    if set(content) != KEYS:
        raise LexiconError(f"{language}: must have exactly {sorted(KEYS)}")
    for where, text in _texts(content, language):
        if not isinstance(text, str) or not text:
            raise LexiconError(f"{where}: {text!r} is no text; quote it")
    for name, length in LISTS.items():
        words = content[name]
        if len(words) != length or len({_form(word, "base") for word in words}) != length:
            raise LexiconError(f"{language}: {name} must be {length} different words")
    for task, section in content["tasks"].items():
        if len(set(section["questions"])) != PHRASINGS or len(section["questions"]) != PHRASINGS:
            raise LexiconError(f"{language}/{task}: wants {PHRASINGS} different questions")


def _check(lexicon: Lexicon, reference: Lexicon) -> None:
    """Every language asks the same facts as the reference. Raises LexiconError."""
    if list(lexicon.tasks) != list(reference.tasks):
        raise LexiconError(f"{lexicon.language}: tasks must be {list(reference.tasks)}")
    for task, facts in reference.facts.items():
        if list(lexicon.facts[task]) != list(facts):
            raise LexiconError(f"{lexicon.language}/{task}: facts must be {list(facts)}")


def _texts(node: Any, where: str) -> Iterator[tuple[str, Any]]:
    if isinstance(node, dict | list):
        for key, value in node.items() if isinstance(node, dict) else enumerate(node, 1):
            yield from _texts(value, f"{where}/{key}")
    else:
        yield where, node


def _check_texts(found: Iterable[Example]) -> None:
    """One question has one answer, in all languages together. Raises LexiconError."""
    seen: dict[str, Example] = {}
    for example in found:
        other = seen.setdefault(example.prompt, example)
        if other is not example:
            raise LexiconError(f"{example.name} asks what {other.name} asks: {example.prompt!r}")
        for text in (example.prompt, example.answer):
            if STRAY.search(text):
                raise LexiconError(f"{example.name}: stray space or brace in {text!r}")


def write_heldout(heldout: Iterable[Example], folder: Path = HELDOUT) -> None:
    """Two files with the same ids: the prompts for the pipeline, the answers for measuring it."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = sorted(heldout, key=lambda example: (example.language, _rank(example)))
    prompts = [{"id": r.name, "language": r.language, "prompt": r.prompt} for r in rows]
    answers = [{"id": r.name, "task": r.task, "answer": r.answer} for r in rows]
    for name, told in (("prompts", prompts), ("answers", answers)):
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in told)
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")


def main(arguments: list[str]) -> None:
    """Checks and writes, or shows one language."""
    if arguments[:1] == ["--show"]:
        for example in read_lexicon(LEXICONS / f"{arguments[1]}.yaml").examples():
            print(f"{example.name}\n  {example.prompt}\n  {example.answer}")
        return
    found = world(read_lexicons())
    write_heldout(found.heldout)
    languages = len({example.language for example in found.heldout})
    print(
        f"{languages} languages: {len(found.train):,} to train on, {len(found.heldout):,} held out"
    )


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LexiconError as error:
        sys.exit(f"error: {error}")
