"""Reading prompt sets: every format, every kind of bad row, growth, interruption; on real files."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import random
import shutil
import tempfile
from collections import Counter
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arbitrage import prompts
from arbitrage.config import PromptsConfig
from arbitrage.errors import InputError
from arbitrage.identity import prompt_id
from arbitrage.languages import table
from arbitrage.records import PROMPTS, QUARANTINE, RAW_CHARS
from arbitrage.store import Store

ALL = frozenset(table())
GERMAN = "Gestern sind wir lange durch den Wald gewandert und haben danach Kuchen gegessen."
ENGLISH = "Yesterday we walked through the forest for hours and had some cake afterwards."
FRENCH = "Hier nous avons longtemps march\u00e9 dans la for\u00eat, puis nous avons mang\u00e9."
HEBREW = "\u05d0\u05ea\u05de\u05d5\u05dc \u05d4\u05dc\u05db\u05e0\u05d5 \u05d1\u05d9\u05e2\u05e8"


@dataclass
class Reading:
    """What a reading left on disk."""

    store: Store
    shards: list[prompts.Shard]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All stored prompts, in the order of shards."""
        paths = sorted(path for path in self.store.files_in("prompts"))
        return [row for path in paths for row in self.store.read(path).table.to_pylist()]

    @property
    def refused(self) -> list[dict[str, Any]]:
        """All rows in quarantine."""
        paths = sorted(self.store.files_in("quarantine/read"))
        return [row for path in paths for row in self.store.read(path).table.to_pylist()]

    @property
    def tallies(self) -> dict[str, Any]:
        """What was counted, by source."""
        return self.store.read_json("prompts/sources.json") or {}

    @property
    def texts(self) -> list[str]:
        """The last turns of the stored prompts."""
        return [row["messages"][-1]["content"] for row in self.rows]


def config_of(source: Any, **more: Any) -> PromptsConfig:
    items = source if isinstance(source, list) else [source]
    told = [item if isinstance(item, dict) else {"path": str(item)} for item in items]
    # Few tests are about detection, and loading the detector takes a third of a second.
    return PromptsConfig.model_validate({"sources": told, "contradiction": "ignore", **more})


def read(
    root: Path,
    source: Any,
    *,
    covered: frozenset[str] = ALL,
    strict: bool = False,
    stop_after: int | None = None,
    **more: Any,
) -> Reading:
    store = Store(root / "run")
    found = prompts.find(config_of(source, **more), covered, store)
    prompts.survey(found, strict=strict)
    reader = prompts.read_shards(found, store)
    shards = list(islice(reader, stop_after))
    reader.close()  # type: ignore[attr-defined]
    return Reading(store, shards)


def refusal(root: Path, source: Any, **more: Any) -> str:
    """The one sentence with which a whole set is refused; nothing may have been written."""
    with pytest.raises(InputError) as error:
        read(root, source, **more)
    assert not (root / "run").exists()
    assert error.value.exit_code == 2
    message = str(error.value)
    assert "\n" not in message
    assert len(message) < 600
    return message


def check_sums(found: Reading) -> None:
    """The invariant: rows = accepted + refused, and every refused row is in quarantine."""
    refused = Counter((row["source"], row["reason"]) for row in found.refused)
    counted: Counter[tuple[str, str]] = Counter()
    for source, tally in found.tallies.items():
        assert tally["rows"] == tally["accepted"] + sum(tally["refused"].values())
        counted.update({(source, reason): n for reason, n in tally["refused"].items()})
    assert refused == counted
    ids = [row["prompt_id"] for row in found.rows]
    assert len(set(ids)) == len(ids)
    assert all(prompt_id(row["messages"]) == row["prompt_id"] for row in found.rows)


def line_of(prompt: Any, language: Any = "en", **more: Any) -> bytes:
    row = {"prompt": prompt, "language": language, **more}
    return json.dumps({key: value for key, value in row.items() if value is not ...}).encode()


def write(path: Path, *lines: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return path


def numbered(path: Path, numbers: Any) -> Path:
    return write(path, *(line_of(f"prompt number {number}") for number in numbers))


def add(path: Path, *lines: bytes) -> None:
    with path.open("ab") as file:
        file.writelines(line + b"\n" for line in lines)


def image(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def strings(*values: bytes) -> pa.StringArray:
    """A string column of any bytes, UTF-8 or not."""
    buffers = pa.array(values, pa.binary()).buffers()
    return pa.StringArray.from_buffers(len(values), *buffers[1:])


# --- every format ---------------------------------------------------------------------------------

PLAIN = [
    {"id": "a1", "prompt": "Was ist \u00bbblau\u00ab?", "language": "de", "topic": "light"},
    {"id": "a2", "prompt": "Two\nlines, and a comma", "language": "en", "topic": "text"},
    {"id": "a3", "prompt": 'She said "yes"', "language": "pt-BR", "topic": ""},
]


def as_jsonl(path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in PLAIN), encoding="utf-8")
    return path


def as_utf8_jsonl(path: Path) -> Path:
    lines = (json.dumps(row, ensure_ascii=False) + "\r\n\r\n" for row in PLAIN)
    path.write_bytes(b"\xef\xbb\xbf" + "".join(lines).encode())
    return path


def as_gz(path: Path) -> Path:
    path.write_bytes(gzip.compress(as_jsonl(path.with_name("plain")).read_bytes()))
    return path


def as_parquet(path: Path) -> Path:
    pq.write_table(pa.Table.from_pylist(PLAIN), path)
    return path


def as_table(path: Path, delimiter: str, newline: str) -> Path:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(PLAIN[0]), delimiter=delimiter, lineterminator=newline)
    writer.writeheader()
    writer.writerows(PLAIN)
    path.write_bytes(b"\xef\xbb\xbf" + text.getvalue().encode())
    return path


def as_csv(path: Path) -> Path:
    return as_table(path, ",", "\n")


def as_tsv(path: Path) -> Path:
    return as_table(path, "\t", "\r\n")


def as_csv_gz(path: Path) -> Path:
    path.write_bytes(gzip.compress(as_csv(path.with_name("plain")).read_bytes()))
    return path


def as_dataset(path: Path) -> Path:
    datasets.disable_progress_bars()
    datasets.Dataset.from_list(PLAIN).save_to_disk(path)
    return path


