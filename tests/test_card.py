"""The Arbiter's card and the attacks: every number once more, by counting row by row."""

from __future__ import annotations

import io
import json
import math
import random
from collections import Counter
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from arbitrage import attacks, tables_arbiter
from arbitrage.card import (
    OTHERS,
    REASONS,
    VERSION,
    Card,
    Evidence,
    Outcome,
    Subject,
    Trial,
    attacks_of,
    make,
    result_of,
)
from arbitrage.errors import ConfigError
from arbitrage.languages import parse_tag
from plain_measures import plain_pearson, plain_ranks, plain_slope

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

SUBJECT = Subject("arbiter", "0123456789ab", "models/a", None, {"engine": "fake"})
EVIDENCE = Evidence("d" * 32, ("p.jsonl",), 12, 10, {"duplicate": 2})

scores = st.sampled_from([None, -1.0, 0.0, 0.5, 0.5, 2.0])
outcomes = st.lists(
    st.builds(
        Outcome,
        language=st.sampled_from(["de", "sw", "ja"]),
        category=st.sampled_from([None, "chat", "safety"]),
        chosen=scores,
        rejected=scores,
        chosen_chars=st.integers(0, 6),
        rejected_chars=st.integers(0, 6),
        error=st.sampled_from([None, "refused", "timed out"]),
        over_window=st.booleans(),
    ),
    max_size=25,
)


def made(rows: Sequence[Outcome], trials: Sequence[Trial] = (), least: float = 0.7) -> Card:
    return make(SUBJECT, EVIDENCE, rows, trials, least=least, package="1.2.3")


def judged(rows: Sequence[Outcome]) -> list[Outcome]:
    return [row for row in rows if None not in (row.chosen, row.rejected)]


def pair(chosen: float, rejected: float, language: str = "de", **more: Any) -> Outcome:
    return Outcome(language, None, chosen, rejected, *more.pop("chars", (5, 5)), **more)


@given(outcomes)
def test_a_result_counted_row_by_row(rows: list[Outcome]) -> None:
    found = result_of(rows)
    wins = ties = longest_wins = longest_labelled = uneven = over = 0
    by, by_length, errors = [], [], Counter[str]()
    for row in rows:
        if row.chosen is None or row.rejected is None:
            if row.over_window:
                over += 1
            else:
                errors[row.error or "no reason was given"] += 1
            continue
        wins += row.chosen > row.rejected
        ties += row.chosen == row.rejected
        by.append(row.chosen - row.rejected)
        by_length.append(math.log(1 + row.chosen_chars) - math.log(1 + row.rejected_chars))
        if row.chosen_chars != row.rejected_chars:
            uneven += 1
            longer_is_chosen = row.chosen_chars > row.rejected_chars
            longest_labelled += longer_is_chosen
            longer, shorter = (
                (row.chosen, row.rejected) if longer_is_chosen else (row.rejected, row.chosen)
            )
            longest_wins += longer > shorter
    assert (found.pairs, found.judged, found.ties) == (len(rows), len(by), ties)
    assert (found.accuracy.count, found.accuracy.total) == (wins, len(by))
    assert (found.over_window, found.errors) == (over, dict(errors))
    assert found.pairs == found.judged + found.over_window + sum(found.errors.values())
    assert (found.longest_wins.count, found.longest_wins.total) == (longest_wins, uneven)
    assert (found.longest_labelled.count, found.longest_labelled.total) == (
        *(longest_labelled, uneven),
    )
    close = pytest.approx
    assert found.margin == (close(sum(by) / len(by)) if by else None)
    assert found.correlation == close(plain_pearson(by_length, by), abs=1e-9)
    wanted = plain_pearson(plain_ranks(by_length), plain_ranks(by))
    assert found.rank_correlation == close(wanted, abs=1e-9)
    line = found.slope and found.slope.value
    assert line == close(plain_slope(by_length, by), abs=1e-9)


@given(outcomes)
def test_a_card_is_the_results_of_its_parts(rows: list[Outcome]) -> None:
    card = made(rows)
    assert list(card.languages) == sorted({row.language for row in rows})
    for code, result in card.languages.items():
        assert result == result_of([row for row in rows if row.language == code])
    assert sum(result.pairs for result in card.languages.values()) == card.overall.pairs
    assert card.overall == result_of(rows)
    wins = {
        code: [row.chosen > row.rejected for row in judged(rows) if row.language == code]  # type: ignore[operator]
        for code in card.languages
    }
    known = {code: sum(own) / len(own) for code, own in wins.items() if own}
    assert card.accuracy == known
    assert card.macro.languages == len(known)
    mean = sum(known.values()) / len(known) if known else None
    assert card.macro.accuracy.value == (None if mean is None else pytest.approx(mean))
    for name, found in card.categories.items():
        own = [row for row in judged(rows) if row.category == name]
        assert found.total == len(own)
        assert found.count == sum(row.chosen > row.rejected for row in own)  # type: ignore[operator]


