"""Reads the answers of one model from a file of another tool, or of one's own.

Forms, each known by its fields: Arena-Hard's `model_answer` (v2 and v0.1), AlpacaEval's
`model_outputs`, and own JSONL with an id, a language where there is one, and the answer. Knows no
judge. Invariants: an answer is never guessed (two that could be meant are none); what cannot be
read is an InputError that names file and row; reasoning is no part of an answer.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from arbitrage.engines.reasoning import parted
from arbitrage.errors import InputError
from arbitrage.winrate.recorded_files import place, rows
from arbitrage.winrate.recorded_questions import code_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

Row = dict[str, Any]

IDS = ("prompt_id", "question_id", "uid", "id")
TEXTS = ("completion", "output", "answer", "response")
PROMPTS = ("prompt", "instruction", "question")
NAMES = ("model", "model_id", "generator", "teacher")
THINK = ("<think>", "</think>")
WANTED = (
    "an answer has an id (prompt_id, question_id, uid or id) or a prompt (instruction), and its "
    "text in completion, output, answer or response, or is a row of Arena-Hard's model_answer or "
    "AlpacaEval's model_outputs"
)
SEVERAL = -1


class Answer(NamedTuple):
    """One row: `text` is none where the file says that there is no answer; `tokens` where told;
    `turn`: the user's last, where a row tells the whole conversation."""

    ids: tuple[str, ...]
    language: str
    prompt: str
    text: str | None
    tokens: int | None
    turn: str = ""


@dataclass
class Places:
    """Which answer belongs to a prompt. Keeps no texts."""

    by_language: dict[tuple[str, str], int] = field(default_factory=dict)
    by_id: dict[str, int] = field(default_factory=dict)
    by_prompt: dict[bytes, int] = field(default_factory=dict)
    languages: list[str] = field(default_factory=list)
    asked: list[tuple[bytes, ...]] = field(default_factory=list)

    def find(self, prompt_id: str, user_id: str, language: str, text: str = "") -> int | None:
        """The number of the answer to a prompt: by an id in its language, then by an id that has
        one answer, in no other language, then by the prompt's text. An answer of no language is to
        one translation of a question: where its row tells the prompt, it is found by an id only if
        that is `text`; without `text` nobody can tell, and the id is enough."""
        ids = [one for one in (prompt_id, user_id) if one]
        numbers = [self.by_language.get((one, language)) for one in ids]
        numbers += [self.by_id.get(one) for one in ids]
        told = _digest(_bare(text)) if text else None
        numbers = [n for n in numbers if n is not None and self._may_be(n, language, told)]
        if text:
            numbers.append(self.by_prompt.get(_digest(text)))
        return next((one for one in numbers if one is not None and one != SEVERAL), None)

    def _may_be(self, number: int, language: str, told: bytes | None) -> bool:
        if number == SEVERAL:
            return False
        if own := self.languages[number]:
            return not language or own == language
        asked = self.asked[number]
        return told is None or not asked or told in asked


@dataclass(frozen=True)
class Answers:
    """The answers of one model: `texts`, `tokens` (as their file counts them, else none), and where
    which is. `digest`: SHA-256 of the file's bytes. `absent`: rows that say there is no answer."""

    path: Path
    model: str
    digest: str
    texts: list[str]
    tokens: list[int | None]
    places: Places
    absent: int = 0

    def __len__(self) -> int:
        return len(self.texts)

    def find(self, prompt_id: str, user_id: str, language: str, text: str) -> str | None:
        """The answer to a prompt (see `Places.find`), or none."""
        number = self.places.find(prompt_id, user_id, language, text)
        return None if number is None else self.texts[number]


def holds_answers(path: Path) -> bool:
    """Whether a file's first row is an answer; raises nothing."""
    try:
        number, row = next(iter(rows(path)))
        _answer(row, place(path, number))
    except (InputError, StopIteration):
        return False
    return True


def read_answers(
    path: Path, model: str | None = None, language: Callable[[str], str] | None = None
) -> Answers:
    """Reads a file. `model` says which answers are wanted where it holds those of several models,
    and names them where the file does not. `language` tells that of an id whose row does not.

    Raises InputError for a row that is no answer, for two different answers to one prompt, for a
    file of several models, or of none, and for one that names another model than is wanted.
    """
    found: dict[str, _Gathered] = {}
    for number, row in rows(path):
        where = place(path, number)
        answer = _answer(row, where)
        if language and not answer.language:
            told = next(filter(None, map(language, (*answer.ids, answer.prompt))), "")
            answer = answer._replace(language=told)
        found.setdefault(_word(row, *NAMES), _Gathered()).add(answer, where)
    if not found:
        raise InputError(f"{path} holds no answers; {WANTED}")
    if len(found) > 1 and (model is None or model not in found):
        names = ", ".join(sorted(filter(None, found))[:9])
        raise InputError(
            f"{path} holds answers of {len(found)} models ({names}); say which is meant, or give "
            "each a file of its own"
        )
    only = next(iter(found))
    if model and only and model not in found:
        raise InputError(
            f"{path} holds answers of {only!r} and none of {model!r}; name the model as its rows do"
        )
    name = model if model in found else only
    one = found[name or ""]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    name = name or model or path.stem
    return Answers(path, name, digest, one.texts, one.tokens, one.places, one.absent)


