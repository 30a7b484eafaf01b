"""What the gates catch and what they wrongly stop, per language, on answers whose truth is known.

False alarms: every answer of the micro-world to its own question, the everyday prompts and, with
--mgsm, the MGSM questions, taken as answers. Caught: the same answers, each spoilt in one way. An
answer in another language is the same fact's answer there, and counts where it has six words, or
twelve letters in a script without spaces; five words are told apart. The one exception is a
question that is about that other language (how do you say water in English), where the gates are
silent by design. Time is processor time per candidate, all measures together.

    python scripts/bench_gates.py
    python scripts/bench_gates.py --mgsm ../shared/data/mgsm --extra folder/with/{language}.txt
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from arbitrage import attacks, gates
from arbitrage.choices import GatesConfig
from arbitrage.languages import table
from arbitrage.records import Prompt
from arbitrage.writing import scripts_of, unspaced
from micro_world import Example, read_lexicons, world

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

EVERYDAY = Path(__file__).parents[1] / "data/everyday/prompts.jsonl"
FOREIGN = {
    "Hani": "\u6c34\u706b\u6728\u91d1\u571f",
    "Cyrl": "\u0436\u0434\u0438\u043b\u0444",
    "Hang": "\ud55c\uae00\ub9d0\ub208\ube44",
    "Arab": "\u0645\u0631\u062d\u0628\u0627",
    "Thai": "\u0e01\u0e02\u0e04\u0e07\u0e08",
}
SENTENCE_WORDS = 6
SENTENCE_LETTERS = 12


@dataclass(frozen=True)
class Answer:
    """A right answer, and the conversation it belongs to; `key` is equal for one fact."""

    source: str
    key: str
    language: str
    prompt: str
    text: str


def micro_answers() -> list[Answer]:
    """Every different answer of the micro-world, trained on and held out."""
    found: dict[tuple[str, str], Answer] = {}
    split = world(read_lexicons())
    for example in (*split.train, *split.heldout):
        found.setdefault((example.language, example.answer), _answer(example))
    return list(found.values())


def _answer(example: Example) -> Answer:
    key = f"{example.task}/{example.fact}"
    return Answer("micro", key, example.language, example.prompt, example.answer)


def everyday() -> list[Answer]:
    """The everyday prompts, as if they were answers to an empty request."""
    rows = map(json.loads, EVERYDAY.read_text("utf-8").splitlines())
    return [Answer("everyday", row["id"], row["language"], "", row["prompt"]) for row in rows]


def mgsm(folder: Path) -> list[Answer]:
    """The questions of `mgsm_<language>.tsv`; one number is one question in every language."""
    return [
        Answer("mgsm", f"mgsm/{number}", path.stem[-2:], "", line.split("\t")[0])
        for path in sorted(folder.glob("mgsm_*.tsv"))
        for number, line in enumerate(path.read_text("utf-8").splitlines())
    ]


def extra(pattern: str) -> list[Answer]:
    """The lines of one file per language, named by its code."""
    place = Path(pattern)
    return [
        Answer("extra", f"extra/{number}", path.stem, "", line)
        for path in sorted(place.parent.glob(place.name.replace("{language}", "*")))
        if path.stem in table()
        for number, line in enumerate(path.read_text("utf-8").splitlines())
        if line.strip()
    ]


def failed(
    answers: Sequence[Answer], texts: Sequence[str], reasons: Iterable[str] | None = None
) -> list[list[str]]:
    """The gates that each text fails as an answer to what another answer answers."""
    prompts = [
        Prompt(answer.key, answer.language, [{"role": "user", "content": answer.prompt}])
        for answer in answers
    ]
    facts = gates.measure(prompts, texts, list(reasons or ["stop"] * len(texts)))
    found: list[list[str]] = gates.apply(
        facts, [answer.language for answer in answers], GatesConfig()
    ).to_pylist()
    return found


def is_unspaced(language: str) -> bool:
    """Whether the language is written without spaces between words."""
    return bool(scripts_of(language) & {"Hani", "Thai", "Hira"})


def words_of(text: str) -> list[str]:
    """Words, or letters where there are no spaces."""
    return [c for c in text if c.isalpha()] if unspaced().search(text) else text.split()


def other_languages(answers: Sequence[Answer]) -> Iterator[tuple[str, Answer, str]]:
    """(kind, answer, text): the same fact's answer in every other language."""
    facts: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        facts[answer.key].append(answer)
    for group in facts.values():
        for asked in group:
            for given in group:
                if given.language == asked.language or "translate/" in asked.key:
                    continue
                same = table()[asked.language].family == table()[given.language].family
                words = len(words_of(given.text))
                long = SENTENCE_LETTERS if is_unspaced(given.language) else SENTENCE_WORDS
                if words >= long or words == SENTENCE_WORDS - 1:
                    length = "sentence" if words >= long else "5 words"
                    yield f"{'sibling' if same else 'other family'}, {length}", asked, given.text


def with_foreign(answer: Answer, source: random.Random) -> str:
    """Three letters of a script that the language is not written with, somewhere."""
    scripts = sorted(set(FOREIGN) - scripts_of(answer.language))
    letters = source.choices(FOREIGN[source.choice(scripts)], k=3)
    at = source.randrange(len(answer.text) + 1)
    return answer.text[:at] + "".join(letters) + answer.text[at:]


