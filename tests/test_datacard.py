"""The card of an export: what the Hub reads, figures recomputed from the run, and hostile names."""

from __future__ import annotations

import json
import math
import re
import typing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from arbitrage import cli_export
from arbitrage.datacard import license_of, size_category
from arbitrage.exporting import export
from arbitrage.exports import FORMATS
from arbitrage.languages import table
from arbitrage.markdown import Raw, escaped, harmless_line
from arbitrage.permits import last_part, shown_model
from arbitrage.sieve import Wanted
from command_line import cli, write_config
from harness import fake, make_config, numbered_prompts, run, write_prompts

if TYPE_CHECKING:
    from harness import Run

PROMPTS = 40
EVIL = (
    "<script>alert(1)</script> [x](http://evil.example) | --- \n\n# head\n---\n`a` ![i](j) "
    "www.evil.example $x$ @you :smile: \u202e"
)
FOLDER = "a|b<i>`c`"
POOL = {
    "a": fake(0.5, options={"voice": "a"}, license=EVIL),
    "b": fake({"sw": 0.9, "default": 0.3}, options={"voice": "b"}, model="org/*x*", revision=EVIL),
    "no": fake({"ja": 0.9, "default": 0.4}, options={"voice": "c"}),
}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("cards")
    model = folder / "secret-place" / FOLDER
    model.mkdir(parents=True)
    pool = {**POOL, "a": {**POOL["a"], "model": str(model)}}
    source = write_prompts(folder / "hidden" / "prompts.jsonl", numbered_prompts(PROMPTS))
    return run(make_config(folder, pool, source))