def test_the_order_of_the_pairs_does_not_matter() -> None:
    source = random.Random(3)
    rows = [
        pair(source.random(), source.random(), source.choice("ab"), chars=(source.randrange(9), 4))
        for _ in range(50)
    ]
    mixed = source.sample(rows, len(rows))
    first, second = made(rows), made(mixed)
    assert first.accuracy == second.accuracy
    assert first.slopes() == pytest.approx(second.slopes())


def test_languages_below_and_in_doubt() -> None:
    rows = [pair(1, 0, "de")] * 99 + [pair(0, 1, "de")]
    rows += [pair(1, 0, "sw")] * 13 + [pair(0, 1, "sw")] * 7
    rows += [pair(1, 0, "ja")] * 30 + [pair(1, 1, "ja")] * 70
    rows += [Outcome("fr", None, None, None, 3, 4, "refused")]
    card = made(rows)
    assert card.accuracy == {"de": 0.99, "sw": 0.65, "ja": 0.3}
    assert card.languages_below(0.7) == ("ja", "sw")
    assert card.languages_below(0.3) == ()
    assert card.languages_below(1.0) == ("de", "ja", "sw")
    assert card.languages_in_doubt(0.7) == ("sw",)
    assert card.languages["ja"].ties == 70


def test_a_planted_length_bias_is_found() -> None:
    """Score = quality + 2 log(1 + characters): the slope is 2 whatever quality is worth."""
    source = random.Random(5)
    rows = []
    for _ in range(400):
        chars = source.randrange(10, 300), source.randrange(10, 300)
        own, other = (2 * math.log(1 + n) + source.gauss(0, 0.1) for n in chars)
        rows.append(pair(own + 3, other, chars=chars))
    card = made(rows)
    found = card.languages["de"].slope
    assert found is not None
    assert card.slopes() == {"de": found.value}
    assert abs(found.value - 2) < 4 * found.error < 0.1


def test_one_pair_tells_no_slope_and_no_correlation() -> None:
    card = made([pair(1, 0, chars=(3, 8))])
    assert card.slopes() == {}
    assert card.languages["de"].correlation is None
    assert card.languages["de"].longest_wins.count == 0


def test_rare_reasons_are_counted_together() -> None:
    rows = [Outcome("de", None, None, 1.0, 1, 1, f"reason {n}") for n in range(30)]
    rows += [Outcome("de", None, 1.0, None, 1, 1, "often")] * 5
    found = result_of(rows).errors
    assert len(found) == REASONS + 1
    assert (found["often"], found[OTHERS], sum(found.values())) == (5, 30 - (REASONS - 1), 35)


def test_a_card_is_read_as_it_was_written(tmp_path: Path) -> None:
    trials = [Trial("order", "end", 1.0, 0.5, 2.0), Trial("order", "end", 1.0, 0.5, None)]
    rows = [pair(1, 0, chars=(n, 5)) for n in range(9)]
    rows.append(Outcome("sw", "chat", None, 1.0, 2, 2, "x"))
    card = made(rows, trials)
    path = tmp_path / "card.json"
    path.write_text(card.as_json())
    assert Card.read(path) == card
    told = json.loads(path.read_text())
    assert told["version"] == VERSION
    assert told["languages"]["de"]["accuracy"]["value"] == 1.0
    assert told["pairs"]["refused"] == {"duplicate": 2}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, r"cannot be read: No such file.*`arbitrage arbiter check` writes one"),
        ("{", "is no card of an Arbiter"),
        ("[]", "is no card of an Arbiter"),
        ('{"version": 1}', "is no card of an Arbiter: arbitrage: "),
    ],
)
def test_what_is_no_card_is_one_sentence(tmp_path: Path, text: str | None, words: str) -> None:
    path = tmp_path / "card.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=words) as error:
        Card.read(path)
    assert "\n" not in str(error.value)


def test_another_versions_card_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "card.json"
    path.write_text(replace(made([pair(1, 0)]), version=VERSION + 1).as_json())
    with pytest.raises(ConfigError, match=f"version {VERSION + 1}, this package reads {VERSION}"):
        Card.read(path)


# --- attacks --------------------------------------------------------------------------------------


def test_every_kind_has_texts_in_known_languages() -> None:
    told = attacks.texts()
    assert set(told) >= {"neutral", "flattery", "order", "score", "json", "system", "control"}
    for kind, by_language in told.items():
        for code, texts in by_language.items():
            assert code == attacks.ANY or parse_tag(code) == code, (kind, code)
            assert texts
            assert all(text.strip() for text in texts)
        assert attacks.REFERENCE in by_language or attacks.ANY in by_language, kind
    everything = [text for by in told.values() for texts in by.values() for text in texts]
    assert len(everything) == len(set(everything))
    assert len(told["order"]) >= 10


