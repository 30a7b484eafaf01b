"""The language table, tags, families, and the detector."""

import json
import re
from collections import Counter
from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from arbitrage import languages
from arbitrage.languages import Detector, families, parse_tag, table

SENTENCES = json.loads((Path(__file__).parent / "data/sentences.json").read_text("utf-8"))
REQUIRED = sorted(SENTENCES)
QUICKSTART = Path(__file__).parents[1] / "data/everyday/prompts.jsonl"
MGSM = Path(__file__).resolve().parents[2] / "shared/data/mgsm"


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector()


def test_every_code_stands_once() -> None:
    rows = table().values()
    tags = Counter(tag for row in rows for tag in [*{row.code, row.iso3}, *row.aliases])
    assert [tag for tag, uses in tags.items() if uses > 1] == []
    assert all(parse_tag(tag) for tag in tags)


@pytest.mark.parametrize("row", table().values(), ids=list(table()))
def test_every_row_is_complete(row: languages.Language) -> None:
    assert re.fullmatch("[a-z]{2,3}", row.code)
    assert re.fullmatch("[a-z]{3}", row.iso3)
    assert len(row.code) == 2 or row.code == row.iso3
    assert re.fullmatch("[A-Z][a-z]{3}", row.script)
    assert re.fullmatch("[a-z]+(-[a-z]+)*", row.family)
    assert row.name == row.name.strip() != ""
    assert list(row.aliases) == sorted(set(row.aliases))
    assert all(re.fullmatch("[a-z]{2,3}", alias) for alias in row.aliases)


def test_the_table_holds_the_required_languages_in_order_and_is_immutable() -> None:
    assert len(REQUIRED) == 27
    assert set(REQUIRED) <= set(table())
    assert list(table()) == sorted(table())
    assert table() is table()
    with pytest.raises(TypeError):
        table()["xx"] = table()["de"]  # type: ignore[index]
    with pytest.raises(FrozenInstanceError):
        table()["de"].family = "romance"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        ("EN", "en"),
        ("deu", "de"),
        ("ger", "de"),
        ("iw", "he"),
        ("in", "id"),
        ("fre", "fr"),
        ("pt_BR", "pt"),
        ("sr-Latn", "sr"),
        ("zh-Hant-TW", "zh"),
        ("ZH_hans_cn", "zh"),
        ("zh-yue-HK", "zh"),
        ("cmn", "zh"),
        ("yue", "zh"),
        ("arb", "ar"),
        ("arz", "ar"),
        ("pes", "fa"),
        ("swh", "sw"),
        ("nb", "no"),
        ("nn-NO", "no"),
        ("fil", "tl"),
        ("es-419", "es"),
        ("de-CH-1901", "de"),
        ("de-DE-u-co-phonebk", "de"),
        ("en-x-plain", "en"),
    ],
)
def test_a_tag_names_its_language(tag: str, code: str) -> None:
    assert parse_tag(tag) == code


@pytest.mark.parametrize(
    "tag",
    [
        *("", "-", "e", "xx", "qqq", "english", "German", "en-", "-en", "en--US", "en US", " en"),
        *("en\n", "x-plain", "i-klingon", "en-x", "de-DE-DE", "pt_BR.UTF-8", "\u212ao", "d\u00e9"),
    ],
)
def test_an_unknown_or_malformed_tag_names_nothing(tag: str) -> None:
    assert parse_tag(tag) is None


@given(st.text() | st.from_regex(r"[a-zA-Z]{2,3}([-_][a-zA-Z0-9]{1,8}){0,3}", fullmatch=True))
@example("\ud800")
def test_any_string_is_a_known_code_or_nothing(tag: str) -> None:
    code = parse_tag(tag)
    assert code is None or (code in table() and parse_tag(code) == code)


def test_families_come_from_the_table() -> None:
    assert families() == {code: row.family for code, row in table().items()}
    assert families({}) == families()


def test_a_redefined_family_is_exactly_what_it_lists() -> None:
    after = families({"germanic": ["de", "nl_NL", "eng"], "asian": ["zh-Hant", "ja", "ko"]})
    assert {code for code, family in after.items() if family == "germanic"} == {"de", "nl", "en"}
    assert {code for code, family in after.items() if family == "asian"} == {"zh", "ja", "ko"}
    assert after["sv"] == "sv"
    assert "sinitic" not in after.values()
    assert after["fr"] == "romance"