@pytest.fixture(scope="module")
def card(found: Run, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("made") / "out"
    export(found.store.root, out, Wanted("dpo", splits=(("train", 0.7), ("no", 0.3))))
    return (out / "README.md").read_text("utf-8")


def front(card: str) -> dict[str, Any]:
    lines = card.splitlines()
    assert lines[0] == "---"
    return yaml.safe_load("\n".join(lines[1 : lines[1:].index("---") + 1]))


def cells(card: str, start: str) -> list[list[str]]:
    """The rows of the table whose header begins so."""
    lines = card.split("\n")
    first = next(n for n, line in enumerate(lines) if line.startswith(start)) + 2
    rows = []
    for line in lines[first:]:
        if not line.startswith("|"):
            break
        rows.append([part.strip() for part in re.split(r"(?<!\\)\|", line)[1:-1]])
    return rows


def test_the_front_matter_is_what_the_hub_reads(card: str) -> None:
    told = front(card)
    assert told["language"] == ["de", "ja", "sw"]
    assert told["license"] == "other"
    assert re.fullmatch(r"[a-z0-9.-]{1,96}", told["license_name"])
    assert told["size_categories"] == ["n<1K"]
    assert told["task_categories"] == ["text-generation"]
    (config,) = told["configs"]
    assert config["config_name"] == "default"
    assert [entry["split"] for entry in config["data_files"]] == ["train", "no"]
    assert "synthetic" in told["tags"]


def test_nothing_of_others_is_markup_and_no_place_is_told(card: str, found: Run) -> None:
    body = card.split("\n---\n", 1)[1]
    for wrong in ("<script", "](http://evil", "<", "www.evil", "\u202e", "\n# head", " $x$"):
        assert wrong not in body, wrong
    for wrong in ("secret-place", "hidden", str(found.store.root), str(found.store.root.parent)):
        assert wrong not in card, wrong
    assert [line for line in body.split("\n") if line.startswith("# ")] == ["# run (dpo)"]
    assert "prompts.jsonl" in body
    assert all(len(row) == 9 for row in cells(card, "| teacher |"))


def test_figures_are_those_of_the_run(tmp_path: Path, found: Run) -> None:
    export(found.store.root, tmp_path / "out", Wanted("sft"))
    card = (tmp_path / "out" / "README.md").read_text("utf-8")
    rows = found.frame("selected")
    shares = {row[0]: (int(row[5]), row[6]) for row in cells(card, "| teacher |")}
    for name in POOL:
        count = int((rows["teacher"] == name).sum())
        assert shares[name] == (count, f"{count / len(rows):.1%}")
    for code, _, count, reward, winners, alone, gain in cells(card, "| language |"):
        mine = rows[rows["language"] == code]
        assert (int(count), reward) == (len(mine), f"{mine['reward'].mean():.3f}")
        top = mine["teacher"].value_counts()
        assert f"{top.index[0]} {top.iloc[0] / len(mine):.0%}" in winners
        best = {
            name: pd.Series(
                {
                    row.prompt_id: max(
                        (c["reward"] for c in row.candidates if c["teacher"] == name),
                        default=math.nan,
                    )
                    for row in mine.itertuples()
                }
            )
            for name in POOL
        }
        means = {name: values.mean() for name, values in best.items()}
        assert alone == max(means, key=lambda name: means[name])
        gains = mine.set_index("prompt_id")["reward"] - best[alone]
        half = 1.959964 * gains.std() / math.sqrt(len(gains))
        assert gain == f"{gains.mean():+.3f} \u00b1 {half:.3f}"
    told = dict(row for row in cells(card, ["| | |", "|---|---:|"][0]) if len(row) == 2)
    assert told["seed"] == "0"
    ledger = {row[0]: row[1] for row in cells(card[card.index("## What was left out") :], "| | |")}
    assert ledger["**exported**"] == str(len(rows)) == ledger["rows of the product"]
    assert ledger["rows in the sources"] == str(PROMPTS)
    day = max(e["time"] for e in found.store.events() if e["event"] == "run_started")
    assert time_of(card) in (pd.Timestamp(day, unit="s").strftime("%Y-%m-%d"), "not recorded")


def time_of(card: str) -> str:
    found = re.search(r"chosen on (\S+ ?\S*)\.\n", card)
    assert found
    return found[1]


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_escaped_text_has_no_active_character(text: str) -> None:
    told = escaped(text)
    assert not re.search(r"(?<!\\)(\\\\)*[`*_{}\[\]<>#|~$@:]", told)
    assert told.splitlines() in ([told], [])
    assert "<" not in told
    back = re.sub(r"\\(.)", r"\1", told).replace("&lt;", "<").replace("&amp;", "&")
    assert back == harmless_line(text)


def tokens(text: str) -> list[Any]:
    """All of a text's Markdown, what stands in lines too; tables and HTML are taken for such."""
    found = []
    for token in MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text):
        found += [token, *(token.children or [])]
    return found


@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_a_cell_shows_the_text_itself(text: str) -> None:
    shown = tokens(f"| a |\n|---|\n| x{escaped(text)}y |\n")
    inside = [one for one in shown if one.type in ("text", "text_special")]
    assert "".join(one.content for one in inside[1:]) == f"x{harmless_line(text)}y"


def test_the_card_has_no_markup_but_its_own(card: str) -> None:
    found = tokens(card.split("\n---\n", 1)[1])
    assert {one.type for one in found}.isdisjoint({"html_block", "html_inline", "image"})
    links = [one.attrs["href"] for one in found if one.type == "link_open"]
    assert links == ["https://arxiv.org/abs/2408.14960"]
    heads = [found[n + 1].content for n, one in enumerate(found) if one.type == "heading_open"]
    assert heads[0] == "run (dpo)"
    assert len(heads) == 8


def test_numbers_and_own_text_stay() -> None:
    assert escaped(3) == "3"
    assert escaped(Raw("**a**")) == "**a**"
    assert escaped(None) == "none"


def test_one_license_that_the_hub_knows_is_its_name() -> None:
    assert license_of({"Apache-2.0": 3, "apache-2.0": 1}) == {"license": "apache-2.0"}
    assert license_of({"GPL-3.0-or-later": 3}) == {"license": "gpl-3.0"}
    assert license_of({"MIT": 3, "llama3.1": 1}) == {
        "license": "other",
        "license_name": "llama3.1-and-mit",
    }
    assert license_of({"not recorded": 1})["license_name"] == "not-recorded"
    assert license_of({"MIT": 1, "not recorded": 2})["license"] == "other"


