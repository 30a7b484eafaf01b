"""One game: a judge is shown two answers in one order, and what it says becomes a verdict, or not.

A failure is never a verdict: a judge that does not come to the agreed form is asked again, within
bounds, and then the game has an error and no verdict. The answers go to the judge as JSON, which no
text in them can end, with control tokens in JSON's escapes.

The template is a Jinja file of three blocks: `system` and `user` make the request, `reminder` is
said when the last line was no verdict. The first two are given `case` (the JSON), and `language`,
`messages`, `answer_a` and `answer_b` as they are.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

from arbitrage.errors import ConfigError, EngineError, ItemError
from arbitrage.escapes import fenced_json
from arbitrage.identity import derive_seed, digest, prompt_id
from arbitrage.records import Completion, Prompt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arbitrage.config import Sampling
    from arbitrage.engines import Generator
    from arbitrage.records import Message

SCORES = {"A>>B": 1.0, "A>B": 1.0, "A=B": 0.5, "B>A": 0.0, "B>>A": 0.0}
"""Every verdict, and what it is worth to the answer that was shown as A."""
STRONG = ("A>>B", "B>>A")
BLOCKS = ("system", "user", "reminder")
_LABEL = re.compile(r"\[\[([^\[\]\n]*)\]\]")
_SAMPLE = {
    "case": "{}",
    "language": "en",
    "messages": [{"role": "user", "content": "?"}],
    "answer_a": "a",
    "answer_b": "b",
}
"""What a template is tried with before anything is asked."""
_DECORATION = " \t*_`.#>"
"""What may stand around the brackets: models like to print the verdict in bold."""


class Game(NamedTuple):
    """What a judge is to compare; none in place of an answer that there is not, with the reason.
    `tried`: how often it was asked in vain before."""

    prompt: Prompt
    answer_a: str | None
    answer_b: str | None
    missing: str = ""
    tried: int = 0


class Said(NamedTuple):
    """What came of a game. `verdict` is none where `error` says why. Tokens are of all tries."""

    verdict: str | None
    text: str | None
    tries: int
    prompt_tokens: int
    completion_tokens: int
    seed: int
    error: str | None


def template_of(source: str) -> jinja2.Template:
    """A judge's template. Raises ConfigError where it lacks a block or is no Jinja."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    try:
        template = environment.from_string(source)
    except jinja2.TemplateSyntaxError as error:
        raise ConfigError(f"the judge's template is no Jinja: {error}") from error
    if missing := [name for name in BLOCKS if name not in template.blocks]:
        raise ConfigError(
            f"the judge's template has no block {missing[0]!r}; it needs {', '.join(BLOCKS)}"
        )
    try:
        for block in BLOCKS:
            written(template, block, **_SAMPLE)
    except ItemError as error:
        raise ConfigError(str(error)) from error
    return template


def written(template: jinja2.Template, block: str, **given: Any) -> str:
    """One block of a template. Raises ItemError where it asks for what is not given."""
    try:
        context = template.new_context(given)
        return "".join(template.blocks[block](context)).strip()
    except Exception as error:  # a template raises whatever it likes
        raise ItemError(f"the judge's template cannot be used: {error}") from error


def verdict_in(text: str) -> str:
    """The verdict that the last line holds, alone. Raises ItemError for anything else."""
    last = text.strip().rpartition("\n")[2]
    found = _LABEL.findall(last)
    if (
        len(found) == 1
        and found[0].strip() in SCORES
        and not _LABEL.sub("", last).strip(_DECORATION)
    ):
        return str(found[0].strip())
    shown = " ".join(last.split())[:80]
    raise ItemError(f"the judge's last line is no verdict: {shown!r}")


@dataclass(frozen=True)
class Hearing:
    """How one judge plays: its template, sampling, tries, and what its seeds derive from."""

    template: jinja2.Template
    sampling: Sampling
    tries: int
    seed: int
    judge: str

    async def play(self, engine: Generator, game: Game) -> Said:
        """Asks until there is a verdict, at most `tries` times. Raises EngineError."""
        if game.answer_a is None or game.answer_b is None:
            return Said(None, None, 0, 0, 0, 0, game.missing or "there is no answer to compare")
        try:
            messages = self._messages(game, game.answer_a, game.answer_b)
            reminder = written(self.template, "reminder")
        except ItemError as error:
            return Said(None, None, 0, 0, 0, 0, str(error))
        return await self._ask(engine, game, messages, reminder)

    def _messages(self, game: Game, answer_a: str, answer_b: str) -> list[Message]:
        case = {
            "conversation": game.prompt.messages,
            "answer_a": answer_a,
            "answer_b": answer_b,
        }
        given = {
            "case": fenced_json(case),
            "language": game.prompt.language,
            "messages": game.prompt.messages,
            "answer_a": answer_a,
            "answer_b": answer_b,
        }
        return [
            {"role": "system", "content": written(self.template, "system", **given)},
            {"role": "user", "content": written(self.template, "user", **given)},
        ]

    async def _ask(
        self, engine: Generator, game: Game, messages: list[Message], reminder: str
    ) -> Said:
        """Each try goes on from the one before, so that a greedy judge does not repeat itself."""
        turns = list(messages)
        key = prompt_id(messages)
        language = game.prompt.language
        first = derive_seed(self.seed, key, self.judge, game.tried)
        read = wrote = 0
        text, problem = None, ""
        for number in range(self.tries):
            seed = derive_seed(self.seed, key, self.judge, game.tried + number)
            try:
                made = await self._one(engine, Prompt(key, language, turns), seed)
            except ItemError as error:
                problem = str(error) or "the judge refused"
                break  # the engine has tried what it can
            read += made.prompt_tokens
            wrote += made.completion_tokens
            text = made.text
            try:
                return Said(verdict_in(text), text, number + 1, read, wrote, first, None)
            except ItemError as error:
                cut = "; it was cut off" if made.finish_reason == "length" else ""
                problem = f"{error}{cut}"
            said: list[Message] = [{"role": "assistant", "content": text}]
            turns = [*messages, *said, {"role": "user", "content": reminder}]
        return Said(None, text, number + 1, read, wrote, first, problem)

    async def _one(self, engine: Generator, prompt: Prompt, seed: int) -> Completion:
        made: Sequence[Any] = await engine.generate(prompt, self.sampling, [seed])
        if len(made) != 1:
            raise EngineError(f"the engine gave {len(made)} completions where 1 was asked for")
        if isinstance(made[0], ItemError):
            raise made[0]
        completion: Completion = made[0]
        return completion


def digest_of(answer: str | None) -> str | None:
    """What names the text of an answer in a verdict."""
    return None if answer is None else digest(answer.encode("utf-8", "surrogatepass"))


def deadly(game: Game, why: str) -> Said:
    """What is said of a game that ends the engine's process."""
    del game
    return Said(None, None, 0, 0, 0, 0, why)
