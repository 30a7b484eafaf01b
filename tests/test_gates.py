"""Gates: what is measured, what the thresholds make of it, and the rates over many candidates."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import bench_gates
from arbitrage import gates
from arbitrage.choices import GatesConfig
from arbitrage.gates import FACTS, GATES, apply, confusion_rates, equal_groups, identity, measure
from arbitrage.languages import Detector, parse_tag, table
from arbitrage.records import GATES as SCHEMA
from arbitrage.records import Prompt
from bench_gates import Answer, alarms, caught, failed, micro_answers

MGSM = Path(__file__).resolve().parents[2] / "shared/data/mgsm"
LANGUAGES = sorted({answer.language for answer in micro_answers()})


def prompt(language: str, *texts: str) -> Prompt:
    roles = ["user", "assistant"] * len(texts)
    messages = [{"role": role, "content": text} for role, text in zip(roles, texts, strict=False)]
    return Prompt("x", language, messages)  # type: ignore[arg-type]


def facts_of(text: str, language: str = "en", *asked: str) -> dict[str, Any]:
    found: dict[str, Any] = measure([prompt(language, *asked)], [text], ["stop"]).to_pylist()[0]
    return found


def gates_of(text: str, language: str = "en", *asked: str, **settings: Any) -> list[str]:
    facts = measure([prompt(language, *asked)], [text], ["stop"])
    found: list[str] = apply(facts, [language], GatesConfig(**settings)).to_pylist()[0]
    return found


# --- measuring ------------------------------------------------------------------------------------


def test_the_facts_are_the_columns_of_a_gates_file_without_the_keys() -> None:
    assert FACTS.names == SCHEMA.names[2:]
    facts = measure([prompt("en")], ["Fine."], ["stop"])
    assert facts.schema == FACTS
    assert facts.to_pylist() == [
        {
            "truncated": False,
            "empty": False,
            "repetition": 0.0,
            "refusal": False,
            "instruction": False,
            "words": 1,
            "foreign_words": 0,
            "foreign_letters": 0,
            "lines": 0,
            "wrong_lines": [],
        }
    ]


def test_a_candidate_without_completion_has_no_facts_and_fails_no_gate() -> None:
    prompts = [prompt("de"), prompt("fr"), prompt("de")]
    facts = measure(prompts, [None, "Le chat dort sur la table.", None], ["error", "stop", "error"])
    assert facts.schema == FACTS
    assert facts.take([0, 2]).to_pylist() == [dict.fromkeys(FACTS.names)] * 2
    assert facts["lines"].to_pylist() == [None, 1, None]
    assert apply(facts, ["de", "fr", "de"], GatesConfig()).to_pylist() == [[], [], []]


@pytest.mark.parametrize("rows", [0, 2])
def test_no_completions_at_all_are_no_facts(rows: int) -> None:
    facts = measure([prompt("de")] * rows, [None] * rows, ["error"] * rows)
    assert (len(facts), facts.schema) == (rows, FACTS)
    assert apply(facts, ["de"] * rows, GatesConfig()).to_pylist() == [[]] * rows
    assert confusion_rates(facts, ["t"] * rows, ["de"] * rows, GatesConfig()) == {}


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="one prompt and one finish reason per completion"):
        measure([prompt("de")], ["a", "b"], ["stop", "stop"])
    with pytest.raises(ValueError, match="one language per row"):
        apply(measure([prompt("de")], ["a"], ["stop"]), ["de", "de"], GatesConfig())


def test_cut_off_and_empty_are_told_apart() -> None:
    texts = ["A short answer.", "A short", "", " \n\t\u3000", "x"]
    facts = measure([prompt("en")] * 5, texts, ["stop", "length", "stop", "length", "stop"])
    assert apply(facts, ["en"] * 5, GatesConfig()).to_pylist() == [
        [],
        ["truncated"],
        ["empty"],
        ["truncated", "empty"],
        [],
    ]


def test_a_candidate_is_measured_the_same_alone_and_among_others() -> None:
    answers = micro_answers()[::97]
    prompts = [prompt(answer.language, answer.prompt) for answer in answers]
    texts = [answer.text for answer in answers]
    together = measure(prompts, texts, ["stop"] * len(texts))
    alone = [measure([p], [t], ["stop"]) for p, t in zip(prompts, texts, strict=True)]
    assert together.equals(pa.concat_tables(alone).combine_chunks())


@given(st.lists(st.tuples(st.text(max_size=80), st.sampled_from(LANGUAGES)), max_size=4))
def test_any_text_has_facts_within_bounds(rows: list[tuple[str, str]]) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text, _ in rows]
    facts = measure([prompt(code) for _, code in rows], texts, ["stop"] * len(rows))
    for row, text in zip(facts.to_pylist(), texts, strict=True):
        assert 0 <= row["repetition"] <= 1
        assert 0 <= row["foreign_words"] <= row["foreign_letters"] <= len(text)
        assert len(row["wrong_lines"]) <= row["lines"]
        assert row["empty"] == (text.strip() == "")
    languages = [code for _, code in rows]
    assert all(
        set(names) <= set(GATES) for names in apply(facts, languages, GatesConfig()).to_pylist()
    )


def test_the_identity_of_the_facts_knows_no_threshold() -> None:
    plain = identity(GatesConfig())
    assert plain == {"version": gates.VERSION}
    other = GatesConfig(max_repetition=0.5, language=False, equal_languages=(("pt", "gl"),))
    assert identity(other) == plain
    assert identity(GatesConfig(refusals=("no comment",))) == plain, "nobody asks for refusals"
    asked = GatesConfig(refusal=True, refusals=("no comment",))
    assert identity(asked) == {**plain, "refusals": ["no comment"]}


def test_refusals_are_looked_for_where_they_are_asked_for() -> None:
    prompt = Prompt("p", "en", [{"role": "user", "content": "Tell me."}])
    text = "I'm sorry, but I can't help with that."
    asked, not_asked = GatesConfig(refusal=True), GatesConfig()
    for config, found in ((asked, True), (not_asked, None)):
        facts = measure([prompt], [text], ["stop"], gates.refusals_of(config))
        assert facts["refusal"].to_pylist() == [found]
        assert ("refusal" in apply(facts, ["en"], config).to_pylist()[0]) is bool(found)


# --- applying -------------------------------------------------------------------------------------


def test_the_names_come_in_the_order_of_the_table_enforced_or_not() -> None:
    facts = pa.Table.from_pylist(
        [
            {
                **dict.fromkeys(("truncated", "empty", "refusal", "instruction"), True),
                "repetition": 1.0,
                "words": 9,
                "foreign_words": 1,
                "foreign_letters": 3,
                "lines": 1,
                "wrong_lines": ["en"],
            }
        ],
        schema=FACTS,
    )
    off = GatesConfig(**dict.fromkeys(GATES, False))
    assert apply(facts, ["vi"], off).to_pylist() == [list(GATES)]
    assert apply(facts, ["vi"], GatesConfig()).to_pylist() == [list(GATES)]


FACT_ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "truncated": st.booleans(),
            "empty": st.booleans(),
            "repetition": st.sampled_from([0.0, 0.02, 0.1, 0.5, 1.0]),
            "refusal": st.booleans(),
            "instruction": st.booleans(),
            "words": st.just(5),
            "foreign_words": st.integers(0, 2),
            "foreign_letters": st.integers(0, 4),
            "lines": st.integers(4, 10),
            "wrong_lines": st.lists(st.sampled_from(["en", "id", "ms", "hr", "pt"]), max_size=4),
        }
    )
    | st.just(dict.fromkeys(FACTS.names)),
    max_size=12,
)


@given(rows=FACT_ROWS, data=st.data())
def test_applying_is_what_a_plain_loop_does(
    rows: list[dict[str, Any]], data: st.DataObject
) -> None:
    codes = data.draw(
        st.lists(
            st.sampled_from(["en", "id", "sr", "gl", "vi"]), min_size=len(rows), max_size=len(rows)
        )
    )
    config = GatesConfig(
        max_repetition=data.draw(st.sampled_from([0.0, 0.05, 0.5])),
        max_foreign_letters=data.draw(st.integers(0, 4)),
        max_wrong_lines=data.draw(st.sampled_from([0.0, 0.2, 0.5])),
        equal_languages=data.draw(st.sampled_from([(), (("pt", "gl"),), (("pt", "gl", "id"),)])),
    )
    together: list[set[str]] = [{"id", "ms"}, {"bs", "hr", "sr"}, *map(set, config.equal_languages)]
    if ("pt", "gl", "id") in config.equal_languages:
        together = [{"id", "ms", "pt", "gl"}, {"bs", "hr", "sr"}]

    def expected(row: dict[str, Any], own: str) -> list[str]:
        if row["truncated"] is None:
            return []
        wrong = [x for x in row["wrong_lines"] if x != own]
        wrong = [x for x in wrong if not any({x, own} <= group for group in together)]
        fails = {
            "repetition": row["repetition"] > config.max_repetition,
            "script": row["foreign_letters"] > config.max_foreign_letters,
            "language": len(wrong) / row["lines"] > config.max_wrong_lines,
        }
        return [name for name in GATES if fails.get(name, row.get(name))]

    facts = pa.Table.from_pylist(rows, schema=FACTS)
    plain = [expected(row, own) for row, own in zip(rows, codes, strict=True)]
    assert apply(facts, codes, config).to_pylist() == plain
    coded = pa.chunked_array([pa.array(codes, pa.string())]).dictionary_encode()
    halves = pa.concat_tables([facts[: len(rows) // 2], facts[len(rows) // 2 :]])
    assert apply(halves, coded, config).to_pylist() == plain


def test_groups_that_share_a_language_are_one() -> None:
    groups = equal_groups(GatesConfig(equal_languages=(("pt", "gl"), ("ca", "es"), ("es", "pt"))))
    assert len({groups[code] for code in ("pt", "gl", "ca", "es")}) == 1
    assert groups["id"] == groups["ms"] != groups["pt"]
    assert len({groups[code] for code in ("bs", "hr", "sr")}) == 1
    joined = equal_groups(GatesConfig(equal_languages=(("ms", "sr"),)))
    assert len(set(joined.values())) == 1


def test_a_language_may_be_declared_equal_after_measuring() -> None:
    facts = measure(
        [prompt("pt")], ["Mi hermano trabaja en una panader\u00eda del centro."], ["stop"]
    )
    assert facts["wrong_lines"].to_pylist() == [["es"]]
    assert apply(facts, ["pt"], GatesConfig()).to_pylist() == [["language"]]
    equal = GatesConfig(equal_languages=(("es", "pt"),))
    assert apply(facts, ["pt"], equal).to_pylist() == [[]]


# --- rates ----------------------------------------------------------------------------------------


def test_rates_are_what_counting_by_hand_gives() -> None:
    draw = random.Random(0)
    rows: list[dict[str, Any]] = []
    for _ in range(400):
        wrong = draw.choice([[], [], ["en"], ["ms"], ["en", "fr"]])
        letters = draw.choice([0, 0, 1, 5])
        row = {
            "truncated": draw.random() < 0.2,
            "empty": False,
            "repetition": draw.choice([0, 0.5]),
        }
        row |= {"refusal": draw.random() < 0.1, "instruction": False, "words": 9, "lines": 4}
        row |= {"foreign_words": min(letters, 1), "foreign_letters": letters, "wrong_lines": wrong}
        rows.append(row if draw.random() < 0.9 else dict.fromkeys(FACTS.names))
    teachers = [draw.choice(["a", "b"]) for _ in rows]
    languages = [draw.choice(["id", "vi", "de"]) for _ in rows]
    facts = pa.Table.from_pylist(rows, schema=FACTS)
    found = confusion_rates(facts, teachers, languages, GatesConfig())
    for (teacher, language), rates in found.items():
        mine = [
            row
            for row, who, code in zip(rows, teachers, languages, strict=True)
            if (who, code) == (teacher, language) and row["truncated"] is not None
        ]
        equal = {"id", "ms"} if language == "id" else {language}
        right = [row for row in mine if set(row["wrong_lines"]) <= equal]
        clean = [row for row in right if row["foreign_words"] == 0]
        assert (rates.candidates, rates.line_level) == (len(mine), len(right) / len(mine))
        assert rates.word_level == len(clean) / len(right)
        assert rates.failed["repetition"] == sum(row["repetition"] > 0.02 for row in mine)
        assert rates.failed["script"] == sum(row["foreign_letters"] > 2 for row in mine)
        assert rates.failed["truncated"] == sum(row["truncated"] for row in mine)
    assert len(found) == 6
    halves = [slice(0, 150), slice(150, None)]
    summed: dict[tuple[str, str], gates.Rates] = {}
    for part in halves:
        some = facts[part.start : part.stop]
        for key, rates in confusion_rates(
            some, teachers[part], languages[part], GatesConfig()
        ).items():
            summed.setdefault(key, gates.Rates()).add(rates)
    assert summed == found
    assert gates.Rates().line_level is gates.Rates().word_level is None


# --- by example -----------------------------------------------------------------------------------


def test_three_han_letters_in_a_vietnamese_answer_fail() -> None:
    text = (
        "Th\u1ee7 \u0111\u00f4 c\u1ee7a \u6c34\u706b\u6728 n\u01b0\u1edbc Ph\u00e1p l\u00e0 Paris."
    )
    assert gates_of(text, "vi") == ["script"]
    assert gates_of(text, "vi", max_foreign_letters=3) == []
    assert facts_of(text, "vi")["foreign_words"] == 1
    assert gates_of(text, "vi", "\u6c34\u706b\u6728 ngh\u0129a l\u00e0 g\u00ec?") == []


def test_a_loop_fails() -> None:
    assert gates_of("The answer is yes. The answer is yes. The answer is yes.") == ["repetition"]
    assert "repetition" in gates_of("I sing la la la la la la la la.")


ENGLISH = "The old library is closed every Monday from nine to five."


def test_an_answer_in_another_language_fails_unless_it_was_asked_for() -> None:
    assert gates_of(ENGLISH, "de", "Wann ist die Bibliothek zu?") == ["language"]
    assert gates_of(ENGLISH, "de", "\u00dcbersetze das bitte ins Englische.") == []
    assert gates_of(ENGLISH, "de", "Please translate this into English.") == []
    assert gates_of(ENGLISH, "de", f"Was heisst das?\n\n{ENGLISH}") == []
    assert gates_of(ENGLISH, "de", f"Was bedeutet \u201e{ENGLISH}\u201c?") == []


def test_a_system_prompt_shows_no_language() -> None:
    system = {"role": "system", "content": "You are a helpful assistant who answers in English."}
    turn = {"role": "user", "content": "Wann ist die Bibliothek geschlossen?"}
    asked = Prompt("x", "de", [system, turn])  # type: ignore[list-item]
    facts = measure([asked], [ENGLISH], ["stop"])
    assert facts["wrong_lines"].to_pylist() == [["en"]]


def test_a_share_of_wrong_lines_is_allowed() -> None:
    line = "Die alte Bibliothek ist jeden Montag von neun bis f\u00fcnf Uhr geschlossen.\n"
    assert gates_of(line * 1 + ENGLISH, "de", repetition=False) == ["language"]
    different = "".join(
        f"Im {name} ist die alte Bibliothek nur an wenigen Tagen f\u00fcr uns offen.\n"
        for name in ("Januar", "Februar", "April", "Juni", "August")
    )
    assert facts_of(different + ENGLISH, "de")["wrong_lines"] == ["en"]
    assert gates_of(different + ENGLISH, "de") == []
    assert gates_of(different + ENGLISH, "de", max_wrong_lines=0.1) == ["language"]


# --- figures that hold ----------------------------------------------------------------------------


@cache
def micro() -> list[Answer]:
    return micro_answers()


@pytest.mark.parametrize("language", LANGUAGES)
def test_at_most_one_right_answer_in_a_hundred_is_stopped(language: str) -> None:
    mine = [answer for answer in (*micro(), *bench_gates.everyday()) if answer.language == language]
    hits = alarms(mine)[language]
    assert len(hits) > 250
    assert sum(hits) <= 0.01 * len(hits)


def test_planted_faults_are_caught() -> None:
    found = caught(
        [answer for answer in micro() if answer.key.split("/")[0] not in ("sum", "count")]
    )
    shares: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    for (kind, language), hits in found.items():
        shares[kind] += sum(hits)
        sizes[kind] += len(hits)
        if kind in ("empty", "cut off"):
            assert all(hits), (kind, language)
        if kind == "three foreign letters":
            assert sum(hits) >= 0.95 * len(hits), (kind, language)
        if kind == "other family, sentence":
            assert sum(hits) >= 0.98 * len(hits), (kind, language)
    bounds = {
        "looped": 0.995,
        "three foreign letters": 0.99,
        "other family, sentence": 0.99,
        "other family, 5 words": 0.98,
        "sibling, sentence": 0.94,
        "sibling, 5 words": 0.92,
    }
    told = {kind: shares[kind] / sizes[kind] for kind in bounds}
    assert {kind: share for kind, share in told.items() if share < bounds[kind]} == {}


def test_the_mgsm_questions_pass_and_those_of_another_language_fail() -> None:
    if not MGSM.is_dir():
        pytest.skip("the MGSM questions are not beside this checkout (../shared/data/mgsm)")
    questions = bench_gates.mgsm(MGSM)
    assert len(questions) == 2750
    for language, hits in alarms(questions).items():
        assert sum(hits) <= 0.01 * len(hits), language
    codes = sorted({answer.language for answer in questions})
    others = {code: codes[(place + 1) % len(codes)] for place, code in enumerate(codes)}
    texts = {(answer.key, answer.language): answer.text for answer in questions}
    given = [texts[answer.key, others[answer.language]] for answer in questions]
    names = failed(questions, given)
    stopped = sum(bool({"language", "script"} & set(found)) for found in names)
    assert stopped >= 0.99 * len(questions)


def test_every_language_of_the_table_can_be_asked_for() -> None:
    rows = len(table())
    facts = measure([prompt(code) for code in table()], [ENGLISH] * rows, ["stop"] * rows)
    found = zip(table(), facts["wrong_lines"].to_pylist(), strict=True)
    silent = {code for code, wrong in found if wrong != ["en"]}
    labels = {parse_tag(label) for label in Detector()._glancer.labels}
    assert silent == {"en", *(set(table()) - labels)}