def test_sizes_are_the_hubs_words() -> None:
    told = {1: "n<1K", 999: "n<1K", 1000: "1K<n<10K", 99_999: "10K<n<100K", 10**6: "1M<n<10M"}
    assert {rows: size_category(rows) for rows in told} == told


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("/home/me/models/x/", "x"),
        ("./x", "x"),
        ("~/y", "y"),
        ("C:\\models\\z", "z"),
        ("s3://bucket/w?region=x", "w"),
        ("org/name", "org/name"),
        (None, None),
    ],
)
def test_models_are_told_without_their_place(place: str | None, shown: str | None) -> None:
    assert shown_model(place) == shown
    assert last_part("a/b/") == "b"


def test_every_language_that_is_not_yaml_is_quoted() -> None:
    assert "no" in table()
    told = yaml.safe_load(yaml.safe_dump({"language": ["no", "de"]}, allow_unicode=True))
    assert told == {"language": ["no", "de"]}


# The command


def test_the_command_knows_every_format() -> None:
    assert typing.get_args(typing.get_args(cli_export.Form)[0]) == tuple(FORMATS)


def test_the_command_tells_the_ledger(tmp_path: Path, found: Run) -> None:
    out = tmp_path / "out"
    told = cli("export", found.store.root, "--format", "dpo", "-o", out, "--json")
    assert told.returncode == 0, told.stderr
    summary = json.loads(told.stdout)
    left = sum(sum(counts.values()) for counts in summary["left_out"].values())
    assert summary["rows"] == summary["exported"] + left == PROMPTS
    again = cli(
        *("export", found.store.root, "--format", "sft", "-o", out),
        *("--split", "a=0.5,b=0.5", "--columns", "", "--to", "jsonl"),
    )
    assert again.returncode == 0, again.stderr
    assert f"{PROMPTS} rows of the product = {PROMPTS} exported + 0 left out" in again.stdout
    assert "license not recorded: b, no" in again.stdout
    data = sorted((out / "data").iterdir())
    assert [path.name for path in data] == [f"{n}-00000-of-00001.jsonl" for n in "ab"]
    rows = [json.loads(line) for path in data for line in path.read_text("utf-8").splitlines()]
    assert len(rows) == PROMPTS
    assert all(set(row) == {"messages"} for row in rows)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--split", "train=x"], "is no split"),
        (["--split", "train=0.5,../x=0.5"], "is no split"),
        (["--columns", "nothing"], "there is no column"),
        (["--to", "jsonl", "--languages", "xx"], "no row of the run is in"),
    ],
)
def test_a_mistake_is_one_sentence(
    tmp_path: Path, found: Run, options: list[str], message: str
) -> None:
    told = cli("export", found.store.root, "--format", "sft", "-o", tmp_path / "out", *options)
    assert told.returncode == 2
    assert message in told.stderr
    assert "Traceback" not in told.stderr
    assert not (tmp_path / "out").exists()


def test_a_config_in_the_place_of_the_run_tells_its_licenses(tmp_path: Path, found: Run) -> None:
    config = found.config.model_dump(mode="json", exclude_none=True)
    config["teachers"]["b"]["for_training"] = False
    for one in (*config["teachers"].values(), config["arbiter"]):
        one.pop("resources", None)
    path = write_config(tmp_path, {k: config[k] for k in ("run", "prompts", "teachers", "arbiter")})
    told = cli("export", path, "--format", "sft", "-o", tmp_path / "out", "--json")
    assert told.returncode == 0, told.stderr
    won = int((found.frame("selected")["teacher"] == "b").sum())
    assert json.loads(told.stdout)["left_out"] == {"not_for_training": {"b": won}}
