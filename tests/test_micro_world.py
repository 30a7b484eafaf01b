"""The micro-world: its lexicons, its split, its wrong answers."""

from __future__ import annotations

import json
import random
import re
import unicodedata
from collections import Counter, defaultdict
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from arbitrage.configfile import load
from arbitrage.languages import Detector, table
from micro_world import (
    HELDOUT,
    HELDOUT_PER_TASK,
    LEXICONS,
    MICRO,
    Example,
    Lexicon,
    LexiconError,
    Split,
    read_lexicon,
    read_lexicons,
    split,
    world,
    write_heldout,
)
from micro_wrong import KINDS, WrongAnswers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

AYA = set(re.findall("..", "arcsdeelenesfafrhehiiditjakonlplptrorutrukvizh"))
SCRIPTS = {
    "Arab": "ARABIC",
    "Cyrl": "CYRILLIC",
    "Deva": "DEVANAGARI",
    "Grek": "GREEK",
    "Hans": "CJK",
    "Hebr": "HEBREW",
    "Jpan": "CJK HIRAGANA KATAKANA",
    "Kore": "HANGUL",
    "Latn": "LATIN",
}
ENGLISH = "translate"


@cache
def lexicons() -> dict[str, Lexicon]:
    return read_lexicons()


@cache
def examples() -> Split:
    return world(lexicons())


@cache
def detector() -> Detector:
    return Detector()


def jsonl(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (HELDOUT / name).read_text("utf-8").splitlines()]


def test_it_has_the_23_languages_of_aya_and_the_same_facts_in_each() -> None:
    assert set(lexicons()) == AYA
    facts = {tuple((task, *found) for task, found in x.facts.items()) for x in lexicons().values()}
    assert len(facts) == 1
    assert len(next(iter(lexicons().values())).tasks) >= 6


@pytest.mark.parametrize("language", sorted(AYA))
def test_each_language_is_written_in_its_own_script(language: str) -> None:
    script = SCRIPTS[table()[language].script.replace("Hani", "Hans")].split()
    for example in lexicons()[language].examples():
        if example.task == ENGLISH:
            continue  # quotes a word of another language
        letters = [c for c in example.prompt + example.answer if unicodedata.category(c)[0] == "L"]
        strange = [
            c for c in letters if unicodedata.name(c).replace("-", " ").split()[0] not in script
        ]
        assert not strange, (example.name, strange)


@pytest.mark.parametrize("language", sorted(AYA))
def test_each_language_reads_as_itself_and_ends_its_sentences(language: str) -> None:
    found = lexicons()[language].examples()
    everything = " ".join(example.prompt for example in found[::5] if example.task != ENGLISH)
    assert detector().detect(everything[:4000]).language == language
    for example in found:
        assert example.answer[-1] in ".\u3002\u0964", example
        assert example.prompt[-1] in ".?\u3002\uff1f\u0964\u061f;", example
        for text in (example.prompt, example.answer):
            assert unicodedata.is_normalized("NFC", text), example
            first = text.lstrip("\u00bf\u00a1\u00ab\u201e\u201c\u2018\u201d\u300c ")[0]
            assert first == first.upper() or text[0] != first, example


def test_opposites_are_pairs() -> None:
    for lexicon in lexicons().values():
        facts = lexicon.facts["opposite"].values()
        pairs = {(base(fact["word"]), base(fact["opposite"])) for fact in facts}
        assert pairs == {(there, here) for here, there in pairs}, lexicon.language


def base(word: Any) -> str:
    text = word if isinstance(word, str) else word["base"]
    return "".join(c for c in text if c.isalnum()).casefold()


def test_nothing_held_out_is_trained_on() -> None:
    train, heldout = examples().train, examples().heldout
    assert not {example.prompt for example in train} & {example.prompt for example in heldout}
    assert not {example.name for example in train} & {example.name for example in heldout}
    folded = {" ".join(example.prompt.casefold().split()) for example in train}
    assert not [e for e in heldout if " ".join(e.prompt.casefold().split()) in folded]


def test_at_least_forty_are_held_out_in_every_language_and_some_of_every_task() -> None:
    count = Counter(example.language for example in examples().heldout)
    assert set(count) == AYA
    assert min(count.values()) >= 40
    of_task = Counter((example.language, example.task) for example in examples().heldout)
    assert set(of_task.values()) == {HELDOUT_PER_TASK}


def test_the_files_are_what_the_generator_makes(tmp_path: Path) -> None:
    write_heldout(examples().heldout, tmp_path)
    for name in ("prompts.jsonl", "answers.jsonl"):
        assert (tmp_path / name).read_bytes() == (HELDOUT / name).read_bytes(), name