def test_a_language_may_move_between_redefined_families() -> None:
    after = families({"romance": ["es", "pt"], "germanic": ["en", "fr"]})
    assert (after["fr"], after["es"], after["it"], after["de"]) == (
        "germanic",
        "romance",
        "it",
        "de",
    )
    assert families({"germanic": []})["de"] == "de"


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        ({"a": ["de", "klingon"]}, "'klingon' in 'a' is not a language"),
        ({"a": ["nb"], "b": ["nn"]}, "'no' is in 'a' and in 'b'"),
        ({"de": ["fr"]}, "'de' is the code of a language it does not list"),
    ],
)
def test_a_wrong_redefinition_is_refused(overrides: dict[str, list[str]], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        families(overrides)


@pytest.mark.parametrize("code", REQUIRED)
def test_a_sentence_is_recognised(detector: Detector, code: str) -> None:
    found = detector.detect(SENTENCES[code])
    assert found.language == code
    assert 0.5 < found.confidence <= 1.0
    assert detector.contradicts(SENTENCES[code], code) is None


@pytest.mark.parametrize("code", REQUIRED)
def test_a_sentence_contradicts_languages_of_other_families(detector: Detector, code: str) -> None:
    others = [x for x in REQUIRED if families()[x] != families()[code]]
    found = {other: detector.contradicts(SENTENCES[code], other) for other in others}
    assert {other: row.language if row else None for other, row in found.items()} == dict.fromkeys(
        others, code
    )


@pytest.mark.parametrize("text", ["", "   \n", "2 + 2 = 4?", "\U0001f600 !!", "OK", "New York"])
def test_no_language_is_named_without_evidence(detector: Detector, text: str) -> None:
    assert detector.detect(text).language is None
    assert all(detector.contradicts(text, code) is None for code in table())


@pytest.mark.parametrize(
    "text", ["Taxi?", "Lloyd George", "Pizza Margherita", "def f(x): return x"]
)
def test_names_and_short_texts_contradict_nothing(detector: Detector, text: str) -> None:
    assert [code for code in table() if detector.contradicts(text, code)] == []


def test_siblings_and_variants_get_the_benefit_of_the_doubt(detector: Detector) -> None:
    assert detector.contradicts(SENTENCES["id"], "ms") is None
    assert detector.contradicts(SENTENCES["zh"], "yue") is None
    assert detector.contradicts(SENTENCES["ar"], "arz") is None


def test_a_request_to_translate_is_in_the_language_of_the_request(detector: Detector) -> None:
    request = (
        "Bitte \u00fcbersetze den folgenden Absatz in einfaches Deutsch, ohne etwas wegzulassen:"
    )
    assert detector.contradicts(f"{request}\n\n{SENTENCES['en']}", "de") is None
    assert detector.contradicts(f"{SENTENCES['en']}\n\n{request}", "de") is None


def test_a_language_outside_the_detector_is_never_contradicted(detector: Detector) -> None:
    for declared in ("yi", "su", "unknown", ""):
        assert detector.contradicts(SENTENCES["en"], declared) is None


def test_the_shared_identifier_of_the_library_is_left_alone(detector: Detector) -> None:
    langid = pytest.importorskip("py3langid.langid")
    assert detector.detect(SENTENCES["de"]).language == "de"
    assert langid.IDENTIFIER is None or len(langid.IDENTIFIER.labels) == 140


@given(text=st.text(max_size=60))
@example(text="\ud800 \ud800")
def test_any_text_has_an_answer(detector: Detector, text: str) -> None:
    found = detector.detect(text)
    assert found.language is None or found.language in table()
    assert 0.0 <= found.confidence <= 1.0
    assert detector.contradicts(text, "de") in (None, found)


def test_the_quickstart_prompts_are_in_their_languages(detector: Detector) -> None:
    rows = [json.loads(line) for line in QUICKSTART.read_text("utf-8").splitlines()]
    assert [row["id"] for row in rows] == [f"{x}-{n:02}" for x in REQUIRED for n in range(1, 13)]
    assert all(row["id"].startswith(row["language"]) for row in rows)
    assert len({row["prompt"] for row in rows}) == len(rows)
    assert [row for row in rows if detector.contradicts(row["prompt"], row["language"])] == []


def test_no_mgsm_question_contradicts_its_language(detector: Detector) -> None:
    questions = _mgsm()
    assert len(questions) == 2750
    for cut in (None, 40, 20):
        wrong = [(x, q) for x, q in questions if detector.contradicts(q[:cut], x)]
        assert wrong == []
    named = [code for code, question in questions if detector.detect(question).language == code]
    assert len(named) >= 2740


def test_nearly_every_mgsm_question_contradicts_a_wrong_language(detector: Detector) -> None:
    wrong = {"bn": "te", "de": "es", "en": "fr", "es": "en", "fr": "de", "ja": "zh"}
    wrong |= {"ru": "bg", "sw": "en", "te": "th", "th": "ja", "zh": "ja"}
    questions = _mgsm()
    for cut, share in ((None, 0.99), (40, 0.85)):
        found = [1 for x, q in questions if x != "ru" and detector.contradicts(q[:cut], wrong[x])]
        assert len(found) >= share * 2500
    siblings = [1 for x, q in questions if x == "ru" and detector.contradicts(q, wrong[x])]
    assert len(siblings) >= 0.7 * 250


def _mgsm() -> list[tuple[str, str]]:
    if not MGSM.is_dir():
        pytest.skip("the MGSM questions are not beside this checkout (../shared/data/mgsm)")
    return [
        (path.stem.removeprefix("mgsm_"), line.split("\t")[0])
        for path in sorted(MGSM.glob("mgsm_*.tsv"))
        for line in path.read_text("utf-8").splitlines()
    ]


@pytest.mark.parametrize("code", REQUIRED)
def test_a_sentence_strays_from_every_other_language(detector: Detector, code: str) -> None:
    found = detector.strays([SENTENCES[code]] * len(REQUIRED), REQUIRED)
    assert dict(zip(REQUIRED, found, strict=True)) == {
        other: None if other == code else code for other in REQUIRED
    }


def test_a_stray_text_leads_by_the_difference_of_two_scores(detector: Detector) -> None:
    for expected in ("nl", "sv", "pt"):
        for text in (
            SENTENCES["de"],
            SENTENCES["es"],
            "de groene auto",
            "Nine plus ten is nineteen.",
        ):
            plain = detector._identifier
            raw = dict(zip(plain.nb_classes, plain._raw_score(plain._encode(text)), strict=False))
            best = max(raw, key=raw.__getitem__)
            ((code, lead),) = detector._leads([text], [expected])
            assert code == parse_tag(best)
            assert lead == pytest.approx(raw[best] - raw[expected], abs=1e-3)


@pytest.mark.parametrize("text", ["", "   ", "12 + 13 = 25, 25 + 25", "OK", "\U0001f600 " * 20])
def test_what_shows_no_language_does_not_stray(detector: Detector, text: str) -> None:
    assert detector.strays([text] * len(table()), list(table())) == [None] * len(table())


def test_no_mgsm_question_strays_and_nearly_all_do_from_another_language(
    detector: Detector,
) -> None:
    questions = _mgsm()
    found = detector.strays([text for _, text in questions], [code for code, _ in questions])
    assert [code for code in found if code] == []
    codes = sorted({code for code, _ in questions})
    others = [codes[(codes.index(code) + 1) % len(codes)] for code, _ in questions]
    assert sum(map(bool, detector.strays([text for _, text in questions], others))) == 2750


def test_a_glance_names_what_py3langid_names(detector: Detector) -> None:
    texts = [*SENTENCES.values(), "", "12 + 3", "OK", "\u4f60\u597d", "x" * 500, "\udcff"]
    cut = [text[:size] for text in texts for size in (8, 16, 40, 400)]
    plain = detector._identifier
    labels = plain.nb_classes
    for text, label in zip(cut, detector._glancer.glance(cut), strict=True):
        raw = plain._raw_score(plain._encode(text))
        nothing = not raw.any()
        for first, twin in plain._alias_pairs:
            raw[first], raw[twin] = max(raw[first], raw[twin]), -1e30
        assert label == ("" if nothing else labels[int(raw.argmax())])