def looped(answer: Answer, source: random.Random) -> str:
    """The last words said five to twenty times more; letters where there are no spaces."""
    unit = source.randint(1, 8)
    glue = "" if is_unspaced(answer.language) else " "
    words = list(answer.text) if glue == "" else answer.text.split()
    return glue.join([*words, *words[-unit:] * source.randint(5, 20)])


def cut_off(answer: Answer, source: random.Random) -> str:
    """A part of the text from its start, as the token budget leaves it."""
    return answer.text[: source.randrange(1, len(answer.text))]


def emptied(answer: Answer, source: random.Random) -> str:
    """Nothing, or white space."""
    del answer
    return source.choice(["", " ", "\n\n", "\u3000", "\t \n"])


def instructing(answer: Answer, source: random.Random) -> str:
    """A text of the attack set that tells the judge what to do, after the answer."""
    by_kind = attacks.texts()
    known = [
        text
        for kind in INSTRUCTIONS
        for code in (answer.language, "en", "any")
        for text in by_kind[kind].get(code, ())
    ]
    return f"{answer.text}\n{source.choice(known)}"


FAULTS: dict[str, tuple[str, Callable[[Answer, random.Random], str]]] = {
    "three foreign letters": ("script", with_foreign),
    "looped": ("repetition", looped),
    "cut off": ("truncated", cut_off),
    "empty": ("empty", emptied),
    "to the judge": ("instruction", instructing),
}
INSTRUCTIONS = ("order", "score", "json", "system", "control", "markup", "flattery")
"""Kinds of attacks that tell a judge something; `authority` and `neutral` tell it nothing."""


def caught(answers: Sequence[Answer]) -> dict[tuple[str, str], list[bool]]:
    """(kind of fault, language asked for) -> per spoilt answer, whether its gate saw it."""
    found: dict[tuple[str, str], list[bool]] = defaultdict(list)
    source = random.Random(0)
    for kind, (gate, spoil) in FAULTS.items():
        texts = [spoil(answer, source) for answer in answers]
        reasons = ["length" if gate == "truncated" else "stop"] * len(texts)
        for answer, names in zip(answers, failed(answers, texts, reasons), strict=True):
            found[kind, answer.language].append(gate in names)
    rows = list(other_languages(answers))
    spoken = failed([asked for _, asked, _ in rows], [text for _, _, text in rows])
    for (kind, asked, _), names in zip(rows, spoken, strict=True):
        found[kind, asked.language].append(bool({"language", "script"} & set(names)))
    return found


def alarms(answers: Sequence[Answer]) -> dict[str, list[bool]]:
    """Language -> per right answer, whether an enforced gate stops it."""
    enforced = set(GatesConfig().enforced())
    found: dict[str, list[bool]] = defaultdict(list)
    for answer, names in zip(
        answers, failed(answers, [answer.text for answer in answers]), strict=True
    ):
        found[answer.language].append(bool(enforced & set(names)))
    return found


def share(hits: Sequence[bool]) -> str:
    """A percentage, or nothing where there is nothing to count."""
    return f"{100 * sum(hits) / len(hits):.1f}" if hits else ""


def show(title: str, columns: dict[str, dict[str, list[bool]]], console: Console) -> None:
    """One row per language, and all together below."""
    drawn = Table(title=title, title_justify="left")
    drawn.add_column("")
    for name in columns:
        drawn.add_column(name, justify="right")
    for language in sorted({code for column in columns.values() for code in column}):
        drawn.add_row(language, *(share(column.get(language, [])) for column in columns.values()))
    sums = [[hit for hits in column.values() for hit in hits] for column in columns.values()]
    drawn.add_section()
    drawn.add_row("all", *map(share, sums))
    drawn.add_row("n", *(f"{len(hits):,}" for hits in sums))
    console.print(drawn)


def timed(answers: Sequence[Answer]) -> float:
    """Microseconds of the processor per candidate, the best of three."""
    texts = [answer.text for answer in answers]
    times = []
    for _ in range(3):
        start = time.process_time()
        failed(answers, texts)
        times.append(time.process_time() - start)
    return 1e6 * min(times) / len(answers)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description="false alarms and caught faults of the gates")
    parser.add_argument("--mgsm", type=Path, help="the folder of mgsm_<language>.tsv")
    parser.add_argument("--extra", help="right sentences, folder/{language}.txt, a line each")
    told = parser.parse_args()
    console = Console()
    sources = {"micro-world": micro_answers(), "everyday": everyday()}
    if told.mgsm:
        sources["MGSM"] = mgsm(told.mgsm)
    if told.extra:
        sources["extra"] = extra(told.extra)
    columns = {name: alarms(answers) for name, answers in sources.items()}
    show("false alarms, % of right answers", columns, console)
    for name in ("micro-world", "MGSM"):
        if name in sources:
            kinds: dict[str, dict[str, list[bool]]] = defaultdict(dict)
            for (kind, language), hits in caught(sources[name]).items():
                kinds[kind][language] = hits
            show(f"caught, % of spoilt answers ({name})", dict(sorted(kinds.items())), console)
    for name, answers in sources.items():
        words = sum(len(words_of(answer.text)) for answer in answers) / len(answers)
        console.print(f"{name}: {timed(answers):.0f} us a candidate of {words:.0f} words")


if __name__ == "__main__":
    main()