def test_the_pipeline_gets_no_answer() -> None:
    prompts, answers = jsonl("prompts.jsonl"), jsonl("answers.jsonl")
    assert [row["id"] for row in prompts] == [row["id"] for row in answers]
    assert {key for row in prompts for key in row} == {"id", "language", "prompt"}
    config = load(MICRO.parents[1] / "configs/quickstart.yaml").config
    assert [source.path for source in config.prompts.sources] == [str(HELDOUT / "prompts.jsonl")]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda x: x.pop("months"), "must have exactly"),
        (
            lambda x: x["tasks"]["sum"]["questions"].__setitem__(
                0, x["tasks"]["sum"]["questions"][1]
            ),
            "4 different questions",
        ),
        (lambda x: x["numbers"].pop(), "numbers must be 20 different words"),
        (lambda x: x["weekdays"].__setitem__(0, x["weekdays"][1]), "weekdays must be 7 different"),
        (lambda x: x["tasks"].pop("sum"), "tasks must be"),
        (lambda x: x["tasks"]["colour"]["facts"].pop("snow"), "facts must be"),
        (lambda x: x["tasks"]["sum"]["questions"].append("Und {a}?"), "4 different questions"),
        (lambda x: x["tasks"]["sum"].__setitem__("answer", "{a} und {c}."), "lacks 'c'"),
        (lambda x: x["tasks"]["sum"].__setitem__("answer", "{a}  und {b}."), "stray space"),
        (lambda x: x["numbers"].__setitem__(0, True), "is no text; quote it"),
        (
            lambda x: (
                x["numbers"].__setitem__(0, {"base": "eins"})
                or x["tasks"]["sum"].__setitem__("answer", "{a.dat}.")
            ),
            "lacks 'dat'",
        ),
        (
            lambda x: (
                x["tasks"]["sum"]["questions"].__setitem__(0, "{a}?")
                or x["tasks"]["sum"]["questions"].__setitem__(1, "{b}?")
            ),
            "asks what",
        ),
    ],
)
def test_a_faulty_lexicon_is_refused_in_one_sentence(
    change: Callable[[dict[str, Any]], Any], sentence: str
) -> None:
    with pytest.raises(LexiconError, match=sentence):
        world({**lexicons(), "de": Lexicon(changed("de", change))})


def changed(language: str, change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((LEXICONS / f"{language}.yaml").read_text("utf-8"))
    change(content)
    return content


@pytest.mark.parametrize("text", ["language: [", "language: fr", "- de"])
def test_a_file_that_is_no_lexicon_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "de.yaml").write_text(text)
    with pytest.raises(LexiconError, match=r"de\.yaml"):
        read_lexicon(tmp_path / "de.yaml")


names = st.tuples(
    st.sampled_from(["de", "fr"]),
    st.sampled_from(["sum", "colour"]),
    st.sampled_from("abcdefg"),
    st.integers(0, 3),
)


@given(st.sets(names))
def test_a_split_parts_every_set_and_never_looks_at_other_languages(found: set[Any]) -> None:
    made = [Example(*name, prompt=str(name), answer=name[2]) for name in sorted(found)]
    parts = split(made)
    assert sorted(e.name for e in (*parts.train, *parts.heldout)) == sorted(e.name for e in made)
    facts = defaultdict(list)
    for example in parts.heldout:
        facts[example.language, example.task].append(example.fact)
    for key, kept in facts.items():
        there = {e.fact for e in made if (e.language, e.task) == key}
        assert len(kept) == len(set(kept)) == min(HELDOUT_PER_TASK, len(there))
    alone = split([example for example in made if example.language == "de"])
    assert alone.heldout == tuple(e for e in parts.heldout if e.language == "de")


@given(st.integers(0, 10**6), st.sampled_from(list(KINDS)))
def test_a_wrong_answer_is_never_the_right_one(seed: int, kind: str) -> None:
    source = random.Random(seed)
    example = source.choice(examples().train)
    made = wrong_answers().of(example, kind, source)
    assert made
    assert made != example.answer
    assert made == wrong_answers().of(example, kind, replay(seed))


def replay(seed: int) -> random.Random:
    source = random.Random(seed)
    source.choice(examples().train)
    return source


@cache
def wrong_answers() -> WrongAnswers:
    return WrongAnswers(lexicons(), examples().train)


def test_wrong_words_stand_in_the_right_sentence() -> None:
    [example] = [e for e in examples().train if e.name == "en/capital/japan/0"]
    made = {wrong_answers().of(example, "wrong word", random.Random(n)) for n in range(200)}
    assert all(text.startswith("The capital of Japan is ") for text in made)
    assert len(made) == 19


def test_a_kind_that_can_only_be_right_is_an_error() -> None:
    lexicon = lexicons()["en"]
    [example] = [e for e in examples().train if e.name == "en/capital/japan/0"]
    lonely = WrongAnswers({"en": lexicon}, [example])
    with pytest.raises(ValueError, match="wrong by wrong word"):
        lonely.of(example, "wrong word", random.Random(0))