@dataclass
class _Gathered:
    """The answers of one model as they are read."""

    texts: list[str] = field(default_factory=list)
    tokens: list[int | None] = field(default_factory=list)
    places: Places = field(default_factory=Places)
    absent: int = 0

    def add(self, answer: Answer, where: str) -> None:
        """Takes in a row. Raises InputError where its prompt has another answer already."""
        if answer.text is None:
            self.absent += 1
            return
        new, places = len(self.texts), self.places
        keys = [(one, answer.language) for one in answer.ids]
        earlier = [places.by_language[key] for key in keys if key in places.by_language]
        prompt = _digest(answer.prompt) if answer.prompt else None
        if prompt is not None and not keys and prompt in places.by_prompt:
            earlier.append(places.by_prompt[prompt])
        if any(self.texts[one] != answer.text for one in earlier):
            what = answer.ids[0] if answer.ids else answer.prompt
            raise InputError(
                f"{where} is a second, different answer to {what!r:.80}; keep one of them"
            )
        if earlier:
            self._also_asked(answer, earlier[0])
            return
        self.texts.append(answer.text)
        self.tokens.append(answer.tokens)
        places.languages.append(answer.language)
        places.asked.append(_asked(answer))
        for key in keys:
            places.by_language[key] = new
            places.by_id[key[0]] = SEVERAL if key[0] in places.by_id else new
        if prompt is not None:
            places.by_prompt[prompt] = self._told_once(prompt, new)

    def _also_asked(self, answer: Answer, number: int) -> None:
        """The same answer to another text, as to a translation of the question."""
        places = self.places
        places.asked[number] = tuple(dict.fromkeys((*places.asked[number], *_asked(answer))))
        if answer.prompt:
            prompt = _digest(answer.prompt)
            places.by_prompt[prompt] = self._told_once(prompt, number)

    def _told_once(self, prompt: bytes, new: int) -> int:
        """Two ids may ask the same; where their answers differ, the text alone tells neither."""
        old = self.places.by_prompt.get(prompt)
        if old is None or (old != SEVERAL and self.texts[old] == self.texts[new]):
            return new
        return SEVERAL


def _answer(row: Row, where: str) -> Answer:
    """Any known form of row."""
    ids = tuple(dict.fromkeys(str(row[n]) for n in IDS if isinstance(row.get(n), str | int)))
    prompt, last = _word(row, *PROMPTS), ""
    tokens = None
    for key in ("metadata", "conv_metadata"):
        if isinstance(row.get(key), dict):
            tokens = row[key].get("token_len", tokens)
    try:
        if isinstance(row.get("messages"), list):
            prompt, last, text = _of_messages(row["messages"], prompt)
        elif isinstance(row.get("choices"), list):
            turn = row["choices"][0]["turns"][-1]
            text, tokens = _plain(turn["content"]), turn.get("token_len", tokens)
        else:
            text = _plain(row[next(name for name in TEXTS if name in row)])
    except (KeyError, IndexError, TypeError, AttributeError, StopIteration) as error:
        raise InputError(f"{where} is no answer; {WANTED}") from error
    if not ids and not prompt:
        raise InputError(f"{where} is an answer to nothing; {WANTED}")
    whole = isinstance(tokens, int) and not isinstance(tokens, bool)
    return Answer(
        ids,
        code_of(_word(row, "language", "lang")),
        prompt,
        text,
        tokens if whole else None,
        last,
    )


def _of_messages(messages: list[Row], prompt: str) -> tuple[str, str, str | None]:
    """Prompt and answer of a conversation: the first user's turn and the last, the assistant's;
    between them the user's last."""
    asked = [_plain(one["content"]) or "" for one in messages if one["role"] == "user"] or [""]
    if messages[-1]["role"] != "assistant":
        raise KeyError("assistant")
    return prompt or asked[0], asked[-1], _plain(messages[-1]["content"])


def _plain(content: Any) -> str | None:
    """A text; of Arena-Hard v2's content the answer, of parts all texts; without reasoning."""
    if isinstance(content, dict):
        content = content["answer"]
    if isinstance(content, list):
        content = "".join(part["text"] for part in content if part.get("type") == "text")
    if content is None:
        return None
    if not isinstance(content, str):
        raise TypeError("no text")
    return parted(content, *THINK).answer if content.lstrip().startswith(THINK[0]) else content


def _word(row: Row, *names: str) -> str:
    return next((row[name] for name in names if isinstance(row.get(name), str)), "")


def _asked(answer: Answer) -> tuple[bytes, ...]:
    """Digests of what a row says that was asked; none where it does not say."""
    texts = dict.fromkeys(_bare(one) for one in (answer.prompt, answer.turn))
    return tuple(_digest(text) for text in texts if text)


def _bare(text: str) -> str:
    """Whether files differ in white space alone says nothing of what was asked."""
    return " ".join(text.split())


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
