"""Judgements of other tools: every form is read as the tool itself counts it.

The rates are computed again here from the rows as they are written, in plain Python.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arbitrage.errors import InputError
from arbitrage.stats.outcomes import FIRST_SHOWN, SECOND_SHOWN, Outcomes
from arbitrage.winrate.choices import AnalysisConfig
from arbitrage.winrate.recorded import Recorded, read_recorded
from arbitrage.winrate.recorded_forms import FORMS, VERDICTS, label_score

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from _pytest.tmpdir import TempPathFactory

Row = dict[str, Any]
FIVE = ("A>>B", "A>B", "A=B", "B>A", "B>>A")
V1_WEIGHTS = {"A>>B": 3, "A>B": 1, "A=B": 1, "B>A": 1, "B>>A": 3}
LABELS = st.sampled_from([*FIVE, None, "error", "null game"])
CHOICES = AnalysisConfig()


def write(path: Path, rows: Sequence[Row]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def rate(outcomes: Outcomes, model: str) -> float:
    """Plain mean of a model's weighted scores, game by game."""
    wins = games = 0.0
    for n in range(len(outcomes)):
        first, second = (outcomes.models[side[n]] for side in (outcomes.first, outcomes.second))
        if math.isnan(outcomes.score[n]) or model not in (first, second):
            continue
        share = outcomes.score[n] if first == model else 1 - outcomes.score[n]
        wins += share * outcomes.weight[n]
        games += outcomes.weight[n]
    return wins / games


def game(label: str | None) -> Row | None:
    if label == "null game":
        return None
    return {"user_prompt": "p", "judgment": "long text", "score": label}


def v1(question: str, *labels: str | None, model: str = "m", **more: Any) -> Row:
    games = [game(label) for label in labels]
    return {"question_id": question, "model": model, "judge": "j", "games": games, **more}


def v2(question: str, *labels: str | None, model: str = "m", **more: Any) -> Row:
    told = {"uid": question, "category": "hard_prompt", "judge": "j", "baseline": "b", **more}
    return {**told, "model": model, "games": [game(label) for label in labels]}


def note(question: str, preference: Any, model: str = "m", **more: Any) -> Row:
    told = {"instruction": question, "generator_1": "b", "generator_2": model, "annotator": "j"}
    return {**told, "preference": preference, "dataset": "d", **more}


def own(question: str, **more: Any) -> Row:
    told = {"question": question, "language": "de", "category": "c", "judge": "j"}
    return {**told, "model": "m", "opponent": "b", **more}


def read(path: Path, **told: Any) -> Recorded:
    return read_recorded([path], told.pop("choices", CHOICES), **told)


def test_in_the_first_game_of_arena_hard_a_is_the_baseline_and_in_the_second_the_model(
    tmp_path: Path,
) -> None:
    found = read(write(tmp_path / "m.jsonl", [v1("q", "A>>B", "A>B")]))
    games = found.outcomes
    assert games.models == ("m", "gpt-4-0314")
    assert found.baseline == "gpt-4-0314"
    assert games.position.tolist() == [SECOND_SHOWN, FIRST_SHOWN]
    assert games.score.tolist() == [0, 1]
    assert games.weight.tolist() == [3, 1]
    assert games.question.tolist() == games.prompt.tolist() == [0, 0]
    assert (games.judges, games.languages, games.categories) == (("j",), ("",), ("",))


@pytest.mark.parametrize("label", [*VERDICTS, " a >> b ", "[[B=A]]", "a<b"])
def test_every_label_says_what_it_says_from_both_sides(label: str) -> None:
    score, strong, reason = label_score(label)
    plain = label.upper().replace(" ", "").strip("[]")
    left, sign, right = plain[0], plain[1:-1], plain[-1]
    better = left if ">" in sign else right
    assert reason == ""
    assert score == (0.5 if sign == "=" else float(better == "A"))
    assert strong == (len(sign) == 2)