def as_dataset_dict(path: Path) -> Path:
    datasets.disable_progress_bars()
    other = datasets.Dataset.from_list([{"prompt": "not this one", "language": "en"}])
    both = {"test": other, "train": datasets.Dataset.from_list(PLAIN)}
    datasets.DatasetDict(both).save_to_disk(path)
    return path


FORMATS = {
    "a.jsonl": as_jsonl,
    "b.ndjson": as_utf8_jsonl,
    "c.jsonl.gz": as_gz,
    "d.parquet": as_parquet,
    "e.csv": as_csv,
    "f.tsv": as_tsv,
    "g.csv.gz": as_csv_gz,
    "saved": as_dataset,
    "dict": as_dataset_dict,
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_prompts(tmp_path: Path, name: str) -> None:
    source = FORMATS[name](tmp_path / name)
    found = read(tmp_path, source)
    assert found.refused == []
    assert found.texts == [row["prompt"] for row in PLAIN]
    assert [row["user_id"] for row in found.rows] == ["a1", "a2", "a3"]
    assert [row["language"] for row in found.rows] == ["de", "en", "pt"]
    assert {row["language_source"] for row in found.rows} == {"declared"}
    extra = [json.loads(row["extra"]) for row in found.rows]
    assert extra == [{"topic": row["topic"]} for row in PLAIN]
    assert all(row["source"].startswith(str(source)) for row in found.rows)
    assert [row["line"] for row in found.rows] == sorted({row["line"] for row in found.rows})
    schema = found.store.read(found.shards[0].path).table.schema
    assert schema.equals(PROMPTS)
    check_sums(found)


def test_lines_are_those_an_editor_shows(tmp_path: Path) -> None:
    first = read(tmp_path / "1", as_utf8_jsonl(tmp_path / "b.jsonl"))
    assert [row["line"] for row in first.rows] == [1, 3, 5]
    second = read(tmp_path / "2", as_csv(tmp_path / "e.csv"))
    assert [row["line"] for row in second.rows] == [2, 4, 5], "where the row ends"
    third = read(tmp_path / "3", as_parquet(tmp_path / "d.parquet"))
    assert [row["line"] for row in third.rows] == [1, 2, 3]


def test_a_tsv_without_header_and_with_literal_quotes(tmp_path: Path) -> None:
    path = tmp_path / "mgsm_de.tsv"
    path.write_bytes(b'"Ja", sagte sie.\t12\nEin Zoll ist 1"\t3\n"offen\t4\n')
    source = {
        "path": str(tmp_path / "mgsm_{language}.tsv"),
        "names": ["question", "answer"],
        "quoting": False,
        "columns": {"prompt": "question"},
    }
    found = read(tmp_path, source)
    assert found.texts == ['"Ja", sagte sie.', 'Ein Zoll ist 1"', '"offen']
    assert [row["line"] for row in found.rows] == [1, 2, 3]
    assert [json.loads(row["extra"]) for row in found.rows] == [
        {"answer": n} for n in ["12", "3", "4"]
    ]
    assert {row["language"] for row in found.rows} == {"de"}


def test_a_split_of_a_saved_dataset_can_be_named(tmp_path: Path) -> None:
    source = {"dataset": str(as_dataset_dict(tmp_path / "dict")), "split": "test"}
    assert read(tmp_path, source).texts == ["not this one"]


def test_messages_of_a_saved_dataset_are_turns(tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    turns = [{"role": "system", "content": "Kurz."}, {"role": "user", "content": "Wer?"}]
    rows = [{"messages": turns, "language": "de"}]
    datasets.Dataset.from_list(rows).save_to_disk(tmp_path / "chat")
    assert read(tmp_path, tmp_path / "chat").rows[0]["messages"] == turns


def test_a_folder_is_searched_for_all_formats(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    numbered(folder / "b.jsonl", [1, 2])
    numbered(folder / "deep" / "a.jsonl", [3])
    (folder / "c.csv").write_text("prompt,language\nfrom a table,en\n")
    (folder / "README.md").write_text("not a prompt")
    found = read(tmp_path, folder)
    assert len(found.rows) == 4
    assert sorted(Path(name).name for name in found.tallies) == ["a.jsonl", "b.jsonl", "c.csv"]


def test_a_glob_takes_what_it_matches_in_order(tmp_path: Path) -> None:
    for number in (2, 1, 3):
        numbered(tmp_path / "in" / f"part-{number}.jsonl", [number])
    numbered(tmp_path / "in" / "other.jsonl", [9])
    found = read(tmp_path, tmp_path / "in" / "part-*.jsonl")
    assert found.texts == [f"prompt number {n}" for n in (1, 2, 3)]


def test_a_file_whose_name_has_glob_characters_is_itself(tmp_path: Path) -> None:
    assert len(read(tmp_path, numbered(tmp_path / "a[1].jsonl", [1])).rows) == 1


def test_a_source_named_twice_is_read_once(tmp_path: Path) -> None:
    path = numbered(tmp_path / "in" / "a.jsonl", [1, 2])
    found = read(tmp_path, [path, path.parent, path.with_name("*.jsonl")])
    assert found.refused == []
    assert [tally["rows"] for tally in found.tallies.values()] == [2]


@pytest.mark.parametrize(
    ("pattern", "place"),
    [
        ("mgsm_{language}.jsonl", "mgsm_pt-BR.jsonl"),
        ("{language}/train.jsonl", "pt_BR/train.jsonl"),
        ("{language}/*.jsonl", "por/x.jsonl"),
        ("**/q_{language}.jsonl", "deep/er/q_pt.jsonl"),
        ("part?_{language}.jsonl", "part1_PT.jsonl"),
        ("part[12]_{language}.jsonl", "part2_pt.jsonl"),
        ("a+(b)_{language}.jsonl", "a+(b)_pt.jsonl"),
    ],
)
def test_the_language_in_a_path_holds_for_all_rows(
    tmp_path: Path, pattern: str, place: str
) -> None:
    write(tmp_path / "in" / place, line_of("Bom dia", ...), line_of("Boa noite", "en"))
    found = read(tmp_path, tmp_path / "in" / pattern)
    assert [row["language"] for row in found.rows] == ["pt", "pt"]
    assert {row["language_source"] for row in found.rows} == {"declared"}


# --- conversations, columns, languages ------------------------------------------------------------


def test_messages_keep_system_and_earlier_turns(tmp_path: Path) -> None:
    turns = [
        {"role": "system", "content": "Kurz."},
        {"role": "user", "content": "Hallo"},
        {"role": "assistant", "content": "Guten Tag"},
        {"role": "user", "content": "Wie geht es?"},
    ]
    named = [{**turn, "name": "Eva"} for turn in turns]
    lines = [json.dumps({"messages": m, "language": "de", "n": i}) for i, m in enumerate([turns])]
    found = read(tmp_path, write(tmp_path / "a.jsonl", *(line.encode() for line in lines)))
    assert found.rows[0]["messages"] == turns
    assert found.rows[0]["prompt_id"] == prompt_id(turns)  # type: ignore[arg-type]
    assert json.loads(found.rows[0]["extra"]) == {"n": 0}
    again = json.dumps({"messages": json.dumps(named), "language": "de"}).encode()
    second = read(tmp_path / "2", write(tmp_path / "b.jsonl", again))
    assert second.rows[0]["messages"] == turns, "a JSON string is read, other keys are dropped"


def test_messages_win_over_prompt_where_a_row_has_them(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "from messages"}]
    path = write(
        tmp_path / "a.jsonl",
        line_of("from prompt", messages=turns),
        line_of("only prompt", messages=None),
        line_of("plain"),
    )
    found = read(tmp_path, path)
    assert found.texts == ["from messages", "only prompt", "plain"]
    assert found.rows[0]["extra"] is None


def test_a_prompt_and_the_same_one_as_messages_are_one(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "the same"}]
    found = read(
        tmp_path, write(tmp_path / "a.jsonl", line_of("the same"), line_of(..., messages=turns))
    )
    assert found.texts == ["the same"]
    assert [row["reason"] for row in found.refused] == ["duplicate"]


def test_columns_can_be_mapped_for_all_and_for_one_source(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", b'{"q": "eins", "lang": "de", "nr": 7, "id": "x"}')
    second = write(tmp_path / "b.jsonl", b'{"text": "two", "language": "en", "id": 8}')
    sources = [{"path": str(first)}, {"path": str(second), "columns": {"prompt": "text"}}]
    columns = {"prompt": "q", "messages": None, "id": "nr", "language": "lang"}
    found = read(tmp_path, sources, columns=columns)
    assert found.texts == ["eins", "two"]
    assert [row["user_id"] for row in found.rows] == ["7", "8"]
    assert [row["extra"] for row in found.rows] == ['{"id": "x"}', None]


def test_extra_columns_of_any_shape_are_carried(tmp_path: Path) -> None:
    more = {"a": [1, {"b": None}], "n": 1.5, "yes": True, "t": "\u00fc"}
    jsonl = read(tmp_path / "1", write(tmp_path / "a.jsonl", line_of("x", **more)))
    assert json.loads(jsonl.rows[0]["extra"]) == more
    rows = pa.table(
        {
            "prompt": ["x"],
            "language": ["en"],
            "when": pa.array([0], pa.timestamp("s")),
            "raw": [b"\x00\xff"],
            "amount": pa.array([1.25]).cast(pa.decimal128(5, 2)),
        }
    )
    pq.write_table(rows, tmp_path / "a.parquet")
    extra = json.loads(read(tmp_path / "2", tmp_path / "a.parquet").rows[0]["extra"])
    assert extra["when"].startswith("1970-01-01")
    assert extra["amount"] == "1.25"


def test_extra_is_strict_json(tmp_path: Path) -> None:
    rows = pa.table({"prompt": ["x"], "language": ["en"], "n": [float("nan")]})
    pq.write_table(rows, tmp_path / "a.parquet")
    found = read(
        tmp_path,
        [
            tmp_path / "a.parquet",
            write(tmp_path / "b.jsonl", b'{"prompt": "y", "language": "en", "n": -Infinity}'),
        ],
    )

    def refuse(name: str) -> None:
        pytest.fail(f"{name} is no JSON")

    assert [json.loads(row["extra"], parse_constant=refuse)["n"] for row in found.rows] == [
        None
    ] * 2


@pytest.mark.parametrize(
    ("tag", "code"),
    [
        ("de", "de"),
        ("DE", "de"),
        ("deu", "de"),
        ("ger", "de"),
        ("de-AT", "de"),
        ("de_CH", "de"),
        ("pt-BR", "pt"),
        ("zh-Hant-TW", "zh"),
        ("cmn", "zh"),
        ("sr-Latn", "sr"),
        ("iw", "he"),
        ("swh", "sw"),
        ("es-419", "es"),
        ("nb", "no"),
    ],
)
def test_declared_tags_become_codes(tmp_path: Path, tag: str, code: str) -> None:
    found = read(tmp_path, write(tmp_path / "a.jsonl", line_of("x", tag)))
    assert [row["language"] for row in found.rows] == [code]


def test_a_language_fixed_for_a_source_wins_over_its_column(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", line_of("eins", "en"), line_of("zwei", "zz"), line_of("drei", ...)
    )
    found = read(tmp_path, {"path": str(path), "language": "de-CH"})
    assert [row["language"] for row in found.rows] == ["de"] * 3
    assert found.refused == []


def test_undeclared_languages_are_detected(tmp_path: Path) -> None:
    lines = [line_of(GERMAN, ...), line_of(FRENCH, None), line_of(HEBREW, ...), line_of(ENGLISH)]
    found = read(tmp_path, write(tmp_path / "a.jsonl", *lines))
    assert [row["language"] for row in found.rows] == ["de", "fr", "he", "en"]
    ways = [row["language_source"] for row in found.rows]
    assert ways == ["detected", "detected", "detected", "declared"]


def test_a_column_without_name_is_no_language(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f',prompt\n0,"{GERMAN}"\n1,"{FRENCH}"\n', encoding="utf-8")
    found = read(tmp_path, path, columns={"language": None})
    assert [row["language"] for row in found.rows] == ["de", "fr"]
    assert [json.loads(row["extra"]) for row in found.rows] == [{"": "0"}, {"": "1"}]


def test_a_set_without_language_column_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", line_of(GERMAN, "fr"), line_of(FRENCH, ...))
    found = read(tmp_path, path, columns={"language": None})
    assert [row["language"] for row in found.rows] == ["de", "fr"]
    assert found.rows[0]["extra"] == '{"language": "fr"}'


# --- bad rows -------------------------------------------------------------------------------------

BAD_LINES = {
    "malformed": (b'{"prompt": "cut off', "malformed_json"),
    "python": (b"{'prompt': 'x'}", "malformed_json"),
    "deep": (
        b'{"prompt": "x", "language": "en", "y": ' + b"[" * 3000 + b"]" * 3000 + b"}",
        "malformed_json",
    ),
    "number": (b'{"prompt": "x", "language": "en", "n": ' + b"9" * 5000 + b"}", "malformed_json"),
    "list": (b'["prompt", "x"]', "not_an_object"),
    "string": (b'"just text"', "not_an_object"),
    "null": (b"null", "not_an_object"),
    "no column": (b'{"text": "x", "language": "en"}', "missing_column"),
    "empty object": (b"{}", "missing_column"),
    "null prompt": (line_of(None), "null_prompt"),
    "empty prompt": (line_of(""), "blank_prompt"),
    "blank prompt": (line_of(" \t\n\u3000 "), "blank_prompt"),
    "number prompt": (line_of(7), "wrong_type"),
    "list prompt": (line_of(["x"]), "wrong_type"),
    "true prompt": (line_of(True), "wrong_type"),
    "messages no json": (line_of(..., messages="hello"), "wrong_type"),
    "messages deep": (line_of(..., messages="[" * 100_000), "wrong_type"),
    "messages dict": (line_of(..., messages={"role": "user"}), "wrong_type"),
    "messages empty": (line_of(..., messages=[]), "blank_prompt"),
    "messages of text": (line_of(..., messages=["x"]), "wrong_type"),
    "no role": (line_of(..., messages=[{"content": "x"}]), "wrong_type"),
    "no content": (line_of(..., messages=[{"role": "user"}]), "wrong_type"),
    "parts": (
        line_of(..., messages=[{"role": "user", "content": [{"type": "text", "text": "x"}]}]),
        "wrong_type",
    ),
    "strange role": (line_of(..., messages=[{"role": "tool", "content": "x"}]), "wrong_type"),
    "role list": (line_of(..., messages=[{"role": ["user"], "content": "x"}]), "wrong_type"),
    "only system": (line_of(..., messages=[{"role": "system", "content": "x"}]), "wrong_type"),
    "assistant last": (
        line_of(
            ...,
            messages=[{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}],
        ),
        "wrong_type",
    ),
    "blank last turn": (line_of(..., messages=[{"role": "user", "content": " "}]), "blank_prompt"),
    "bytes": (b'{"prompt": "caf\xe9", "language": "fr"}', "invalid_utf8"),
    "utf-16": ('{"prompt": "x", "language": "en"}'.encode("utf-16"), "invalid_utf8"),
    "lone surrogate": (b'{"prompt": "x \\ud800 y", "language": "en"}', "invalid_utf8"),
    "lone surrogate id": (b'{"prompt": "x", "language": "en", "id": "\\udfff"}', "invalid_utf8"),
    "surrogate in turn": (
        line_of(
            ...,
            messages=[{"role": "system", "content": "\ud83d"}, {"role": "user", "content": "x"}],
        ),
        "invalid_utf8",
    ),
    "unknown language": (line_of("x", "klingonese"), "unknown_language"),
    "private tag": (line_of("x", "x-mine"), "unknown_language"),
    "language number": (line_of("x", 3), "unknown_language"),
    "language false": (line_of("x", False), "unknown_language"),
    "language surrogate": (b'{"prompt": "x", "language": "\\ud800"}', "unknown_language"),
    "undetectable": (line_of("12 + 34 = ?", ...), "unknown_language"),
    "empty language": (line_of("x", ""), "empty_language"),
    "blank language": (line_of("x", "  "), "empty_language"),
    "too long": (line_of("long " * 300), "too_long"),
    "too long in turns": (
        line_of(
            ...,
            messages=[{"role": "system", "content": "s" * 1000}, {"role": "user", "content": "x"}],
        ),
        "too_long",
    ),
    "uncovered": (line_of(FRENCH, ...), "uncovered_language"),
}


def check_one_refused(found: Reading, source: Path, line: int, reason: str) -> dict[str, Any]:
    assert len(found.refused) == 1
    row = found.refused[0]
    assert row["stage"] == "read"
    assert row["source"] == str(source)
    assert (row["line"], row["reason"]) == (line, reason)
    assert row["detail"].strip()
    assert "\n" not in row["detail"]
    assert len(row["raw"]) <= RAW_CHARS
    check_sums(found)
    return row


@pytest.mark.parametrize("name", BAD_LINES)
def test_a_bad_line_is_refused_alone(tmp_path: Path, name: str) -> None:
    bad, reason = BAD_LINES[name]
    path = write(tmp_path / "a.jsonl", line_of("good one"), bad, line_of("good two"))
    found = read(
        tmp_path, path, covered=ALL - {"fr"} if name == "uncovered" else ALL, max_chars=1000
    )
    assert found.texts == ["good one", "good two"]
    row = check_one_refused(found, path, 2, reason)
    start = bad[:8].decode("utf-8", "replace")
    assert row["raw"].replace(" ", "")[:3] == start.replace(" ", "")[:3]
    assert found.tallies[str(path)]["rows"] == 3
    assert found.tallies[str(path)]["accepted"] == 2
    assert found.tallies[str(path)]["refused"] == {reason: 1}
    assert found.store.read(found.store.files_in("quarantine/read")[0]).table.schema.equals(
        QUARANTINE
    )


def test_a_file_of_bad_rows_only_is_quarantined_whole(tmp_path: Path) -> None:
    lines = [bad.replace(b"\n", b" ") for bad, _ in BAD_LINES.values()]
    path = write(tmp_path / "a.jsonl", *lines)
    found = read(tmp_path, path, covered=ALL - {"fr"}, max_chars=1000)
    assert found.rows == []
    assert [row["line"] for row in found.refused] == list(range(1, len(lines) + 1))
    assert [row["reason"] for row in found.refused] == [reason for _, reason in BAD_LINES.values()]
    check_sums(found)


def test_a_raw_value_can_be_read_and_is_shortened(tmp_path: Path) -> None:
    text = HEBREW * 200
    path = write(tmp_path / "a.jsonl", line_of(text, "zz"), b"\xff" + text.encode())
    raws = [row["raw"] for row in read(tmp_path, path).refused]
    assert [len(raw) for raw in raws] == [RAW_CHARS, RAW_CHARS]
    assert all(HEBREW in raw for raw in raws)


@pytest.mark.parametrize("quoting", [True, False])
@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"x\ten\tmore", "malformed_csv"),
        (b"x", "malformed_csv"),
        (b"caf\xe9\tfr", "invalid_utf8"),
        (b"\ten", "blank_prompt"),
        (b"x\t", "empty_language"),
        (b"x\tzz", "unknown_language"),
        (b"x\ry\ten", "malformed_csv"),
        (b"x\ten\xff", "unknown_language"),
    ],
)
def test_a_bad_row_of_a_table_is_refused_alone(
    tmp_path: Path, line: bytes, reason: str, quoting: bool
) -> None:
    path = write(tmp_path / "a.tsv", b"good one\ten", line, b"good two\ten")
    source = {"path": str(path), "names": ["prompt", "language"], "quoting": quoting}
    found = read(tmp_path, source)
    assert found.texts == ["good one", "good two"]
    check_one_refused(found, path, 2, reason)


