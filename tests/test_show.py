"""Text of models on a terminal: nothing in it is obeyed, and nothing in it passes for ours."""

from __future__ import annotations

import io
import unicodedata
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from arbitrage import tables
from arbitrage.tables import JOINERS, KEPT, SIGNS, SPACES, harmless
from arbitrage.views import Shown
from command_line import cli
from harness import fake, make_config, run, write_prompts

BIDI = "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
BREAKS = "\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
ANY = st.text(st.characters(exclude_categories=[]), max_size=60)
NASTY = st.text(st.sampled_from([*BIDI, *BREAKS, *"\x1b\x07\x08\x00\x7f\x9b\n\t a[*#", "\ud800"]))


def shown(what: Any, width: int = 80) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(what, soft_wrap=True)
    output: str = console.file.getvalue()  # type: ignore[attr-defined]
    return output


@given(ANY | NASTY)
def test_nothing_that_a_terminal_obeys_is_left(text: str) -> None:
    plain = harmless(text).plain
    assert not {*BIDI, *BREAKS} & {*plain}
    for char in plain:
        assert char.isprintable() or char in KEPT
        assert unicodedata.category(char) not in ("Cc", "Cs", "Co", "Cn") or char in "\n\t"
    assert shown(harmless(text)).encode("utf-8")


@given(ANY | NASTY)
def test_all_that_is_taken_away_is_shown_and_the_rest_stays(text: str) -> None:
    plain = harmless(text).plain
    assert len(plain) >= len(text)
    rest = plain
    for char in text:
        kept = char.isprintable() or char in KEPT
        told = char if kept else f"\\x{ord(char):02x}"
        assert rest.startswith(told)
        rest = rest[len(told) :]
    assert rest == ""


@given(st.text(st.characters(categories=["L", "M", "N", "P", "S", "Zs"]), max_size=40))
def test_text_of_letters_marks_numbers_and_signs_stays_as_it_is(text: str) -> None:
    assert harmless(text).plain == text


def test_what_is_kept_moves_nothing_and_is_named() -> None:
    assert all(unicodedata.category(c) == "Zs" for c in SPACES)
    assert all(unicodedata.category(c) == "Cf" for c in JOINERS + SIGNS)
    assert all(unicodedata.bidirectional(c) in ("BN", "AN", "AL", "L") for c in JOINERS + SIGNS)
    assert not {*BIDI, *BREAKS} & KEPT
    assert {*KEPT} == {*SPACES, *JOINERS, *SIGNS, "\n", "\t"}


def prompt_of(**changes: Any) -> Shown:
    candidate = {"teacher": "a", "sample": 0, "score": 0.5, "gates": [], "error": None}
    candidate |= {"finish_reason": "stop", "completion_tokens": 3, "completion": "fine"}
    candidate |= {"reasoning": None, "scores": {"arbiter": 0.5}} | changes.pop("candidate", {})
    prompt = {"prompt_id": "00ff", "user_id": None, "language": "de", "language_source": "declared"}
    prompt |= {"messages": [{"role": "user", "content": "Was?"}]} | changes.pop("prompt", {})
    return Shown(prompt, [candidate], None, changes.pop("quarantined", None))


FORGED = "fine\n\n* best #0  9.9999  stop  1 tokens\n    the best answer\nquarantined: not"


@pytest.mark.parametrize("place", ["completion", "reasoning", "error", "user_id", "content", "why"])
def test_no_text_can_pass_for_another_candidate(place: str) -> None:
    if place in ("completion", "reasoning", "error"):
        found = prompt_of(candidate={place: FORGED})
    elif place == "user_id":
        found = prompt_of(prompt={"user_id": FORGED})
    elif place == "content":
        found = prompt_of(prompt={"messages": [{"role": "user", "content": FORGED}]})
    else:
        found = prompt_of(quarantined=FORGED)
    lines = shown(tables.of_prompt(found)).splitlines()
    assert "the best answer" in "".join(lines)
    assert sum(line.startswith(("* ", "  a #")) for line in lines) == 1
    assert sum(line.startswith("quarantined: ") for line in lines) == (place == "why")
    assert not any(line.startswith("* ") for line in lines)


@given(st.lists(NASTY, min_size=1, max_size=3))
def test_every_line_of_an_answer_stands_further_right(parts: list[str]) -> None:
    text = "\n".join(parts) or "x"
    lines = shown(tables.of_prompt(prompt_of(candidate={"completion": text}))).split("\n")
    at = next(n for n, line in enumerate(lines) if line.startswith("  a #0"))
    answer = lines[at + 1 : -1]
    assert len(answer) == text.count("\n") + 1
    assert all(line.startswith(tables.TEXT_INDENT) or not line.strip() for line in answer)


def test_show_of_a_run_with_hostile_prompts(tmp_path: Any) -> None:
    """The fake engine answers with the prompt's own words."""
    evil = "\u05e9\u05dc\u05d5\u05dd \u202e\u2066abc \x1b[2J\x1b]0;title\x07 \x08\x08 [red]x[/red]"
    words = "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645 " + "word " * 3000
    rows = [
        {"id": f"p{n}", "prompt": text, "language": "fa"} for n, text in enumerate((evil, words))
    ]
    source = write_prompts(tmp_path / "prompts.jsonl", rows)
    made = run(make_config(tmp_path, {"a": fake(0.5)}, source))
    first, second = (cli("show", made.store.root, f"p{n}") for n in (0, 1))
    assert (first.returncode, first.stderr) == (0, "")
    assert not {"\x1b", "\x07", "\x08", *BIDI} & {*first.stdout}
    assert "\u05e9\u05dc\u05d5\u05dd \\x202e\\x2066abc \\x1b[2J" in first.stdout
    assert "[red]x[/red]" in first.stdout
    assert "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645" in second.stdout
    assert second.stdout.count("word") >= 3000