@pytest.mark.parametrize("label", ["A>>>B", "AB", "C>A", "error", 7, {"a": 1}, "A>>A"])
def test_what_is_no_label_is_no_verdict(label: Any) -> None:
    score, _, reason = label_score(label)
    assert math.isnan(score)
    assert reason


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=12), weight=st.integers(1, 5))
def test_arena_hards_rate_is_that_of_its_own_script(
    tmp_path_factory: TempPathFactory, rows: list[tuple[str | None, str | None]], weight: int
) -> None:
    """v0.1's rule: copies by weight, a game without a known label is out, its twin is not."""
    copies: list[float] = []
    for first, second in rows:
        for label, is_second in ((first, False), (second, True)):
            if label in V1_WEIGHTS:
                score = 0.5 if label == "A=B" else float(label.startswith("A") == is_second)
                copies += [score] * (weight if ">>" in label else 1)
    path = tmp_path_factory.mktemp("v1") / "m.jsonl"
    write(path, [v1(f"q{n}", *labels) for n, labels in enumerate(rows)])
    found = read(path, choices=AnalysisConfig(strong_weight=weight))
    lost = [label for row in rows for label in row if label not in V1_WEIGHTS]
    assert sum(one[3] for one in found.failures) == len(lost)
    assert len(found.outcomes) == 2 * len(rows)
    if copies:
        assert rate(found.outcomes, "m") == pytest.approx(sum(copies) / len(copies))
    else:
        assert np.isnan(found.outcomes.score).all()


def test_missing_games_are_games_without_verdict_and_their_reasons_are_counted(
    tmp_path: Path,
) -> None:
    rows = [
        v1("a", None, "A>B"),
        v1("b", "error", "A=B"),
        v1("c", "B>A"),
        v1("d", "null game", "B>A"),
    ]
    found = read(write(tmp_path / "m.jsonl", rows))
    assert len(found.outcomes) == 8
    assert np.isnan(found.outcomes.score).sum() == 4
    assert found.failures == [
        ("j", "m", "the game was not played, or its call failed", 2),
        ("j", "m", "the judge gave no verdict", 1),
        ("j", "m", "what is recorded is no verdict", 1),
    ]


def test_arena_hard_v2_names_its_baseline_and_its_rule(tmp_path: Path) -> None:
    rows = [v2("a", "A<<B", "B=A"), v2("b", None, "A>B")]
    found = read(write(tmp_path / "m.jsonl", rows))
    assert found.baseline == "b"
    assert found.rule == "prompt"
    assert found.outcomes.categories == ("hard_prompt",)
    assert found.outcomes.score[:2].tolist() == [1, 0.5]
    assert found.outcomes.weight[:2].tolist() == [3, 1]


def test_two_baselines_are_no_baseline_and_a_sentence_says_so(tmp_path: Path) -> None:
    rows = [v2("a", "A>B", "A>B"), v2("b", "A>B", "A>B", category="creative", baseline="g")]
    path = write(tmp_path / "m.jsonl", rows)
    found = read(path)
    assert found.baseline == ""
    assert "no common baseline (b, g)" in found.remarks[0]
    assert read(path, baseline="g").baseline == "g"
    with pytest.raises(InputError, match="no judgement is of the baseline 'x'; there are m, b, g"):
        read(path, baseline="x")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from([0, 1, 2, 1.5, None, math.nan]), st.floats(1, 2, allow_nan=False)
        ),
        min_size=1,
        max_size=15,
    )
)
def test_alpacaevals_rate_is_the_mean_preference(
    tmp_path_factory: TempPathFactory, preferences: list[float | None]
) -> None:
    path = tmp_path_factory.mktemp("alpaca") / "annotations.json"
    rows = [note(f"q{n}", one) for n, one in enumerate(preferences)]
    path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    shares = [(one or 1.5) - 1 for one in preferences if one is not None and one == one]
    found = read(path)
    assert found.baseline == "b"
    assert set(found.outcomes.position.tolist()) == {0}
    assert found.outcomes.categories == ("d",)
    assert sum(one[3] for one in found.failures) == len(preferences) - len(shares)
    if shares:
        assert rate(found.outcomes, "m") == pytest.approx(sum(shares) / len(shares))


