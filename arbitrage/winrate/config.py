"""What a win-rate evaluation can be told, each field once, with its bounds and meaning beside it.

    evaluation: runs/winrate
    questions: questions.jsonl
    models:
      ours: {run: runs/mine}                        # what a run has selected
      theirs: {answers: theirs.jsonl}               # answers in a file
      student: {engine: vllm, model: ./student}     # a model that answers now
    baseline: theirs
    judges:
      judge: {engine: endpoint, model: some-model, options: {base_url: "https://host/v1"}}

Unknown keys are errors that name the nearest known one. What is judged is kept: changing the
analysis, the baseline or the models asks for nothing that was asked before.
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SerializeAsAny, field_validator, model_validator

from arbitrage.blocks import Block, incidental
from arbitrage.choices import Columns
from arbitrage.config import (
    ArbiterConfig,
    Name,
    Place,
    PromptsConfig,
    Sampling,
    Served,
    TeacherConfig,
)
from arbitrage.settings import BudgetConfig, ClusterConfig, OutputConfig
from arbitrage.winrate.choices import AnalysisConfig

QUESTION_COLUMNS = Columns(
    prompt=("prompt", "instruction", "question"),
    messages=("messages", "turns"),
    id=("uid", "question_id", "id"),
)
"""As Arena-Hard's question.jsonl, m-ArenaHard and AlpacaEval name them."""


class QuestionsConfig(PromptsConfig):
    """The question set. `id` names a question: its translations have the same one, and stay
    together where questions are drawn anew."""

    columns: Columns = QUESTION_COLUMNS
    contradiction: Literal["report", "quarantine", "ignore"] = "ignore"
    category: str | None = incidental("category", description="the column with the category")


class AnsweringModel(TeacherConfig):
    """A model that answers every question once."""

    languages: tuple[str, ...] | Literal["all"] = incidental("all")
    sampling: tuple[Sampling, ...] = (Sampling(temperature=0, max_tokens=4096),)

    @field_validator("sampling")
    @classmethod
    def _one_answer(cls, value: tuple[Sampling, ...]) -> tuple[Sampling, ...]:
        if len(value) > 1 or value[0].n > 1:
            raise ValueError("a model answers every question once; give one group with n: 1")
        return value


class AnswersFile(Block):
    """A model whose answers are in a file: Arena-Hard's, AlpacaEval's, or JSON lines of one's
    own."""

    answers: str = Field(min_length=1, description="a file of JSON lines, or a JSON list")
    model: str | None = Field(None, description="whose answers, where the file has several's")


class FromRun(Block):
    """Answers of a run: what it has selected, or what one of its teachers said."""

    run: Place = Field(min_length=1, description="a run directory, or its address")
    teacher: str | None = Field(None, description="its first answer to each prompt; none: selected")


ENTRANTS: dict[str, type[Block]] = {
    "answers": AnswersFile,
    "run": FromRun,
    "engine": AnsweringModel,
}
"""What a model's block is, by the key that it must have."""


def _entrant(value: Any) -> Any:
    """The block of a model, by what it says of where its answers come from."""
    if isinstance(value, Block):
        return value
    if not isinstance(value, dict):
        raise ValueError("should be a block with `engine:`, `answers:` or `run:`")
    kinds = [kind for key, kind in ENTRANTS.items() if key in value]
    if len(kinds) != 1:
        raise ValueError("a model has either `engine:`, `answers:` or `run:`")
    return kinds[0].model_validate(value)


class JudgeConfig(TeacherConfig):
    """A chat model that compares two answers."""

    languages: tuple[str, ...] | Literal["all"] = incidental("all")
    sampling: tuple[Sampling, ...] = (Sampling(temperature=0, max_tokens=4096),)
    template: str | None = incidental(
        None, description="a Jinja file, whose text counts; none: the package's own"
    )
    tries: int = incidental(3, ge=1, le=20, description="to get a verdict in the agreed form")

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        for name in ("languages", "families", "system"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name!r} means nothing to a judge; drop it")
        return self

    @field_validator("sampling")
    @classmethod
    def _one_verdict(cls, value: tuple[Sampling, ...]) -> tuple[Sampling, ...]:
        if len(value) > 1 or value[0].n > 1:
            raise ValueError("a judge says one verdict per game; give one group with n: 1")
        return value


class ScoringConfig(ArbiterConfig):
    """An Arbiter as a judge: who has the higher score wins."""

    margin: float = incidental(0.0, ge=0, description="scores no further apart are a tie")
    strong: float | None = incidental(None, gt=0, description="from here on a win is a strong one")

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        for name in ("name", "weight"):
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"{name!r} means nothing to an Arbiter as a judge; drop it")
        return self


class WinrateConfig(Block):
    """One evaluation: questions, models that answer them, and judges that compare the answers."""

    evaluation: Place = incidental(..., min_length=1, description="a folder, or an address")
    seed: int = Field(0, ge=0)
    questions: QuestionsConfig
    families: dict[str, tuple[str, ...]] = Field({}, description="redefines language families")
    models: dict[Name, Annotated[SerializeAsAny[Block], BeforeValidator(_entrant)]] = Field(
        min_length=2
    )
    baseline: Name | None = Field(None, description="whom all others meet; none: all against all")
    judges: dict[Name, JudgeConfig] = Field({}, description="chat models: two games per pair")
    arbiters: dict[Name, ScoringConfig] = Field({}, description="the higher score wins")
    analysis: AnalysisConfig = AnalysisConfig()
    output: OutputConfig = OutputConfig()
    cluster: ClusterConfig = ClusterConfig()
    budget: BudgetConfig = incidental(BudgetConfig())

    @model_validator(mode="after")
    def _makes_sense(self) -> Self:
        if not self.judges and not self.arbiters:
            raise ValueError("nobody judges; give `judges:` (chat models) or `arbiters:`")
        names = [*self.models, *self.judges, *self.arbiters]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]!r} is the name of two: a model, a judge or an Arbiter")
        if self.baseline is not None and self.baseline not in self.models:
            raise ValueError(
                f"baseline: there is no model {self.baseline!r}; models are "
                f"{', '.join(self.models)}"
            )
        return self

    @property
    def served(self) -> tuple[Served, ...]:
        """All that have an engine."""
        answering = (one for one in self.models.values() if isinstance(one, Served))
        return (*answering, *self.judges.values(), *self.arbiters.values())


def template_text(path: str | None) -> str:
    """The judge's template. Raises OSError."""
    own = resources.files("arbitrage") / "templates" / "judge.jinja"
    return (own if path is None else Path(path)).read_text(encoding="utf-8")
