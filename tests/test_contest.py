"""Evaluations on disk: who is asked what, nothing twice, nothing lost, and what comes of it."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from arbitrage.engines.fake import FakeGenerator, FakeScorer
from arbitrage.errors import ConfigError
from arbitrage.options import FakeOptions
from arbitrage.records import Completion
from arbitrage.winrate.analysis import analyse
from arbitrage.winrate.choices import AnalysisConfig
from arbitrage.winrate.contest import contest_of
from arbitrage.winrate.gathering import gathered
from contest_harness import LANGUAGES, contest_in, make_contest, model, play, questions
from harness import digests, fake, frame, make_config, write_prompts
from harness import run as run_pipeline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from arbitrage.config import Sampling
    from arbitrage.records import Prompt
    from harness import Run

COUNT = 20
MODELS = {"good": model("g", 0.8), "bad": model("b", 0.3), "middling": model("m", 0.5)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_prompts(tmp_path / "questions.jsonl", questions(COUNT))
    return tmp_path


def results_of(made: Run, **analysis: Any) -> Any:
    found = gathered(made.planner, made.store, made.config)  # type: ignore[arg-type]
    choices = AnalysisConfig(resamples=50, **analysis)
    baseline = contest_in(made).baseline
    return analyse(found.outcomes, choices, baseline, failures=found.failures)


def asked(made: Run, name: str) -> int:
    return len(made.engine(name).generated)


def new_work(made: Run) -> list[tuple[str, str]]:
    names = {part.fingerprint: part.name for part in contest_in(made).served}
    return sorted({(t.stage, names.get(t.owner, t.owner)) for t, _ in made.done if t.requests})


class Fixed(FakeGenerator):
    """A judge that always says the same, or what a function of the prompt says."""

    def __init__(self, say: Any) -> None:
        super().__init__(FakeOptions(), "fixed")
        self._say = say

    async def generate(
        self, prompt: Prompt, sampling: Sampling, seeds: Sequence[int]
    ) -> list[Completion]:
        text = self._say if isinstance(self._say, str) else self._say(prompt)
        return [Completion(text, "stop", 3, 2) for _ in seeds]


def test_known_winners_win_and_every_number_is_what_the_files_say(folder: Path) -> None:
    made = play(make_contest(folder, MODELS, baseline="bad"))
    assert not made.failed
    results = results_of(made)
    rates = {row.model: row.rate.value for row in results.rows if row.scope == "all"}
    assert rates["good"] > rates["middling"] > 0.5
    games = frame(folder / "evaluation", "judgements/")
    assert len(games) == COUNT * len(LANGUAGES) * 2 * 2
    assert games.groupby(["prompt_id", "game"]).size().eq(2).all()
    contest = contest_in(made)
    for one in contest.pairs:
        name = next(part.name for part in one if part.name != "bad")
        folder_of_pair = f"{made.planner.folder_of(contest.judges[0])}/{one.label}"
        rows = frame(folder / "evaluation", folder_of_pair)
        first = one.first.name == name
        total = weight = 0.0
        for row in rows.itertuples():
            shown_first = (row.game == 0) == first
            value = {"A>>B": 1, "A>B": 1, "A=B": 0.5, "B>A": 0, "B>>A": 0}[row.verdict]
            copies = 3 if ">>" in row.verdict else 1
            total += copies * (value if shown_first else 1 - value)
            weight += copies
        assert rates[name] == pytest.approx(total / weight, abs=1e-12)


def test_a_judge_that_likes_the_first_place_says_nothing_and_that_is_counted(folder: Path) -> None:
    config = make_contest(folder, {"a": model("a", 0.9), "b": model("b", 0.1)}, baseline="b")
    made = play(config, {"judge": Fixed("[[A>B]]")})
    row = results_of(made).row("a", "b")
    assert row.rate.value == 0.5
    assert (row.flipped, row.both, row.prompts) == (60, 60, 60)
    silent = results_of(made, flips="abstain")
    assert "a" not in {row.model for row in silent.rows if row.games}


def test_the_second_call_asks_for_nothing(folder: Path) -> None:
    config = make_contest(folder, MODELS, baseline="bad")
    play(config)
    before = digests(folder / "evaluation")
    again = play(config)
    assert again.done == []
    assert digests(folder / "evaluation") == before


def test_a_new_model_costs_its_own_answers_and_games(folder: Path) -> None:
    two = {name: MODELS[name] for name in ("good", "bad")}
    play(make_contest(folder, two, baseline="bad"))
    made = play(make_contest(folder, MODELS, baseline="bad"))
    assert new_work(made) == [("generate", "middling"), ("judge", "judge")]
    assert (asked(made, "good"), asked(made, "bad")) == (0, 0)
    assert asked(made, "middling") == 60
    assert asked(made, "judge") == 120


def test_another_baseline_names_and_analysis_judge_no_game_again(folder: Path) -> None:
    play(make_contest(folder, MODELS))
    other = play(make_contest(folder, MODELS, baseline="good", analysis={"strong_weight": 1}))
    assert other.done == []
    renamed = {f"new-{name}": block for name, block in MODELS.items()}
    made = play(make_contest(folder, renamed, {"arbiter-of-taste": {"engine": "fake"}}))
    assert made.done == []
    assert {row.model for row in results_of(made).rows} == set(renamed)


def test_another_template_is_another_judge(folder: Path) -> None:
    play(make_contest(folder, MODELS, baseline="bad"))
    own = (
        '{% block system %}s{% endblock %}{% block user %}{"answer_a": {{ answer_a | tojson }}, '
        '"answer_b": {{ answer_b | tojson }}}{% endblock %}{% block reminder %}r{% endblock %}'
    )
    (folder / "own.jinja").write_text(own, encoding="utf-8")
    judges = {"judge": {"engine": "fake", "template": str(folder / "own.jinja")}}
    made = play(make_contest(folder, MODELS, judges, baseline="bad"))
    assert new_work(made) == [("judge", "judge")]
    (folder / "own.jinja").rename(folder / "moved.jinja")
    judges["judge"]["template"] = str(folder / "moved.jinja")
    assert play(make_contest(folder, MODELS, judges, baseline="bad")).done == []


def test_appended_questions_open_a_new_shard_and_cost_their_own(folder: Path) -> None:
    config = make_contest(folder, MODELS, baseline="bad")
    play(config)
    write_prompts(folder / "questions.jsonl", questions(COUNT + 2))
    made = play(config)
    assert asked(made, "judge") == 2 * len(LANGUAGES) * 2 * 2


@pytest.mark.parametrize("seed", range(6))
def test_stopped_anywhere_and_called_again_gives_the_same_bytes(folder: Path, seed: int) -> None:
    judges = {"judge": {"engine": "fake", "options": {"judge_silent": 0.2}}}
    arbiters = {"rm": {"engine": "fake"}}

    def config(name: str) -> Any:
        made = make_contest(folder, MODELS, judges, arbiters=arbiters, baseline="bad")
        return made.model_copy(update={"evaluation": str(folder / name)})

    play(config("whole"))
    draw = random.Random(seed)
    for _ in range(5):
        play(config("killed"), at_once=3, order=draw, stop_after=draw.randint(1, 9))
    play(config("killed"), at_once=2, order=draw)
    assert digests(folder / "killed") == digests(folder / "whole")


def test_failed_games_are_told_and_asked_again_on_request_alone(folder: Path) -> None:
    config = make_contest(folder, MODELS, baseline="bad")

    def sometimes(prompt: Prompt) -> str:
        return "[[A>B]]" if int(prompt.id[:2], 16) % 4 else "I would rather not."

    made = play(config, {"judge": Fixed(sometimes)})
    results = results_of(made)
    missing = sum(count for *_, count in results.failures)
    assert missing > 10
    assert missing == sum(r.missing for r in results.rows if r.scope == "all")
    assert {reason for _, _, reason, _ in results.failures} == {
        "the judge's last line is no verdict"
    }
    assert play(config, {"judge": Fixed("[[A>B]]")}).done == []
    spent = sum(n["spent"]["requests"] for n in notes(made))
    again = play(config, {"judge": Fixed("[[A>B]]")}, again=True)
    assert asked(again, "judge") == missing
    assert results_of(again).failures == ()
    assert sum(n["spent"]["requests"] for n in notes(again)) == spent + missing
    assert play(config, again=True).done == []


def notes(made: Run) -> list[dict[str, Any]]:
    files = [p for p in made.store.listing().files if p.startswith("judgements/")]
    return list(made.store.footers(files).values())


def test_failed_answers_are_asked_again_with_their_games(folder: Path) -> None:
    models = {"a": model("a", 0.7, fail=0.3), "b": model("b", 0.4)}
    config = make_contest(folder, models, baseline="b")
    made = play(config)
    results = results_of(made)
    lost = {reason: n for _, _, reason, n in results.failures}
    assert set(lost) == {"no answer"}
    assert lost["no answer"] == results.row("a", "b").missing > 0
    again = play(config, {"a": FakeGenerator(FakeOptions(skill=0.7), "/a")}, again=True)
    assert asked(again, "a") == lost["no answer"] // 2
    assert asked(again, "judge") == lost["no answer"]
    assert results_of(again).row("a", "b").missing == 0


def test_answers_from_a_file_are_found_by_id_and_language(folder: Path) -> None:
    rows = [
        {
            "uid": row["question_id"],
            "language": row["language"],
            "output": f"mine ({n % 9 / 9:.4f})",
        }
        for n, row in enumerate(questions(COUNT))
        if n != 7
    ]
    write_prompts(folder / "mine.jsonl", rows)
    models = {"mine": {"answers": str(folder / "mine.jsonl")}, "b": model("b")}
    made = play(make_contest(folder, models, baseline="b"))
    results = results_of(made)
    assert results.row("mine", "b").missing == 2
    assert results.failures == (("judge", "b / mine", "no answer", 2),)
    candidates = frame(folder / "evaluation", "candidates/mine-")
    texts = dict(zip(candidates.prompt_id, candidates.completion, strict=True))
    table = frame(folder / "evaluation", "prompts/")
    for row in table.itertuples():
        wanted = next(
            (r["output"] for r in rows if (r["uid"], r["language"]) == (row.user_id, row.language)),
            None,
        )
        assert texts[row.prompt_id] == wanted or (wanted is None and pd.isna(texts[row.prompt_id]))
    first = contest_of(made.config).entrants[0].fingerprint  # type: ignore[arg-type]
    write_prompts(folder / "mine.jsonl", rows[1:])
    assert contest_of(made.config).entrants[0].fingerprint != first  # type: ignore[arg-type]


def test_a_run_and_its_teachers_take_part(folder: Path) -> None:
    write_prompts(folder / "prompts.jsonl", [r | {"id": r["question_id"]} for r in questions(8)])
    teachers = {"t": fake(0.7, options={"voice": "t"}), "u": fake(0.5, options={"voice": "u"})}
    done = run_pipeline(make_config(folder, teachers))
    best = {row["prompt_id"]: row["completion"] for row in done.rows("selected")}
    models = {
        "ours": {"run": str(folder / "run")},
        "t": {"run": str(folder / "run"), "teacher": "t"},
        "u": {"run": str(folder / "run"), "teacher": "u"},
    }
    config = make_contest(folder, models, {}, arbiters={"rm": {"engine": "fake"}}, baseline="ours")
    made = play(config)
    adopted = frame(folder / "evaluation", "candidates/ours-")
    found = dict(zip(adopted.prompt_id, adopted.completion, strict=True))
    assert {key: text for key, text in found.items() if not pd.isna(text)} == best
    results = results_of(made)
    for name in ("t", "u"):
        row = results.row(name, "ours")
        assert row.rate.value <= 0.5, "the Arbiter chose the best of them"
        assert row.games == len(best)
    with pytest.raises(ConfigError, match=r"no answers of a teacher 'x'; its teachers are t, u"):
        contest_of(make_contest(folder, {**models, "x": {**models["t"], "teacher": "x"}}))
    with pytest.raises(ConfigError, match=r"models\.ours: .*nowhere is no run directory"):
        contest_of(make_contest(folder, {**models, "ours": {"run": str(folder / "nowhere")}}))


def test_an_arbiters_difference_is_a_game_with_a_margin_and_strong_wins(folder: Path) -> None:
    models = {"a": model("a", 0.8), "b": model("b", 0.3)}
    arbiters = {"rm": {"engine": "fake", "margin": 0.1, "strong": 0.5, "options": {"fail": 0.1}}}
    made = play(make_contest(folder, models, {}, arbiters=arbiters, baseline="b"))
    row = results_of(made).row("a", "b")
    scores = {
        name: frame(
            folder / "evaluation", f"{made.planner.folder_of(contest_in(made).arbiters[0])}/{name}-"
        )
        for name in ("a", "b")
    }
    gap = scores["a"].set_index("prompt_id").score - scores["b"].set_index("prompt_id").score
    known = gap.dropna()
    assert row.missing == gap.isna().sum() > 0
    assert row.ties == (known.abs() <= 0.1).sum()
    assert row.wins == (known > 0.1).sum()
    assert row.strong_wins == (known >= 0.5).sum() > 0
    weight = 1 + 2 * (known.abs() >= 0.5)
    score = (known > 0.1) + 0.5 * (known.abs() <= 0.1)
    assert row.rate.value == pytest.approx((weight * score).sum() / weight.sum(), abs=1e-12)


def test_models_that_cover_some_languages_meet_there(folder: Path) -> None:
    models = {"a": model("a") | {"languages": ["de", "fr"]}, "b": model("b")}
    made = play(make_contest(folder, models, baseline="b"))
    results = results_of(made)
    assert results.row("a", "b").prompts == 40
    assert results.row("a", "b").missing == 0
    assert {row.of for row in results.rows if row.scope == "language"} == {"de", "fr"}
    assert asked(made, "a") == 40


def test_translations_of_a_question_stay_together(folder: Path) -> None:
    made = play(make_contest(folder, MODELS, baseline="bad"))
    outcomes = gathered(made.planner, made.store, made.config).outcomes  # type: ignore[arg-type]
    assert len(set(outcomes.question.tolist())) == COUNT
    assert len(set(outcomes.prompt.tolist())) == COUNT * len(LANGUAGES)
    assert set(outcomes.categories) == {"code", "math"}
    assert not math.isnan(results_of(made).row("good", "bad", "category", "math").rate.low)


def test_verdicts_count_for_the_answers_that_they_were_said_of(folder: Path) -> None:
    made = play(make_contest(folder, MODELS, baseline="bad"))
    victim = next(p for p in made.store.listing().files if p.startswith("candidates/good"))
    content = made.store.read(victim)
    texts = content.table["completion"].to_pylist()
    place = content.table.column_names.index("completion")
    changed = content.table.set_column(place, "completion", [["another", *texts[1:]]])
    footer = {name: value for name, value in content.footer.items() if name != "kind"}
    made.store.publish(victim, changed.cast(content.table.schema), footer)
    results = results_of(made)
    assert results.row("good", "bad").missing == 2
    assert results.failures[0][2].startswith("the answer is another one now")


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"uid": "u", "category": "hard_prompt", "subcategory": "x", "prompt": "p"}, "p"),
        ({"question_id": "u", "cluster": "c", "turns": [{"content": "t"}]}, "t"),
        ({"question_id": "u", "category": "c", "prompt": "p", "language": "de"}, "p"),
        ({"instruction": "i", "dataset": "d", "id": "u"}, "i"),
    ],
)
def test_question_sets_of_others_are_read_as_they_are(
    tmp_path: Path, row: dict[str, Any], text: str
) -> None:
    write_prompts(tmp_path / "questions.jsonl", [{"language": "en", **row}])
    made = play(make_contest(tmp_path, {"a": model("a"), "b": model("b")}))
    table = frame(tmp_path / "evaluation", "prompts/")
    assert [turn["content"] for turn in table.messages[0]] == [text]
    assert table.user_id.tolist() == ["u"]
    assert made.store.listing().files


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"judges": {}}, "nobody judges"),
    ({"baseline": "x"}, "there is no model 'x'; models are a, b"),
    ({"models": {"a": model("a")}}, "at least 2"),
    ({"models": {"a": model("a"), "b": {"model": "x"}}}, "either `engine:`, `answers:` or `run:`"),
    ({"models": {"a": model("a"), "b": {"run": "x", "answers": "y"}}}, "either `engine:`"),
    ({"models": {"a": model("a"), "b": {"run": "x", "teachers": "y"}}}, "did you mean 'teacher'"),
    ({"models": {"a": model("a"), "b": model("b") | {"sampling": {"n": 2}}}}, "once"),
    ({"judges": {"j": {"engine": "fake", "sampling": {"n": 2}}}}, "one verdict per game"),
    ({"judges": {"j": {"engine": "fake", "tires": 2}}}, "did you mean 'tries'"),
    ({"arbiters": {"judge": {"engine": "fake"}}}, "'judge' is the name of two"),
    ({"judges": {"a": {"engine": "fake"}}}, "'a' is the name of two"),
    ({"judges": {"j": {"engine": "fake", "languages": ["de"]}}}, "'languages' means nothing"),
    ({"judges": {"j": {"engine": "fake", "system": "x"}}}, "'system' means nothing"),
    ({"arbiters": {"r": {"engine": "fake", "weight": 2}}}, "'weight' means nothing"),
    (
        {"models": {"a": model("a"), "b": {"run": "s3://key:secret@bucket/x"}}},
        "secret|credentials|password|key",
    ),
]


@pytest.mark.parametrize(("blocks", "sentence"), WRONG)
def test_every_mistake_in_a_config_has_its_sentence(
    tmp_path: Path, blocks: dict[str, Any], sentence: str
) -> None:
    models = blocks.pop("models", {"a": model("a"), "b": model("b")})
    judges = blocks.pop("judges", None)
    with pytest.raises(ValueError, match=sentence):
        make_contest(tmp_path, models, judges, **blocks)


def test_twins_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match="models 'a' and 'b' would give the same answers"):
        contest_of(make_contest(folder, {"a": model("x"), "b": model("x")}))


def test_what_is_there_already_is_json(folder: Path) -> None:
    results = results_of(play(make_contest(folder, MODELS, baseline="bad")))
    told = json.loads(results.as_json())
    assert told["models"] == list(MODELS)


def test_scores_that_failed_are_asked_again_and_no_others(folder: Path) -> None:
    models = {"a": model("a", 0.8), "b": model("b", 0.3)}
    arbiters = {"rm": {"engine": "fake", "options": {"fail": 0.2}}}
    config = make_contest(folder, models, {}, arbiters=arbiters, baseline="b")
    missing = results_of(play(config)).row("a", "b").missing
    assert missing > 5
    again = play(config, {"rm": FakeScorer(FakeOptions())}, again=True)
    lost = len(again.engine("rm").scored)
    assert missing <= lost < 40
    assert results_of(again).row("a", "b").missing == 0


def verdicts(place: Path) -> dict[tuple[str, str, str], str]:
    games = frame(place, "judgements/")
    keys = zip(games.prompt_id, games.answer_a, games.answer_b, strict=True)
    return dict(zip(keys, games.verdict, strict=True))


def test_more_languages_cost_their_own_games(folder: Path) -> None:
    some = {**MODELS, "good": MODELS["good"] | {"languages": ["de"]}}
    play(make_contest(folder, some, baseline="bad"))
    before = verdicts(folder / "evaluation")
    more = {**MODELS, "good": MODELS["good"] | {"languages": ["de", "fr"]}}
    made = play(make_contest(folder, more, baseline="bad"))
    assert (asked(made, "good"), asked(made, "judge")) == (COUNT, 2 * COUNT)
    assert before.items() <= verdicts(folder / "evaluation").items()
    assert results_of(made).row("good", "bad").games == 4 * COUNT


def test_answers_that_are_added_to_a_file_cost_their_own_games(folder: Path) -> None:
    rows = [
        {"id": row["question_id"], "language": row["language"], "output": f"mine ({n / 99:.4f})"}
        for n, row in enumerate(questions(COUNT))
    ]
    path = write_prompts(folder / "mine.jsonl", rows[:-1])
    config = make_contest(folder, {"mine": {"answers": str(path)}, "b": model("b")})
    play(config)
    write_prompts(path, rows)
    made = play(config)
    assert asked(made, "judge") == 2
    assert results_of(made).row("mine", "b").missing == 0
    write_prompts(path, [{**rows[0], "output": "another"}, *rows[1:]])
    assert asked(play(config), "judge") == 2


def test_a_seed_of_the_sampling_is_the_judges(folder: Path) -> None:
    judges = {"judge": {"engine": "fake", "sampling": {"temperature": 1, "seed": 7}}}
    made = play(make_contest(folder, MODELS, judges, baseline="bad"))
    seeds = [seeds for _, _, seeds in made.engine("judge").generated]
    other = make_contest(folder, MODELS, judges, baseline="bad", seed=99)
    other = other.model_copy(update={"evaluation": str(folder / "other")})
    assert [seeds for _, _, seeds in play(other).engine("judge").generated] == seeds


FAILING = {"a": model("a", 0.7, fail=0.3), "b": model("b", 0.4)}
SOUND = {
    "a": FakeGenerator(FakeOptions(skill=0.7), "/a"),
    "judge": FakeGenerator(FakeOptions(), "/"),
}


@pytest.mark.parametrize("stop_after", range(1, 12))
@pytest.mark.parametrize("scored", [False, True])
def test_a_retry_may_be_stopped_anywhere(folder: Path, stop_after: int, scored: bool) -> None:
    """Nothing that counted is gone, nothing old is taken for new, and the end is the same."""
    blocks: dict[str, Any] = {"arbiters": {"rm": {"engine": "fake"}}} if scored else {}
    judges = {} if scored else {"judge": {"engine": "fake", "options": {"judge_silent": 0.2}}}
    config = make_contest(folder, FAILING, judges, baseline="b", **blocks)
    before = results_of(play(config)).row("a", "b")
    assert before.missing > 10
    stopped = play(config, SOUND, again=True, stop_after=stop_after)
    for made in (stopped, play(config, SOUND)):
        row = results_of(made).row("a", "b")
        assert row.games + row.missing == before.games + before.missing
        if not scored:
            assert row.games >= before.games
    for _ in range(2):
        made = play(config, SOUND, again=True)
    row = results_of(made).row("a", "b")
    assert row.missing == 0
    assert play(config, SOUND, again=True).done == []


def test_a_retry_of_answers_that_nobody_else_reads_leaves_verdicts_alone(folder: Path) -> None:
    models = {**FAILING, "b": model("b", 0.4) | {"languages": ["de"]}}
    config = make_contest(folder, models, baseline="b")
    play(config)
    made = play(config, SOUND, again=True)
    assert results_of(made).row("a", "b").prompts == COUNT
    assert results_of(made).row("a", "b").missing == 0


def test_failures_are_asked_again_after_languages_were_added_too(folder: Path) -> None:
    for languages in (["de"], ["de", "fr"]):
        models = {**FAILING, "a": FAILING["a"] | {"languages": languages}}
        config = make_contest(folder, models, baseline="b")
        missing = results_of(play(config)).row("a", "b").missing
    assert missing > 5
    assert results_of(play(config, SOUND, again=True)).row("a", "b").missing == 0


def test_holes_that_nobody_can_fill_are_not_asked_for_again(folder: Path) -> None:
    rows = [{"id": "q1", "language": "de", "output": "mine"}]
    path = write_prompts(folder / "mine.jsonl", rows)
    config = make_contest(folder, {"mine": {"answers": str(path)}, "b": model("b")})
    assert results_of(play(config)).row("mine", "b").missing > 100
    assert play(config, again=True).done == []


def test_a_bad_file_of_answers_is_refused_before_anything_is_asked(folder: Path) -> None:
    path = folder / "bad.jsonl"
    path.write_text('{"id": "q1", "output": "x"}\nno json\n', encoding="utf-8")
    with pytest.raises(ConfigError, match=r"models\.mine: .*bad\.jsonl, row 2"):
        contest_of(make_contest(folder, {"mine": {"answers": str(path)}, "b": model("b")}))