def test_alpacaevals_outputs_tell_the_style(tmp_path: Path) -> None:
    rows = [note("q", 2, output_1="abc", output_2="abcdefghi"), note("r", 1)]
    games = read(write(tmp_path / "a.jsonl", rows)).outcomes
    assert games.styles == ("length", "headers", "lists", "bold")
    assert games.style is not None
    assert games.style[0].tolist() == [(9 - 3) / 12, 0, 0, 0]
    assert np.isnan(games.style[1]).all()


@settings(max_examples=80, deadline=None)
@given(rows=st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=12))
def test_battles_have_the_rate_of_their_rows_and_as_many_games_as_were_played(
    tmp_path_factory: TempPathFactory, rows: list[tuple[str | None, str | None]]
) -> None:
    """Written as Arena-Hard's own script writes them: a strong win is three rows."""
    winners = {"A": "model_a", "B": "model_b"}
    battles: list[Row] = []
    played = 0
    for n, pair in enumerate(rows):
        for label in pair:
            if label not in V1_WEIGHTS:
                continue
            played += 1
            winner = "tie" if label == "A=B" else winners[label[0]]
            row = {"question_id": f"q{n}", "model_a": "b", "model_b": "m", "winner": winner}
            battles += [row] * V1_WEIGHTS[label]
    if not battles:
        return
    path = write(tmp_path_factory.mktemp("battles") / "battles.jsonl", battles)
    found = read(path, choices=AnalysisConfig(strong_weight=7))
    shares = [{"model_a": 0, "model_b": 1}.get(row["winner"], 0.5) for row in battles]
    assert found.baseline == "b"
    assert len(found.outcomes) == played
    assert found.outcomes.weight.sum() == len(battles)
    assert rate(found.outcomes, "m") == pytest.approx(sum(shares) / len(shares))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from([*FIVE, None]), st.sampled_from(["model", "opponent", "m", "b", None])
        ),
        min_size=1,
        max_size=12,
    )
)
def test_our_own_form_says_a_of_the_answer_that_was_shown_first(
    tmp_path_factory: TempPathFactory, games: list[tuple[str | None, str | None]]
) -> None:
    rows = [
        own(f"q{n}", verdict=label, shown_first=shown) for n, (label, shown) in enumerate(games)
    ]
    found = read(write(tmp_path_factory.mktemp("own") / "own.jsonl", rows)).outcomes
    wins = weights = 0.0
    for label, shown in games:
        if label is None:
            continue
        a_is_model = shown in ("model", "m", None)
        weight = 3 if ">>" in label else 1
        wins += weight * (0.5 if label == "A=B" else float(label.startswith("A") == a_is_model))
        weights += weight
    places = {"model": 1, "m": 1, None: 0}
    assert found.position.tolist() == [places.get(shown, -1) for _, shown in games]
    if weights:
        assert rate(found, "m") == pytest.approx(wins / weights)


def test_our_own_form_takes_shares_and_is_all_against_all(tmp_path: Path) -> None:
    rows = [
        own("q", score=0.25, shown_first="opponent"),
        own("q", score=None),
        own("q", model="b", opponent="c", score=1),
        own("q", model="m", opponent="c", score=1),
    ]
    found = read(write(tmp_path / "own.jsonl", rows))
    assert found.baseline == ""
    assert found.outcomes.score[0] == 0.25
    assert np.isnan(found.outcomes.score[1])
    assert (found.outcomes.languages, found.outcomes.categories) == (("de",), ("c",))


