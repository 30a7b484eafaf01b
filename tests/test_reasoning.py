"""Reasoning apart from the answer: the rule on text, and markers that are tokens no text shows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from arbitrage.config import Reasoning
from arbitrage.engines.chat import Asked, Chat
from arbitrage.engines.reasoning import opens, parted
from micro_models import make_tokenizer

if TYPE_CHECKING:
    from arbitrage.records import Completion

START, END = "<think>", "</think>"
MARKERS = Reasoning(start=START, end=END)
PIECES = st.sampled_from([START, END, "<", ">", "think", "/", "a", "\u00e9", " ", "\n", "b c"])
TEXTS = st.lists(PIECES, max_size=12).map("".join)
WORDS = st.text("ab \n\u00e9\u6771", max_size=8)
SPACE = st.text(" \n\t", max_size=3)


# ---- the rule on text


@pytest.mark.parametrize(
    ("text", "opened", "reasoning", "answer"),
    [
        ("<think>\nhm\n</think>\n\n42", False, "hm", "42"),
        ("hm</think>42", False, "hm", "42"),
        ("hm</think>42", True, "hm", "42"),
        ("<think>hm</think>42", True, "hm", "42"),
        ("42 ", False, None, "42 "),
        (" 42", True, "42", ""),
        ("\n<think> hm", False, "hm", ""),
        ("42 <think>hm", False, None, "42 <think>hm"),
        ("42 <think>hm</think> 43", False, "42 <think>hm", "43"),
        ("a</think> b</think> c ", False, "a", "b</think> c "),
        ("<think><think>a</think>b", False, "<think>a", "b"),
        ("<think>\n\n</think>\n\n42", False, None, "42"),
        ("</think>42", False, None, "42"),
        ("<think>", False, None, ""),
        ("hm</thin", True, "hm</thin", ""),
        ("", True, None, ""),
        ("", False, None, ""),
    ],
)
def test_examples(text: str, opened: bool, reasoning: str | None, answer: str) -> None:
    assert parted(text, START, END, opened=opened) == (reasoning, answer)


@given(WORDS, WORDS, SPACE, SPACE, st.booleans(), st.booleans())
def test_what_was_put_together_is_told_apart(
    thought: str, answer: str, before: str, after: str, started: bool, opened: bool
) -> None:
    start = before + START if started else before
    text = f"{start}{before}{thought}{after}{END}{after}{answer}"
    assert parted(text, START, END, opened=opened) == (thought.strip() or None, answer.lstrip())


@given(TEXTS, st.booleans())
def test_the_rule_word_by_word(text: str, opened: bool) -> None:
    reasoning, answer = parted(text, START, END, opened=opened)
    leads = text.strip().startswith(START)
    if END in text:
        assert answer == text[text.index(END) + len(END) :].lstrip()
    elif opened or leads:
        assert answer == ""
    else:
        assert (reasoning, answer) == (None, text)
    if END in text or opened or leads:
        thought = text[: text.index(END)] if END in text else text
        leads = thought.strip().startswith(START)
        told = thought.strip()[len(START) * leads :].strip()
        assert (reasoning or "") == told
    assert reasoning is None or (reasoning and reasoning == reasoning.strip())


@given(TEXTS, SPACE)
def test_a_prompt_that_ends_with_the_start_is_like_a_start_in_the_text(
    text: str, space: str
) -> None:
    assume(not text.strip().startswith(START))
    assert opens(f"asked{START}{space}", START)
    assert parted(text, START, END, opened=True) == parted(f"{START}{space}{text}", START, END)


def test_a_prompt_that_has_ended_the_reasoning_opens_none() -> None:
    assert not opens(f"asked{START}\n\n{END}\n\n", START)
    assert not opens(f"{START}asked", START)


# ---- markers that are tokens


TEXT = ["a b c", "ab ba", "\u00e9\u6771"]


@pytest.fixture(scope="module")
def chats(tmp_path_factory: pytest.TempPathFactory) -> tuple[Chat, Chat]:
    """One tokenizer that knows the markers as special tokens, and one that spells them out."""
    special = make_tokenizer(tmp_path_factory.mktemp("special"), TEXT, special=(START, END))
    spelling = make_tokenizer(tmp_path_factory.mktemp("spelling"), TEXT)
    return Chat(special, "special", MARKERS), Chat(spelling, "spelling", MARKERS)


def made_by(chat: Chat, text: str, stop: tuple[str, ...], *, opened: bool) -> Completion:
    tokens = chat.tokenizer(text, add_special_tokens=False)["input_ids"]
    return chat.completion(Asked([0], opened), tokens, {chat.tokenizer.eos_token_id}, stop)


def test_the_two_tokenizers_differ_as_they_should(chats: tuple[Chat, Chat]) -> None:
    special, spelling = ([*chat.tokenizer(START)["input_ids"]] for chat in chats)
    assert len(special) == 1
    assert len(spelling) > 1
    assert chats[0].text(special) == ""
    assert chats[1].text(spelling) == START


LETTERS = st.lists(st.sampled_from([START, END, "a", "b", "\u00e9", " ", "\n"]), max_size=10)


@given(LETTERS, st.lists(st.sampled_from("a\u00e9\n"), max_size=2), st.booleans())
def test_a_marker_that_is_a_token_parts_as_one_that_is_spelled(
    chats: tuple[Chat, Chat], pieces: list[str], stop: list[str], opened: bool
) -> None:
    """But for further markers, which are part of a text only where they are spelled."""
    text = "".join(pieces)
    assume(text.count(END) <= 1)
    assume(START not in text.lstrip().removeprefix(START))
    special, spelling = (made_by(chat, text, (*stop,), opened=opened) for chat in chats)
    assert special._replace(completion_tokens=0) == spelling._replace(completion_tokens=0)


def test_the_markers_of_a_tokenizer_that_has_them_are_these_tokens_alone(
    chats: tuple[Chat, Chat],
) -> None:
    chat = chats[0]
    pieces = ["a ", *"</think>", END, " b", START, "c", END, "d"]
    tokens = [
        one for p in pieces for one in chat.tokenizer(p, add_special_tokens=False)["input_ids"]
    ]
    found = chat.completion(Asked([0], opened=False), tokens, set(), ())
    assert (found.reasoning, found.text) == ("a </think>", "bcd")
    assert found.completion_tokens == len(tokens)


def test_a_stop_string_ends_reasoning_too(chats: tuple[Chat, Chat]) -> None:
    for chat in chats:
        found = made_by(chat, f"{START}a b c{END}d", ("b",), opened=False)
        assert (found.reasoning, found.text, found.finish_reason) == ("a", "", "stop")
        found = made_by(chat, f"a{END} d b c", ("b",), opened=True)
        assert (found.reasoning, found.text, found.finish_reason) == ("a", "d ", "stop")


def test_without_the_setting_all_is_answer(chats: tuple[Chat, Chat]) -> None:
    plain = Chat(chats[1].tokenizer, "plain")
    found = made_by(plain, f"{START}a{END} b", (), opened=False)
    assert (found.reasoning, found.text) == (None, f"{START}a{END} b")


@pytest.mark.parametrize(
    ("template", "opened"),
    [
        ("{{ messages[0].content }}", False),
        ("{{ messages[0].content }}{% if add_generation_prompt %}<think>\n{% endif %}", True),
        ("{{ messages[0].content }}<think>\n\n</think>\n\n", False),
    ],
)
def test_the_template_says_whether_reasoning_has_begun(
    chats: tuple[Chat, Chat], template: str, opened: bool
) -> None:
    messages: list[Any] = [{"role": "user", "content": "a"}]
    for chat in chats:
        asked = chat.ask(messages, template)
        assert asked.opened == opened
        assert asked.tokens == chat.encode(messages, template, answer_next=True)
    assert not Chat(chats[0].tokenizer, "plain").ask(messages, template).opened
