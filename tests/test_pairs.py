"""Reading labelled pairs: formats, columns, languages, and rows that are no pairs."""

from __future__ import annotations

import csv
import json
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import micro_pairs
from arbitrage import pairs
from arbitrage.errors import InputError
from arbitrage.identity import prompt_id
from micro_world import HELDOUT
from micro_wrong import KINDS

if TYPE_CHECKING:
    from pathlib import Path

ROW = {"id": 7, "prompt": "2 + 2?", "chosen": "4", "rejected": "5", "language": "deu_Latn"}
ROWS = [
    {**ROW, "category": "Chat"},
    {**ROW, "id": 8, "prompt": "3 + 3?", "chosen": "6", "language": "zho_Hans"},
    {**ROW, "id": 9, "prompt": 'say "a, b"\nor c', "language": "pt-BR", "category": "Hard"},
]


def write(path: Path, *rows: Any) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def in_all_formats(folder: Path) -> list[str]:
    names = list(ROWS[0])
    write(folder / "p.jsonl", *ROWS)
    for suffix, mark in ((".csv", ","), (".tsv", "\t")):
        with (folder / f"p{suffix}").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, names, delimiter=mark)
            writer.writeheader()
            writer.writerows(ROWS)
    columns = {name: [row.get(name) for row in ROWS] for name in names}
    pq.write_table(pa.table(columns), folder / "p.parquet")
    return [str(folder / f"p{suffix}") for suffix in (".jsonl", ".csv", ".tsv", ".parquet")]


def test_all_formats_hold_the_same_pairs(tmp_path: Path) -> None:
    found = [pairs.read([path]) for path in in_all_formats(tmp_path)]
    assert len({one.digest for one in found}) == 1
    for one in found:
        assert [pair.prompt.language for pair in one.pairs] == ["de", "zh", "pt"]
        assert [pair.id for pair in one.pairs] == ["7", "8", "9"]
        assert [(pair.chosen, pair.rejected) for pair in one.pairs] == [
            *(("4", "5"), ("6", "5"), ("4", "5"))
        ]
        assert [pair.category for pair in one.pairs] == ["Chat", None, "Hard"]
        asked = [pair.prompt.messages for pair in one.pairs]
        assert asked == [[{"role": "user", "content": row["prompt"]}] for row in ROWS]
        assert [pair.prompt.id for pair in one.pairs] == list(map(prompt_id, asked))
        assert (one.rows, one.refused) == (3, {})


def test_the_digest_knows_content_and_not_order_or_ids(tmp_path: Path) -> None:
    one = pairs.read([write(tmp_path / "a.jsonl", *ROWS)]).digest
    other = [{**row, "id": None, "category": "x"} for row in reversed(ROWS)]
    assert pairs.read([write(tmp_path / "b.jsonl", *other)]).digest == one
    swapped = [*ROWS[1:], {**ROW, "chosen": "5", "rejected": "4"}]
    assert pairs.read([write(tmp_path / "c.jsonl", *swapped)]).digest != one


def test_a_conversation_is_a_prompt_too(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "2 + 2?"},
    ]
    first = {**ROW, "prompt": turns}
    second = {**ROW, "prompt": None, "messages": turns, "rejected": "6"}
    found = pairs.read([write(tmp_path / "p.jsonl", first, second)])
    assert [pair.prompt.messages for pair in found.pairs] == [turns, turns]


@pytest.mark.parametrize("tag", ["de", "deu_Latn", "ger", "de-AT", "DEU_LATN"])
def test_tags_of_a_language(tmp_path: Path, tag: str) -> None:
    found = pairs.read([write(tmp_path / "p.jsonl", {**ROW, "language": tag})])
    assert found.pairs[0].prompt.language == "de"