def test_one_model_that_is_in_every_game_is_the_baseline(tmp_path: Path) -> None:
    rows = [own("q", score=1), own("q", model="b", opponent="c", score=1)]
    assert read(write(tmp_path / "own.jsonl", rows)).baseline == "b"


def test_folders_are_read_deeply_and_what_is_no_judgement_is_passed_over(tmp_path: Path) -> None:
    write(tmp_path / "deep/er/m.jsonl", [v1("a", "A>B", "A>B")])
    write(tmp_path / "deep/n.jsonl", [v1("a", "A>B", "B>A", model="n")])
    write(tmp_path / "deep/question.jsonl", [{"question_id": "a", "prompt": "p"}])
    (tmp_path / "deep/settings.json").write_text('{\n "a": 1\n}\n', encoding="utf-8")
    (tmp_path / "deep/leaderboard.csv").write_text("model,score\n", encoding="utf-8")
    found = read(tmp_path / "deep")
    assert found.outcomes.models == ("m", "n", "gpt-4-0314")
    assert found.remarks[0].startswith("2 files hold no judgements and were passed over (")
    by_pattern = read_recorded([tmp_path / "d*" / "**" / "?.jsonl"], CHOICES)
    assert len(by_pattern.outcomes) == 4
    twice = read_recorded([tmp_path / "deep", tmp_path / "deep" / "n.jsonl"], CHOICES)
    assert len(twice.outcomes) == 4, "a file that two paths lead to is read once"


def test_copies_of_a_file_count_once_and_repeated_rows_of_one_file_as_they_are(
    tmp_path: Path,
) -> None:
    rows = [v1("a", "A>B", "A>B"), v1("b", "A=B", None)]
    for name in ("one", "two"):
        write(tmp_path / "x" / name, []).with_suffix(".jsonl").write_text(
            "".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8"
        )
    found = read(tmp_path / "x")
    assert len(found.outcomes) == 4
    assert found.remarks == ["4 games stand in two files with one verdict; one counts"]
    assert found.failures == [("j", "m", "the judge gave no verdict", 1)]
    again = read(write(tmp_path / "again.jsonl", [*rows, rows[0]]))
    assert len(again.outcomes) == 6


def test_a_file_that_was_judged_again_counts_whole(tmp_path: Path) -> None:
    """Left out where they agree and kept where they do not, verdicts would be drawn to a tie."""
    write(tmp_path / "x/one.jsonl", [v1("a", "A>B", "A>B"), v1("b", "B>A", "A>B")])
    write(tmp_path / "x/two.jsonl", [v1("a", "B>A", "A>B"), v1("c", "B>A", "A>B")])
    found = read(tmp_path / "x")
    assert len(found.outcomes) == 8
    assert found.remarks == [
        "2 games were judged again in another file, some with other verdicts; all count"
    ]


def test_a_file_that_goes_on_from_a_copy_adds_what_is_new(tmp_path: Path) -> None:
    rows = [v1("a", "A>B", None), v1("b", "B>A", "A>B")]
    write(tmp_path / "x/one.jsonl", rows[:1])
    write(tmp_path / "x/two.jsonl", rows)
    write(tmp_path / "x/three.jsonl", [v1("a", "A>B", "B>>A")])
    found = read(tmp_path / "x")
    assert len(found.outcomes) == 4
    assert found.failures == []
    assert rate(found.outcomes, "m") == pytest.approx((0 + 0 * 3 + 1 + 1) / 6)


def test_a_game_that_was_judged_again_is_not_missing(tmp_path: Path) -> None:
    rows = [v1("a", None, "A>B"), v1("a", "B>A", "A>B")]
    found = read(write(tmp_path / "m.jsonl", rows))
    assert found.failures == []
    assert found.remarks == ["1 games without a verdict were judged again; that counts"]
    assert len(found.outcomes) == 3


