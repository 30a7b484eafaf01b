"""Wrong answers to questions of the micro-world, for training the Arbiter and for measuring it.

Seven ways to be wrong, as real teachers are: the wrong word (in the right sentence), about another
subject, the answer to another kind of question, in another language, cut short, said twice, and
misspelt. None is ever equal to the right answer.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping

    from micro_world import Example, Lexicon

NEAR = 0.6
"""How often a wrong word is a near one: teachers are wrong by one, or take before for after."""

DRAWS = 100
"""A draw that happens to be right is drawn again, so often at most."""


class WrongAnswers:
    """Makes them from the answers of `examples`: the training side, when it is for training."""

    def __init__(self, lexicons: Mapping[str, Lexicon], examples: Iterable[Example]) -> None:
        self._lexicons = lexicons
        answers: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        tasks: dict[str, dict[str, None]] = defaultdict(dict)
        for example in examples:
            answers[example.language, example.task][example.fact] = example.answer
            tasks[example.language][example.task] = None
        self._answers = dict(answers)
        self._facts = {key: list(facts) for key, facts in answers.items()}
        self._tasks = {language: list(names) for language, names in tasks.items()}

    def of(self, example: Example, kind: str, source: random.Random) -> str:
        """One wrong answer of a kind. Raises ValueError where the kind makes only the right one."""
        for _ in range(DRAWS):
            answer = KINDS[kind](self, example, source)
            if answer != example.answer:
                return answer
        raise ValueError(f"no answer to {example.name} is wrong by {kind}")

    def _wrong_word(self, example: Example, source: random.Random) -> str:
        facts = self._facts[example.language, example.task]
        near = _neighbours(example, facts) if source.random() < NEAR else []
        other = source.choice(near or facts)
        return self._lexicons[example.language].answer_about(example.task, example.fact, other)

    def _other_subject(self, example: Example, source: random.Random) -> str:
        other = source.choice(self._facts[example.language, example.task])
        if source.random() < 0.5:
            return self._answers[example.language, example.task][other]
        return self._lexicons[example.language].answer_about(example.task, other, example.fact)

    def _other_task(self, example: Example, source: random.Random) -> str:
        others = [task for task in self._tasks[example.language] if task != example.task]
        return self._any(example.language, source.choice(others), source)

    def _other_language(self, example: Example, source: random.Random) -> str:
        language = source.choice([code for code in self._tasks if code != example.language])
        same = self._answers[language, example.task].get(example.fact)
        return same or self._any(language, example.task, source)

    def _any(self, language: str, task: str, source: random.Random) -> str:
        return self._answers[language, task][source.choice(self._facts[language, task])]

    def _cut_short(self, example: Example, source: random.Random) -> str:
        return example.answer[: source.randrange(1, len(example.answer))].rstrip()

    def _repeated(self, example: Example, source: random.Random) -> str:
        words = example.answer.split(" ")
        if len(words) == 1 or source.random() < 0.5:
            return (" " if len(words) > 1 else "").join([example.answer, example.answer])
        at = source.randrange(len(words))
        return " ".join([*words[: at + 1], *words[at:]])

    def _misspelt(self, example: Example, source: random.Random) -> str:
        text = list(example.answer)
        at = source.randrange(len(text) - 1)
        change = source.randrange(3)
        if change == 0:
            del text[at]
        elif change == 1:
            text[at], text[at + 1] = text[at + 1], text[at]
        else:
            text[at] = source.choice(text)
        return "".join(text)


KINDS: dict[str, Callable[[WrongAnswers, Example, random.Random], str]] = {
    "wrong word": WrongAnswers._wrong_word,
    "other subject": WrongAnswers._other_subject,
    "other task": WrongAnswers._other_task,
    "other language": WrongAnswers._other_language,
    "cut short": WrongAnswers._cut_short,
    "repeated": WrongAnswers._repeated,
    "misspelt": WrongAnswers._misspelt,
}


def _neighbours(example: Example, facts: list[str]) -> list[str]:
    """Facts whose words are mistaken for the right one; none where any is as near as another."""
    if example.task == "sum":
        a, b = map(int, example.fact.split("+"))
        near = [f"{a}+{b + step}" for step in (-2, -1, 1, 2)]
    elif example.task == "count":
        first, last = map(int, example.fact.split("-"))
        near = [f"{first}-{last + step}" for step in (-2, -1, 1, 2)]
    elif example.fact.isdecimal():  # a day or a month
        number = int(example.fact) - 1
        near = [str((number + step) % len(facts) + 1) for step in (-2, -1, 1, 2)]
    else:
        near = []
    return [fact for fact in near if fact in facts]
