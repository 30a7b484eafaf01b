"""Answers from files of other tools and of one's own: found by id and by text, never guessed."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from arbitrage.errors import InputError
from arbitrage.winrate.answer_files import read_answers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

Row = dict[str, Any]


def write(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def v2(uid: str, content: Any, prompt: str = "p") -> Row:
    messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": content}]
    return {"uid": uid, "ans_id": "x", "model": "m", "messages": messages}


def test_arena_hard_v2(tmp_path: Path) -> None:
    rows = [
        {**v2("a", {"answer": "one", "thought": "hm"}, "ask a"), "metadata": {"token_len": 3}},
        v2("b", "two", "ask b"),
        v2("c", [{"type": "text", "text": "th"}, {"type": "text", "text": "ree"}]),
    ]
    path = write(tmp_path / "other-name.jsonl", rows)
    found = read_answers(path)
    assert (found.model, found.texts, found.tokens) == (
        "m",
        ["one", "two", "three"],
        [3, None, None],
    )
    assert found.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert found.find("a", "", "de", "") == "one"
    assert found.find("zz", "b", "", "") == "two"
    assert found.find("zz", "yy", "", "ask b") == "two"
    assert found.find("zz", "", "", "ask z") is None


def test_arena_hard_v1(tmp_path: Path) -> None:
    rows = [
        {
            "question_id": "a",
            "answer_id": "x",
            "model_id": "m",
            "choices": [{"index": 0, "turns": [{"content": "one", "token_len": 4}]}],
        },
        {
            "question_id": "b",
            "model_id": "m",
            "choices": [{"turns": [{"content": "two"}]}],
            "conv_metadata": {"token_len": 9},
        },
    ]
    found = read_answers(write(tmp_path / "m.jsonl", rows))
    assert (found.model, found.tokens) == ("m", [4, 9])
    assert found.find("b", "", "", "") == "two"


def test_alpacaeval(tmp_path: Path) -> None:
    rows = [
        {"instruction": "ask", "output": "one", "generator": "m", "dataset": "d"},
        {"instruction": "ask more", "output": "", "generator": "m", "dataset": "d"},
    ]
    path = tmp_path / "model_outputs.json"
    path.write_text(json.dumps(rows, indent=2), encoding="utf-8")
    found = read_answers(path)
    assert found.model == "m"
    assert found.find("id", "", "", "ask") == "one"
    assert found.find("id", "", "", "ask more") == "", "an empty answer is an answer"


@pytest.mark.parametrize("name", ["id", "prompt_id", "question_id", "uid"])
@pytest.mark.parametrize("text", ["completion", "output", "answer", "response"])
def test_own_rows_in_several_languages(tmp_path: Path, name: str, text: str) -> None:
    rows = [
        {name: "a", "language": "de", text: "eins"},
        {name: "a", "language": "fr", text: "un"},
        {name: "b", "language": "de-DE", text: "zwei"},
        {name: 7, text: "seven"},
        {name: "c", text: None},
    ]
    found = read_answers(write(tmp_path / "mine.jsonl", rows))
    assert (found.model, len(found), found.absent) == ("mine", 4, 1)
    assert found.find("a", "", "fr", "") == "un"
    assert found.find("a", "", "", "") is None, "one of two is not guessed"
    assert found.find("b", "", "de", "") == "zwei"
    assert found.find("b", "", "", "") == "zwei"
    assert found.find("b", "", "fr", "") is None, "an answer in German is none to a French prompt"
    assert found.find("7", "", "fr", "") == "seven"
    assert found.find("c", "", "", "") is None


def test_an_answer_of_no_language_is_to_the_text_that_its_row_tells(tmp_path: Path) -> None:
    own = [{"id": "b", "completion": "two"}, {"id": "c", "prompt": "ask c\n", "output": "three"}]
    rows = [v2("a", "one", "ask a"), *({**row, "model": "m"} for row in own)]
    found = read_answers(write(tmp_path / "m.jsonl", rows))
    assert found.find("", "a", "en", "ask a") == "one"
    assert found.find("", "a", "de", "frag a") is None
    assert found.find("", "a", "", "frag a") is None, "whatever is known of the language"
    assert found.find("", "a", "de", "") == "one", "nobody tells what was asked"
    assert found.find("", "b", "de", "frag b") == "two", "the row does not tell"
    assert found.find("", "c", "en", " ask c") == "three", "white space is no other text"
    assert found.find("", "c", "fr", "c ?") is None


def test_the_last_turn_of_a_conversation_is_what_was_asked_too(tmp_path: Path) -> None:
    row = v2("a", "one", "first")
    row["messages"] += [{"role": "user", "content": "last"}, {"role": "assistant", "content": "z"}]
    found = read_answers(write(tmp_path / "m.jsonl", [row]))
    assert found.find("a", "", "en", "last") == found.find("", "", "en", "first") == "z"
    assert found.find("a", "", "de", "zuletzt") is None


def test_one_answer_to_two_translations_is_to_both(tmp_path: Path) -> None:
    rows = [v2("a", "7", "ask"), v2("a", "7", "frag")]
    found = read_answers(write(tmp_path / "m.jsonl", rows))
    assert len(found) == 1
    for text in ("ask", "frag"):
        assert found.find("zz", "a", "de", text) == found.find("", "", "", text) == "7"
    assert found.find("zz", "a", "fr", "question") is None


def test_reasoning_is_no_part_of_an_answer(tmp_path: Path) -> None:
    rows = [
        {"id": "a", "completion": "<think>\n12?</think>\n\n13", "reasoning": "hm"},
        {"id": "b", "completion": "a <think> in the midst </think>"},
        v2("c", {"answer": "<think>so</think>c"}),
    ]
    assert read_answers(write(tmp_path / "m.jsonl", rows), "m").texts == ["c"]
    found = read_answers(write(tmp_path / "m.jsonl", rows[:2]))
    assert found.texts == ["13", "a <think> in the midst </think>"]


def test_the_same_answer_twice_is_one_and_another_is_refused_with_its_row(tmp_path: Path) -> None:
    row = {"id": "a", "language": "de", "completion": "x"}
    assert len(read_answers(write(tmp_path / "m.jsonl", [row, row]))) == 1
    with pytest.raises(InputError, match=r"m\.jsonl, row 2 is a second, different answer to 'a'"):
        read_answers(write(tmp_path / "m.jsonl", [row, {**row, "completion": "y"}]))
    alpaca = {"instruction": "ask", "output": "x", "generator": "m"}
    with pytest.raises(InputError, match="row 2 is a second, different answer to 'ask'"):
        read_answers(write(tmp_path / "m.jsonl", [alpaca, {**alpaca, "output": "y"}]))


def test_two_ids_that_ask_the_same_are_found_by_id_and_not_by_text(tmp_path: Path) -> None:
    rows = [v2("a", "one", "ask"), v2("b", "two", "ask")]
    found = read_answers(write(tmp_path / "m.jsonl", rows))
    assert found.find("b", "", "", "ask") == "two"
    assert found.find("c", "", "", "ask") is None


def test_a_file_of_several_models_needs_a_name(tmp_path: Path) -> None:
    rows = [{"id": "a", "model": name, "completion": name} for name in ("m", "n")]
    path = write(tmp_path / "x.jsonl", rows)
    assert read_answers(path, "n").texts == ["n"]
    for name in (None, "other"):
        with pytest.raises(InputError, match=r"answers of 2 models \(m, n\)"):
            read_answers(path, name)
    alone = write(tmp_path / "y.jsonl", rows[:1])
    with pytest.raises(InputError, match=r"y\.jsonl holds answers of 'm' and none of 'other'"):
        read_answers(alone, "other")
    assert read_answers(alone, "m").model == read_answers(alone).model == "m"
    unnamed = write(tmp_path / "z.jsonl", [{"id": "a", "completion": "x"}])
    assert read_answers(unnamed, "told").model == "told"


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        ({"id": "a"}, "row 1 is no answer; an answer has an id"),
        ({"completion": "x"}, "row 1 is an answer to nothing"),
        ({"id": "a", "completion": 7}, "row 1 is no answer"),
        ({"uid": "a", "messages": []}, "row 1 is no answer"),
        ({"uid": "a", "messages": [{"role": "user", "content": "p"}]}, "row 1 is no answer"),
        (v2("a", {"text": "x"}), "row 1 is no answer"),
        ({"question_id": "a", "choices": []}, "row 1 is no answer"),
        ({"question_id": "a", "choices": [{"turns": ["x"]}]}, "row 1 is no answer"),
    ],
)
def test_a_row_that_is_no_answer_says_what_is_wanted(
    tmp_path: Path, row: Row, sentence: str
) -> None:
    path = write(tmp_path / "m.jsonl", [row])
    with pytest.raises(InputError) as caught:
        read_answers(path)
    assert sentence in str(caught.value)
    assert str(path) in str(caught.value)


def test_no_file_and_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_answers(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="holds no answers"):
        read_answers(write(tmp_path / "m.jsonl", []))