def test_games_of_a_model_with_itself_are_left_out_and_told(tmp_path: Path) -> None:
    rows = [note("q", 1.5, model="b"), note("q", 2)]
    found = read(write(tmp_path / "a.jsonl", rows))
    assert len(found.outcomes) == 1
    assert found.remarks == ["games of a model with itself are left out: b 1"]
    with pytest.raises(InputError, match="no games between two models"):
        read(write(tmp_path / "b.jsonl", rows[:1]))


def test_questions_tell_language_and_category_and_translations_stay_one_question(
    tmp_path: Path,
) -> None:
    for code in ("de", "fr"):
        folder = tmp_path / f"m-arena-hard-{code}"
        write(folder / "question.jsonl", [{"question_id": "a", "category": f"m-ArenaHard-{code}"}])
        write(folder / "model_judgment/j/m.jsonl", [v1("a", "A>B", "A>B")])
    bench = write(tmp_path / "q.jsonl", [{"uid": "c", "language": "pt-BR", "category": "math"}])
    judged = write(tmp_path / "c.jsonl", [v1("c", "A>B", "A>B")])
    found = read_recorded(
        [tmp_path / "m-arena-hard-de/model_judgment", tmp_path / "m-arena-hard-fr", judged],
        CHOICES,
        questions=[bench, *sorted(tmp_path.glob("*/question.jsonl"), reverse=True)],
    )
    games = found.outcomes
    assert [games.languages[one] for one in games.language] == ["de", "de", "fr", "fr", "pt", "pt"]
    assert [games.categories[one] for one in games.category] == ["", "", "", "", "math", "math"]
    assert games.question.tolist() == [0, 0, 0, 0, 1, 1]
    assert games.prompt.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_question_of_several_languages_in_one_file_has_none(tmp_path: Path) -> None:
    rows = [{"id": "a", "language": code} for code in ("de", "fr")]
    found = read(
        write(tmp_path / "m.jsonl", [v1("a", "A>B", "A>B")]),
        questions=[write(tmp_path / "q.jsonl", rows)],
    )
    assert found.outcomes.languages == ("",)


def test_a_folder_with_judgements_is_a_folder_of_questions_too(tmp_path: Path) -> None:
    path = write(tmp_path / "bench/a.jsonl", [v1("a", "A>B", "A>B")])
    write(tmp_path / "bench/question.jsonl", [{"question_id": "a", "lang": "de"}])
    (tmp_path / "bench/settings.json").write_text('{\n"a": 1}', encoding="utf-8")
    found = read(path, questions=[tmp_path / "bench"])
    assert found.outcomes.languages == ("de",)
    assert found.remarks == []


def test_ids_with_another_language_in_two_folders_are_not_guessed(tmp_path: Path) -> None:
    for code in ("de", "fr"):
        rows = [{"id": "a", "language": code}, {"id": "b", "language": "it"}]
        write(tmp_path / code / "q.jsonl", rows)
    path = write(tmp_path / "m.jsonl", [v1("a", "A>B", "A>B"), v1("b", "A>B", "A>B")])
    found = read(path, questions=[tmp_path / "de", tmp_path / "fr"])
    assert found.outcomes.languages == ("", "it")


def test_questions_and_answers_that_fit_nothing_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", [v1("a", "A>B", "A>B")])
    other = write(tmp_path / "q.jsonl", [{"id": "z", "language": "de"}])
    answers = write(tmp_path / "b.jsonl", [{"id": "a", "model": "m", "completion": "x"}])
    found = read(path, questions=[other], answers=[answers])
    assert found.remarks == [
        "none of the questions is in the files of questions, by id or by text",
        "no game has both of its answers in the files of answers",
    ]
    assert found.outcomes.style is None
    with pytest.raises(InputError, match="row 1 is no question: it has none of question_id"):
        read(path, questions=[write(tmp_path / "x.jsonl", [{"x": 1}])])
    with pytest.raises(InputError, match="is no pattern"):
        read(tmp_path / "**x")