def test_rows_without_a_language_take_the_default(tmp_path: Path) -> None:
    bare = {key: value for key, value in ROW.items() if key != "language"}
    path = write(tmp_path / "p.jsonl", bare, {**ROW, "language": ""}, {**ROW, "language": "sw"})
    found = pairs.read([path], "arb_Arab")
    assert [pair.prompt.language for pair in found.pairs] == ["ar", "sw"]
    assert found.refused == {"duplicate": 1}
    assert pairs.read([path]).refused == {"empty_language": 2}


def test_the_path_can_tell_the_language(tmp_path: Path) -> None:
    bare = {key: value for key, value in ROW.items() if key != "language"}
    for tag in ("de", "sw"):
        write(tmp_path / f"p_{tag}.jsonl", bare)
    found = pairs.read([str(tmp_path / "p_{language}.jsonl")])
    assert [pair.prompt.language for pair in found.pairs] == ["de", "sw"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({**ROW, "chosen": None}, "null_completion"),
        ({**ROW, "rejected": 5}, "wrong_type"),
        ({key: value for key, value in ROW.items() if key != "rejected"}, "missing_column"),
        ({key: value for key, value in ROW.items() if key != "prompt"}, "missing_column"),
        ({**ROW, "prompt": None}, "null_prompt"),
        ({**ROW, "prompt": "  "}, "blank_prompt"),
        ({**ROW, "prompt": []}, "blank_prompt"),
        ({**ROW, "prompt": [{"role": "assistant", "content": "x"}]}, "wrong_type"),
        ({**ROW, "rejected": "4"}, "same_completion"),
        ({**ROW, "language": "klingon"}, "unknown_language"),
        ({**ROW, "language": 5}, "unknown_language"),
        ({**ROW, "rejected": "\ud800"}, "invalid_utf8"),
        ({**ROW, "id": 1000}, "duplicate"),
        (["a list"], "not_an_object"),
    ],
)
def test_a_row_that_is_no_pair_is_counted(tmp_path: Path, row: Any, reason: str) -> None:
    found = pairs.read([write(tmp_path / "p.jsonl", ROW, row)])
    assert found.refused == {reason: 1}
    assert found.rows == len(found.pairs) + 1 == 2
    assert found.examples[reason].startswith(f"{tmp_path}/p.jsonl, line 2: ")


def test_lines_that_cannot_be_read_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    path.write_bytes(json.dumps(ROW).encode() + b'\n{"prompt": \n\xff\n')
    assert pairs.read([str(path)]).refused == {"malformed_json": 1, "invalid_utf8": 1}


def refusal(*words: Any) -> str:
    with pytest.raises(InputError) as error:
        pairs.read(*words)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_what_a_user_can_get_wrong_is_one_sentence(tmp_path: Path) -> None:
    assert "no file of pairs matches nowhere" in refusal(["nowhere.jsonl"])
    path = write(tmp_path / "p.jsonl", {**ROW, "chosen": None}, {"other": 1})
    told = refusal([path])
    assert told.startswith("none of 2 rows is a labelled pair (null_completion 1, missing_column 1")
    assert "the columns are prompt, chosen, rejected and language" in told
    assert "there is no row in" in refusal([write(tmp_path / "empty.jsonl")])
    assert "is no known language tag" in refusal([path], "klingon")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    assert "line 1: the rest cannot be read" in refusal([str(tmp_path / "broken.parquet")])


def test_the_pairs_of_the_micro_world(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl"
    micro_pairs.main([str(path)])
    first = path.read_bytes()
    micro_pairs.main([str(path)])
    assert path.read_bytes() == first
    right = {
        told["id"]: told["answer"]
        for told in map(json.loads, (HELDOUT / "answers.jsonl").read_text("utf-8").splitlines())
    }
    found = pairs.read([str(path)])
    assert found.rows == len(right) * len(KINDS)
    assert set(found.refused) == {"duplicate"}, "two kinds of wrong can be one text"
    assert {pair.category for pair in found.pairs} == set(KINDS)
    assert len({pair.prompt.language for pair in found.pairs}) == 23
    for pair in found.pairs:
        name = str(pair.id).removesuffix(f"/{pair.category}")
        assert pair.chosen == right[name]