def test_a_quote_that_is_never_closed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text('prompt\nfirst row\n"never closed\nsecond row\n')
    found = read(tmp_path, {"path": str(path), "language": "en"})
    assert found.texts == ["first row"], "the rest of the file is not one long prompt"
    assert len(found.refused) == 1
    check_sums(found)


def test_a_name_that_two_columns_share_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("prompt,language,prompt\nfirst,en,second\n")
    message = refusal(tmp_path, path)
    assert "prompt" in message
    assert str(path) in message


@pytest.mark.parametrize("column", ["prompt", "language", "note"])
def test_invalid_strings_in_parquet_cost_one_row(tmp_path: Path, column: str) -> None:
    columns: dict[str, Any] = {
        "prompt": strings(b"one", b"two", b"three"),
        "language": strings(b"en", b"de", b"fr"),
        "note": strings(b"1", b"2", b"3"),
    }
    columns[column] = strings(
        *(b"x\xff" if n == 1 else v.as_py().encode() for n, v in enumerate(columns[column]))
    )
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    found = read(tmp_path, tmp_path / "a.parquet")
    assert found.texts == ["one", "three"]
    row = check_one_refused(found, tmp_path / "a.parquet", 2, "invalid_utf8")
    assert row["raw"]


def test_invalid_strings_in_a_saved_dataset_cost_one_row(tmp_path: Path) -> None:
    datasets.disable_progress_bars()
    rows = pa.table({"prompt": strings(b"one", b"x\xff", b"three"), "language": ["en"] * 3})
    datasets.Dataset(rows).save_to_disk(tmp_path / "saved")
    found = read(tmp_path, tmp_path / "saved")
    assert found.texts == ["one", "three"]
    assert [(row["line"], row["reason"]) for row in found.refused] == [(2, "invalid_utf8")]
    check_sums(found)