def test_style_comes_from_answers_in_tokens_where_both_tell_them(tmp_path: Path) -> None:
    def answer(name: str, uid: str, text: str, **more: Any) -> Row:
        return {
            "uid": uid,
            "model": name,
            "messages": [
                {"role": "user", "content": "p"},
                {"role": "assistant", "content": {"answer": text}},
            ],
            **more,
        }

    write(
        tmp_path / "answers/m.jsonl",
        [answer("m", "a", "# T\nxx", metadata={"token_len": 30}), answer("m", "b", "xxxx")],
    )
    write(
        tmp_path / "answers/b.jsonl",
        [answer("b", "a", "yy", metadata={"token_len": 10}), answer("b", "b", "yy")],
    )
    write(tmp_path / "answers/notes.jsonl", [{"note": 1}])
    rows = [v2("a", "A>B", "A>B"), v2("b", "A>B", "A>B"), v2("c", "A>B", "A>B")]
    games = read(write(tmp_path / "m.jsonl", rows), answers=[tmp_path / "answers"]).outcomes
    assert games.style is not None
    assert games.style[[0, 2], 0].tolist() == [(30 - 10) / 40, (4 - 2) / 6]
    assert games.style[0, 1] == pytest.approx((1 / 31) / (1 / 31 + 1))
    assert np.isnan(games.style[4:]).all()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"question_id": "a", "games": []', "row 1 is no JSON"),
        ('{"a": 1}', "has the fields 'a', which is no form of judgements; Arena-Hard v2 (uid"),
        ("", "has no rows, which is no form"),
        ("[1, 2]", "row 1 is no JSON object"),
        ("\xff", "is no UTF-8"),
        (json.dumps(v1("a", "A>B")) + '\n{"x": 1}', "row 2 is not of the form of the rows before"),
        (json.dumps({**v1("a", "A>B"), "model": None}), "'model or model_id' is missing"),
        (json.dumps({**v1("a", "A>B"), "games": {}}), "'games' is no list of two games"),
        (json.dumps(note("a", 3)), "'preference' is 3, not from 1 to 2"),
        (json.dumps(own("a", score=2)), "'score' is 2, not from 0 to 1"),
        (json.dumps(own("a", verdict="A>B", shown_first="z")), "'shown_first' is 'z'"),
    ],
)
def test_a_broken_file_is_named_with_its_row(tmp_path: Path, text: str, sentence: str) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError) as caught:
        read(path)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_list_that_was_cut_off_is_an_error_in_a_folder_too(tmp_path: Path) -> None:
    (tmp_path / "annotations.json").write_text('[{"instruction": "a",', encoding="utf-8")
    with pytest.raises(InputError, match="is no JSON"):
        read(tmp_path)


def test_a_folder_without_judgements_names_all_forms_and_a_path_to_nothing_says_so(
    tmp_path: Path,
) -> None:
    write(tmp_path / "x/q.jsonl", [{"a": 1}])
    with pytest.raises(InputError) as caught:
        read(tmp_path / "x")
    assert all(form.name in str(caught.value) for form in FORMS)
    with pytest.raises(InputError, match="leads to no file"):
        read(tmp_path / "nowhere*")


def test_names_of_models_are_kept_as_they_are(tmp_path: Path) -> None:
    name = "<script>\x1b[31m[bold]\u202e"
    found = read(write(tmp_path / "m.jsonl", [v1("a", "A>B", "A>B", model=name)]))
    assert found.outcomes.models[0] == name


def test_a_baseline_that_was_judged_itself_is_none_of_files_that_name_none(tmp_path: Path) -> None:
    path = write(tmp_path / "m.jsonl", [v1("a", "A>B", "A>B"), v1("a", "A>B", "B>A", model="n")])
    assert read(path, baseline="other").baseline == "other"
    with pytest.raises(InputError, match="row 2: n was judged itself"):
        read(path, baseline="n")