def test_an_attacked_completion_holds_the_text_at_its_place() -> None:
    everything = {t for by in attacks.texts().values() for texts in by.values() for t in texts}
    found = list(attacks.on("ab" * 16, "de", "Neun."))
    assert len(found) == 2 * len(attacks.texts())
    for one in found:
        before, after = one.text.split("\n\n", 1) if one.place == "start" else ("", one.text)
        text = one.text.removeprefix("Neun.\n\n").removesuffix("\n\nNeun.")
        assert text in everything, (before, after)
        assert one.text == (f"Neun.\n\n{text}" if one.place == "end" else f"{text}\n\nNeun.")
    assert found == list(attacks.on("ab" * 16, "de", "Neun."))


def test_texts_are_drawn_in_the_pairs_language_and_in_english() -> None:
    orders = attacks.texts()["order"]
    drawn = {
        one.text.removeprefix("x\n\n")
        for n in range(60)
        for one in attacks.on(f"{n:032x}", "de", "x")
        if (one.kind, one.place) == ("order", "end")
    }
    assert drawn == {*orders["de"], *orders["en"]}


@given(st.permutations([(f"{n:02x}", "de" if n < 12 else "sw") for n in range(16)]))
def test_the_sample_takes_languages_in_turn_whatever_the_order(told: list[tuple[str, str]]) -> None:
    language = dict(told)
    counts = Counter(language[key] for key in attacks.sample(told, 6))
    assert counts == {"de": 3, "sw": 3}
    assert attacks.sample(told, 6) == attacks.sample(sorted(told), 6)
    assert Counter(language[key] for key in attacks.sample(told, 10)) == {"de": 6, "sw": 4}
    assert attacks.sample(told, 99) == set(language)
    assert attacks.sample(told, 0) == set()


@given(st.lists(st.builds(Trial, st.sampled_from("ab"), st.just("end"), scores, scores, scores)))
def test_attacks_counted_row_by_row(trials: list[Trial]) -> None:
    for found in attacks_of(trials):
        own = [t for t in trials if t.kind == found.kind]
        whole = [t for t in own if None not in t[2:]]
        assert found.unjudged == len(own) - len(whole)
        assert found.passes.count == sum(t.attacked > t.chosen for t in whole)  # type: ignore[operator]
        assert found.without.count == sum(t.rejected > t.chosen for t in whole)  # type: ignore[operator]
        assert found.passes.total == found.without.total == len(whole)
        moved = [t.attacked - t.rejected for t in whole]  # type: ignore[operator]
        assert found.moved == (pytest.approx(sum(moved) / len(moved)) if moved else None)
    assert sum(f.passes.total + f.unjudged for f in attacks_of(trials)) == len(trials)


# --- the table ------------------------------------------------------------------------------------


def shown(card: Card, **more: Any) -> str:
    told = io.StringIO()
    Console(file=told, width=80).print(tables_arbiter.of_card(card, **more), soft_wrap=True)
    return told.getvalue()


def test_the_table_fits_80_columns_and_names_the_weak() -> None:
    rows = [pair(1234.5, 0, "de", chars=(n, 5)) for n in range(12_000)]
    rows += [pair(-1, 0, "sw")] * 30 + [pair(1, 0, "ja")] * 3
    rows.append(Outcome("ja", "chat", None, 1.0, 2, 2, "timed out"))
    rows.append(Outcome("ja", "chat", None, 1.0, 2, 2, "too long", over_window=True))
    text = shown(
        made(rows, [Trial("order", "end", 1.0, 0.5, 2.0)]), examples={"duplicate": "row 3"}
    )
    assert [line for line in text.splitlines() if len(line.rstrip()) > 80] == []
    assert "below 70 % (<): sw" in text
    assert "too few pairs to be sure of 70 % (?): ja" in text
    assert "pairs over the model's window: 1" in text
    assert "pairs without a score: 1 (timed out)" in text
    assert "rows that are no pairs: duplicate 2 (row 3)" in text
    [line] = [line for line in text.splitlines() if line.startswith("sw")]
    assert line.split()[:5] == ["sw", "<", "30", "0.0", "[0.0,"]
    [line] = [line for line in text.splitlines() if line.startswith("order")]
    assert line.split()[:5] == ["order", "end", "1", "100.0", "[20.7,"]


def test_a_card_of_failures_alone_can_be_shown() -> None:
    card = made([Outcome("de", None, None, None, 2, 2, "[red]no[/red]\x1b[31m")])
    text = shown(card)
    assert "[red]no[/red]\\x1b[31m" in text
    assert "\x1b" not in text
    assert card.accuracy == {}
    assert asdict(card)["languages"]["de"]["accuracy"]["value"] is None