def test_a_parquet_value_that_python_cannot_hold_costs_one_row(tmp_path: Path) -> None:
    when = pa.array([0, 2**62, 0], pa.timestamp("us"))
    rows = pa.table({"prompt": ["one", "two", "three"], "language": ["en"] * 3, "when": when})
    pq.write_table(rows, tmp_path / "a.parquet")
    found = read(tmp_path, tmp_path / "a.parquet")
    assert found.texts == ["one", "three"]
    assert [row["line"] for row in found.refused] == [2]
    assert "two" in found.refused[0]["raw"]
    check_sums(found)


def test_wrong_types_in_parquet_are_refused(tmp_path: Path) -> None:
    rows = pa.table({"prompt": pa.array([1, None]), "language": ["en", "en"]})
    pq.write_table(rows, tmp_path / "a.parquet")
    found = read(tmp_path, tmp_path / "a.parquet")
    assert [row["reason"] for row in found.refused] == ["wrong_type", "null_prompt"]
    check_sums(found)


def test_a_gz_cut_in_the_middle_keeps_what_could_be_read(tmp_path: Path) -> None:
    rng = random.Random(0)
    lines = [line_of(f"prompt {n} {rng.random()}") + b"\n" for n in range(3000)]
    data = gzip.compress(b"".join(lines))
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(data[: len(data) // 2])
    other = numbered(tmp_path / "b.jsonl", [1, 2])
    found = read(tmp_path, [path, other])
    assert 500 < len(found.rows) < 2500
    assert found.texts[-2:] == ["prompt number 1", "prompt number 2"]
    row = check_one_refused(found, path, len(found.rows) - 1, "unreadable")
    assert "the rest cannot be read" in row["detail"]


def test_a_gz_with_rubbish_in_the_middle_keeps_what_could_be_read(tmp_path: Path) -> None:
    rng = random.Random(0)
    lines = [line_of(f"prompt {n} {rng.random()}") + b"\n" for n in range(20_000)]
    data = bytearray(gzip.compress(b"".join(lines)))
    data[len(data) // 2 : len(data) // 2 + 200] = bytes(200)
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(data)
    found = read(tmp_path, path)
    assert found.rows
    assert found.refused[-1]["reason"] == "unreadable"
    check_sums(found)


def test_a_parquet_damaged_in_the_middle_keeps_what_could_be_read(tmp_path: Path) -> None:
    rng = random.Random(0)
    texts = [f"prompt {n} {rng.random()}" for n in range(10_000)]
    rows = pa.table({"prompt": texts, "language": ["en"] * len(texts)})
    path = tmp_path / "a.parquet"
    pq.write_table(rows, path, row_group_size=2000, compression="zstd")
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    path.write_bytes(data)
    found = read(tmp_path, path)
    assert 1000 < len(found.rows) < len(texts)
    assert found.texts == texts[: len(found.rows)]
    check_one_refused(found, path, len(found.rows) + 1, "unreadable")


# --- duplicates -----------------------------------------------------------------------------------


def test_a_duplicate_in_one_file_names_the_first_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", line_of("x"), line_of("y"), line_of("x", "de", id="2"))
    found = read(tmp_path, path)
    assert found.texts == ["x", "y"]
    row = check_one_refused(found, path, 3, "duplicate")
    assert "line 1" in row["detail"]
    assert row["prompt_id"] == found.rows[0]["prompt_id"]
    assert row["raw"] == "x"


def test_a_duplicate_across_files_names_the_other_place(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", line_of("x"), line_of("y"))
    second = write(tmp_path / "b.jsonl", line_of("z"), line_of("y"))
    found = read(tmp_path, [first, second])
    assert found.texts == ["x", "y", "z"]
    row = check_one_refused(found, second, 2, "duplicate")
    assert str(first) in row["detail"]


def test_duplicates_are_the_same_ones_on_reading_again(tmp_path: Path) -> None:
    first = write(tmp_path / "a.jsonl", line_of("x"), line_of("x"))
    second = write(tmp_path / "b.jsonl", line_of("x"), line_of("y"))
    before = read(tmp_path, [first, second])
    tallies, rows = before.tallies, before.rows
    for touched in ([first], [second], [first, second]):
        for path in touched:
            os.utime(path, (1, touched.index(path) + next(TICKS)))
        again = read(tmp_path, [first, second])
        assert again.shards == []
        assert again.rows == rows
        for name, tally in again.tallies.items():
            assert {**tally, "signature": ""} == {**tallies[name], "signature": ""}
        check_sums(again)


TICKS = count(10)


def test_a_prompt_of_an_unread_source_is_a_duplicate_elsewhere(tmp_path: Path) -> None:
    first = write(tmp_path / "b.jsonl", line_of("x"))
    read(tmp_path, first)
    second = write(tmp_path / "a.jsonl", line_of("x"), line_of("y"))
    found = read(tmp_path, [second, first])
    assert found.texts == ["x", "y"]
    row = check_one_refused(found, second, 1, "duplicate")
    assert str(first) in row["detail"]


# --- contradicted and uncovered languages ---------------------------------------------------------


def test_a_contradicted_language_is_reported_and_kept(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", line_of(ENGLISH, "ja"), line_of(GERMAN, "de"))
    found = read(tmp_path, path, contradiction="report")
    assert [row["language"] for row in found.rows] == ["ja", "de"]
    assert found.refused == []
    assert found.tallies[str(path)]["contradicted"] == {"ja looks like en": 1}
    check_sums(found)


def test_a_contradicted_language_can_be_quarantined(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", line_of(GERMAN, "de"), line_of(ENGLISH, "ja"))
    found = read(tmp_path, path, contradiction="quarantine")
    assert found.texts == [GERMAN]
    row = check_one_refused(found, path, 2, "contradicted_language")
    assert "ja" in row["detail"]
    assert "en" in row["detail"]


def test_a_contradicted_language_can_be_ignored(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", line_of(ENGLISH, "ja"))
    found = read(tmp_path, path, contradiction="ignore")
    assert len(found.rows) == 1
    assert found.tallies[str(path)]["contradicted"] == {}


def test_without_detection_a_row_must_declare_its_language(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", line_of(GERMAN, "de"), line_of(ENGLISH, ...))
    found = read(tmp_path, path, detect=False)
    assert found.texts == [GERMAN]
    check_one_refused(found, path, 2, "empty_language")


def test_rows_that_no_teacher_covers_can_be_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", line_of("a", "de"), line_of("b", "fr"))
    covered = frozenset({"de"})
    found = read(tmp_path, path, covered=covered, uncovered="quarantine")
    assert found.texts == ["a"]
    check_one_refused(found, path, 2, "uncovered_language")


def test_a_new_teacher_lets_in_what_was_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", line_of("a", "de"), line_of("b", "fr"), line_of("c", "de"))
    before = read(tmp_path, path, covered=frozenset({"de"}), uncovered="quarantine")
    old = image(before.store.root / "prompts")
    after = read(tmp_path, path, uncovered="quarantine")
    assert after.texts == ["a", "c", "b"]
    assert [shard.number for shard in after.shards] == [1]
    assert after.refused == []
    new = image(after.store.root / "prompts")
    assert {name: new[name] for name in old if name.endswith(".parquet")} == {
        name: data for name, data in old.items() if name.endswith(".parquet")
    }
    check_sums(after)


# --- sums -----------------------------------------------------------------------------------------

CHEAP = {
    name: told for name, told in BAD_LINES.items() if len(told[0]) < 400 and name != "uncovered"
}
GOOD = st.integers(0, 12).map(lambda n: (line_of(f"prompt {n}"), f"prompt {n}"))
BAD = st.sampled_from([(CHEAP[name][0], None) for name in sorted(CHEAP) if name != "undetectable"])
BLANK = st.sampled_from([(b"", ...), (b"  \r", ...)])


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(st.lists(st.one_of(GOOD, GOOD, BAD, BLANK), max_size=14), min_size=1, max_size=3),
    st.integers(1, 5),
)
def test_rows_are_accepted_or_refused_and_nothing_else(parts: Any, shard_size: int) -> None:
    parts[0].append((line_of("one row at least"), "one row at least"))
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        sources = [
            write(root / f"{n}.jsonl", *(line for line, _ in part)) for n, part in enumerate(parts)
        ]
        plan = prompts.find(config_of(sources), ALL, Store(root / "run"))
        announced = [row.id for row in prompts.new_prompts(plan, Store(root / "run"))]
        assert not (root / "run").exists()
        found = read(root, sources, shard_size=shard_size)
        check_sums(found)
        assert announced == [row["prompt_id"] for row in found.rows]
        for path, part in zip(sources, parts, strict=True):
            rows = [text for _, text in part if text is not ...]
            assert found.tallies[str(path)]["rows"] == len(rows)
        texts = [text for part in parts for _, text in part if isinstance(text, str)]
        assert found.texts == list(dict.fromkeys(texts))
        reasons = Counter(row["reason"] for row in found.refused)
        assert reasons["duplicate"] == len(texts) - len(set(texts))
        total = sum(tally["rows"] for tally in found.tallies.values())
        assert total == len(found.rows) + len(found.refused)
        assert [shard.number for shard in found.shards] == list(range(len(found.shards)))
        sizes = [shard.rows for shard in found.shards]
        assert all(size == shard_size for size in sizes[:-1])
        again = read(root, sources, shard_size=shard_size)
        assert again.shards == []
        check_sums(again)


# --- sets that cannot be used ---------------------------------------------------------------------


def test_no_file_is_refused(tmp_path: Path) -> None:
    for name in ("nothing.jsonl", "*.jsonl", "folder/"):
        assert "nothing.jsonl" in refusal(tmp_path, tmp_path / "nothing.jsonl")
        assert "no prompt file matches" in refusal(tmp_path, tmp_path / name)
    (tmp_path / "folder").mkdir()
    assert ".jsonl" in refusal(tmp_path, tmp_path / "folder")


def test_a_file_that_goes_away_is_refused(tmp_path: Path) -> None:
    here = numbered(tmp_path / "a.jsonl", [1])
    message = refusal(tmp_path, [here, tmp_path / "b.jsonl"])
    assert "b.jsonl" in message


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.jsonl", b""),
        ("a.jsonl", b"\n \n\r\n"),
        ("a.csv", b"prompt,language\n"),
        ("a.jsonl.gz", gzip.compress(b"", mtime=0)),
    ],
)
def test_an_empty_set_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    message = refusal(tmp_path, tmp_path / name)
    assert "empty" in message
    assert name in message


def test_an_empty_file_among_others_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").touch()
    found = read(tmp_path, [tmp_path / "a.jsonl", numbered(tmp_path / "b.jsonl", [1])])
    assert len(found.rows) == 1
    assert found.tallies[str(tmp_path / "a.jsonl")]["rows"] == 0


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.parquet", b"PAR1 this is no parquet PAR1"),
        ("a.parquet", b""),
        ("a.jsonl.gz", b"not compressed"),
    ],
)
def test_an_unreadable_file_is_refused(tmp_path: Path, name: str, data: bytes) -> None:
    (tmp_path / name).write_bytes(data)
    message = refusal(tmp_path, [numbered(tmp_path / "b.jsonl", [1]), tmp_path / name])
    assert f"{name} cannot be read as" in message


def test_a_file_of_unknown_format_is_refused_or_told(tmp_path: Path) -> None:
    path = numbered(tmp_path / "prompts.txt", [1])
    message = refusal(tmp_path, path)
    assert "prompts.txt" in message
    assert "format" in message
    assert len(read(tmp_path, {"path": str(path), "format": "jsonl"}).rows) == 1


@pytest.mark.parametrize("kind", ["parquet", "csv", "dataset"])
def test_a_table_without_the_prompt_column_is_refused(tmp_path: Path, kind: str) -> None:
    datasets.disable_progress_bars()
    rows = {"question": ["x"], "language": ["en"]}
    path = tmp_path / f"a.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table(rows), path)
    elif kind == "csv":
        path.write_text("question,language\nx,en\n")
    else:
        datasets.Dataset.from_dict(rows).save_to_disk(path)
    message = refusal(tmp_path, path)
    assert all(word in message for word in ("'prompt'", "'question'", "columns", f"a.{kind}"))
    assert len(read(tmp_path, path, columns={"prompt": "question"}).rows) == 1


def test_a_declared_language_without_teacher_is_refused(tmp_path: Path) -> None:
    lines = [line_of("a", "de"), line_of("b", "fra"), line_of("c", "fr"), line_of("d", "pt-BR")]
    path = write(tmp_path / "a.jsonl", *lines)
    message = refusal(tmp_path, path, covered=frozenset({"de"}))
    assert all(
        word in message for word in ("no teacher", "fr (2", "pt (1", "a.jsonl", "quarantine")
    )
    fixed = {"path": str(path), "language": "fr"}
    message = refusal(tmp_path, fixed, covered=frozenset({"de"}))
    assert "no teacher covers fr, declared in" in message


def test_a_path_with_an_unknown_language_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "in" / "mgsm_xx.jsonl", line_of("x", ...))
    message = refusal(tmp_path, tmp_path / "in" / "mgsm_{language}.jsonl")
    assert "'xx'" in message
    assert "mgsm_xx.jsonl" in message


@pytest.mark.parametrize("name", [*CHEAP, "duplicate"])
def test_strict_reading_refuses_the_first_bad_row(tmp_path: Path, name: str) -> None:
    bad, reason = CHEAP.get(name, (line_of("good"), "duplicate"))
    path = write(tmp_path / "a.jsonl", line_of("good"), bad, b"{", line_of("more"))
    message = refusal(tmp_path, path, strict=True)
    assert f"{path}, line 2: {reason}" in message
    good = write(tmp_path / "a.jsonl", line_of("good"), line_of("more"))
    assert len(read(tmp_path, good, strict=True).rows) == 2


def test_a_missing_split_is_refused(tmp_path: Path) -> None:
    source = {"dataset": str(as_dataset_dict(tmp_path / "dict")), "split": "validation"}
    message = refusal(tmp_path, source)
    assert "validation" in message
    assert "dict" in message


def test_a_file_name_that_is_no_utf8_is_refused(tmp_path: Path) -> None:
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9.jsonl"))
    path.write_bytes(line_of("x") + b"\n")
    assert "caf" in refusal(tmp_path, path)


# --- growth, interruption, moves ------------------------------------------------------------------


def shard_bytes(found: Reading) -> dict[str, bytes]:
    return {path: found.store.path(path).read_bytes() for path in found.store.files_in("prompts")}


def test_appended_rows_and_new_files_open_new_shards(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    first = numbered(folder / "a.jsonl", range(5))
    before = read(tmp_path, folder, shard_size=2)
    old = shard_bytes(before)
    assert [shard.rows for shard in before.shards] == [2, 2, 1]
    add(first, line_of("appended"), b"{bad", line_of("prompt number 0"))
    numbered(folder / "0.jsonl", [100, 101])
    after = read(tmp_path, folder, shard_size=2)
    assert [shard.number for shard in after.shards] == [3, 4]
    new = shard_bytes(after)
    assert {path: new[path] for path in old} == old
    assert after.texts[5:] == ["prompt number 100", "prompt number 101", "appended"]
    assert sorted(row["reason"] for row in after.refused) == ["duplicate", "malformed_json"]
    check_sums(after)
    assert read(tmp_path, folder, shard_size=2).shards == []


def test_unchanged_sources_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = numbered(tmp_path / "a.jsonl", [1]), numbered(tmp_path / "b.jsonl", [2])
    read(tmp_path, [first, second])
    add(second, line_of("more"))
    opened: list[str] = []
    rows = prompts.sources.rows

    def watch(source: Any, only: Any = None) -> Any:
        opened.append(source.name)
        return rows(source, only)

    monkeypatch.setattr(prompts.sources, "rows", watch)
    found = read(tmp_path, [first, second])
    assert set(opened) == {str(second)}
    assert found.texts[-1] == "more"
    opened.clear()
    read(tmp_path, [first, second])
    assert opened == []


@pytest.mark.parametrize("change", ["columns", "max_chars", "language", "covered"])
def test_a_source_that_is_read_differently_is_read_again(tmp_path: Path, change: str) -> None:
    path = write(tmp_path / "a.jsonl", line_of("short", text="other"), line_of("long " * 9))
    store = read(tmp_path, path).store
    more: dict[str, Any] = {
        "columns": {"columns": {"prompt": "text"}},
        "max_chars": {"max_chars": 10},
    }.get(change, {})
    source = {"path": str(path), "language": "de"} if change == "language" else path
    covered = ALL - {"fr"} if change == "covered" else ALL
    found = prompts.find(config_of(source, **more), covered, store)
    assert [item.name for item in found.unread] == [str(path)]
    same = prompts.find(config_of(path), ALL, store)
    assert same.unread == ()


def make_mixture(folder: Path) -> list[Path]:
    first = write(folder / "a.jsonl", *(line_of(f"a {n}") for n in range(3)), b"{", line_of("a 0"))
    second = write(folder / "b.jsonl", line_of("a 1"), *(line_of(f"b {n}") for n in range(4)))
    pq.write_table(
        pa.table({"prompt": ["c", None, "b 2"], "language": ["en"] * 3}), folder / "c.parquet"
    )
    return [first, second, folder / "c.parquet"]


@pytest.mark.parametrize("shard_size", [1, 2, 3, 100])
def test_an_interrupted_reading_ends_like_an_undisturbed_one(
    tmp_path: Path, shard_size: int
) -> None:
    (tmp_path / "in").mkdir()
    sources = make_mixture(tmp_path / "in")
    whole = read(tmp_path / "whole", sources, shard_size=shard_size)
    expected = image(whole.store.root)
    assert len(whole.rows) == 8
    for stop in range(len(whole.shards) + 1):
        root = tmp_path / f"stopped-{stop}"
        part = read(root, sources, shard_size=shard_size, stop_after=stop)
        assert len(part.store.files_in("prompts")) == stop
        assert part.tallies == {}
        read(root, sources, shard_size=shard_size)
        assert image(root / "run") == expected


def test_a_reading_interrupted_again_and_again_ends_like_an_undisturbed_one(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    sources = make_mixture(tmp_path / "in")
    expected = image(read(tmp_path / "whole", sources, shard_size=2).store.root)
    for _ in range(4):
        read(tmp_path / "torn", sources, shard_size=2, stop_after=1)
    read(tmp_path / "torn", sources, shard_size=2)
    assert image(tmp_path / "torn" / "run") == expected


def test_growth_interrupted_keeps_the_old_shards_and_loses_nothing(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.jsonl", range(5))
    read(tmp_path, path, shard_size=2)
    add(path, *(line_of(f"new {n}") for n in range(5)))
    shutil.copytree(tmp_path / "run", tmp_path / "other" / "run")
    expected = shard_bytes(read(tmp_path, path, shard_size=2))
    read(tmp_path / "other", path, shard_size=2, stop_after=1)
    found = read(tmp_path / "other", path, shard_size=2)
    assert shard_bytes(found) == expected
    assert len(found.rows) == 10
    check_sums(found)


def test_shards_published_before_a_death_are_found(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.jsonl", range(6))
    part = read(tmp_path, path, shard_size=2, stop_after=2)
    assert prompts.published_from(0, part.store) == part.shards
    assert prompts.published_from(1, part.store) == part.shards[1:]
    assert prompts.published_from(2, part.store) == []


def test_a_moved_file_adds_nothing(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.jsonl", range(4))
    before = shard_bytes(read(tmp_path, path, shard_size=3))
    moved = path.rename(tmp_path / "moved.jsonl")
    found = read(tmp_path, moved, shard_size=3)
    assert found.shards == []
    assert found.refused == []
    assert shard_bytes(found) == before
    assert found.tallies[str(moved)]["accepted"] == 4
    check_sums(found)


def test_a_moved_file_is_counted_once(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.jsonl", range(4))
    read(tmp_path, path)
    found = read(tmp_path, path.rename(tmp_path / "moved.jsonl"))
    assert sum(tally["rows"] for tally in found.tallies.values()) == len(found.rows)


def test_a_project_moved_as_a_whole_is_not_read_again(tmp_path: Path) -> None:
    def config(folder: Path) -> PromptsConfig:
        sources = [{"path": str(folder / name), "folder": str(folder)} for name in ("in", "x.csv")]
        return PromptsConfig.model_validate({"sources": sources})

    old = tmp_path / "old"
    numbered(old / "in" / "a.jsonl", range(3))
    (old / "x.csv").write_text("prompt,language\nfrom a table,en\nfrom a table,en\n")
    found = prompts.find(config(old), ALL, Store(old / "run"))
    list(prompts.read_shards(found, Store(old / "run")))
    new = old.rename(tmp_path / "new")
    store = Store(new / "run")
    assert prompts.find(config(new), ALL, store).unread == ()
    reading = Reading(store, [])
    assert [row["source"] for row in reading.rows] == ["in/a.jsonl"] * 3 + ["x.csv"]
    assert [row["source"] for row in reading.refused] == ["x.csv"]
    assert list(reading.tallies) == ["in/a.jsonl", "x.csv"]
    check_sums(reading)


def test_rows_in_another_order_add_nothing(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.jsonl", range(6))
    before = shard_bytes(read(tmp_path, path, shard_size=4))
    numbered(path, reversed(range(6)))
    found = read(tmp_path, path, shard_size=4)
    assert shard_bytes(found) == before
    check_sums(found)


def test_rows_taken_away_stay_in_the_store(tmp_path: Path) -> None:
    path = numbered(tmp_path / "a.jsonl", range(6))
    before = shard_bytes(read(tmp_path, path))
    found = read(tmp_path, numbered(path, range(2)))
    assert shard_bytes(found) == before
    assert found.tallies[str(path)]["rows"] == 2


def test_a_mended_file_empties_its_quarantine(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", line_of("good"), b"{bad")
    assert len(read(tmp_path, path).refused) == 1
    write(path, line_of("good"), line_of("mended"))
    found = read(tmp_path, path)
    assert found.texts == ["good", "mended"]
    assert found.refused == []
    check_sums(found)


def test_surveying_writes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "run")
    path = write(tmp_path / "a.jsonl", line_of("good"), b"{bad")
    prompts.survey(prompts.find(config_of(path), ALL, store))
    assert not store.root.exists()
