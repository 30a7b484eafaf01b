"""Config files: strict reading, overrides, paths, clear refusals; and what makes an identity."""

from __future__ import annotations

import pickle
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from arbitrage import configfile
from arbitrage.blocks import Block
from arbitrage.components import Components, Teacher
from arbitrage.config import (
    GatesConfig,
    Reasoning,
    Resources,
    RunConfig,
    Sampling,
    TeacherConfig,
    for_language,
)
from arbitrage.engines import ENGINES
from arbitrage.errors import ConfigError
from arbitrage.gates import GATES
from arbitrage.languages import table
from arbitrage.options import OPTIONS, EndpointOptions, FakeOptions, TransformersOptions
from arbitrage.resolve import resolve
from arbitrage.selection import SELECTORS
from arbitrage.winrate.loading import load_winrate

ROOT = Path(__file__).parents[1]
EVALUATION = ROOT / "configs/winrate.yaml"
EXAMPLES = [ROOT / "arbitrage/templates/arbitrage.yaml", *sorted((ROOT / "configs").glob("*.yaml"))]
EXAMPLES.remove(EVALUATION)
for name in ("merge.yaml", "sweep.yaml"):
    EXAMPLES.remove(ROOT / "configs" / name)
SHORT = """
run: out
prompts: {sources: [{path: p.jsonl}]}
teachers:
  a: {engine: fake, languages: [de]}
arbiter: {engine: fake}
"""
FULL = """
run: runs/full
seed: 3
prompts:
  sources:
    - path: in/mgsm_{language}.tsv
      names: [question, answer]
      quoting: false
      format: tsv
      columns: {prompt: question, messages: null, id: null, language: null}
    - {dataset: org/name, subset: main, split: test, revision: abc, language: pt-BR}
  columns: {prompt: q, messages: m, id: i, language: l}
  detect: false
  contradiction: quarantine
  uncovered: quarantine
  max_chars: 5000
  shard_size: 64
families:
  nordic: [da, nb, sv, isl]
teachers:
  big.one_2-b:
    engine: transformers
    model: org/model
    revision: main
    trust_remote_code: false
    families: [nordic, slavic]
    languages: [pt-BR, deu, EN]
    system: {default: Answer., deu: Antworte.}
    chat_template: "{{ messages }}"
    reasoning: {start: <think>, end: </think>}
    sampling:
      - {temperature: 0, max_tokens: 32}
      - {n: 3, temperature: 0.9, top_p: 0.95, top_k: 40, min_p: 0.05, repetition_penalty: 1.1,
         stop: ["\\n\\n", END], seed: 9}
    options: {dtype: bfloat16, max_length: 2048, device: cpu}
    resources:
      {replicas: 2, min_replicas: 2, cpus: 4, gpus: 0.5, memory_gb: 12, batch_size: 16,
       python: env/bin/python, hang_s: 60, load_timeout_s: 600, price_per_hour: 2.5}
    license: apache-2.0
    for_training: false
    parameters: 7000000000
  small:
    engine: fake
    languages: all
    sampling: {n: 2}
    options: {skill: {de: 0.9, default: 0.2}, words: 5, voice: x, truncate: 0.1, empty: 0.1,
              deadly: 0.0, fail: 0.1, lie: "no", delay_s: 0.1, load_s: 0.1, hang_after: 3,
              crash_after: 4, crash_once: mark}
arbiter:
  engine: transformers
  name: judge
  model: org/reward
  chat_template: "{{ messages }}"
  options: {max_length: 512}
retry: {budget: 3, temperature: 0.5}
fuser: {engine: fake, least: 3, instruction: Fuse them.}
routing: {router: all}
gates:
  truncated: false
  empty: true
  repetition: true
  script: true
  language: true
  refusal: false
  instruction: true
  max_repetition: 0.1
  max_foreign_letters: 0
  max_wrong_lines: 0.5
  equal_languages: [[por, gl], [no-NO, da]]
  refusals: [no comment]
selection: {rule: best}
output: {compression: snappy}
cluster: {cpus: 4, gpus: 0, attempts: 2, address: local, patience_s: 60, grace_s: 5}
budget: {tokens: 5000000, requests: 20000}
"""


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


def load(folder: Path, text: str = SHORT, *overrides: str) -> RunConfig:
    path = folder / "arbitrage.yaml"
    path.write_text(text, encoding="utf-8")
    return configfile.load(path, overrides).config


def refusal(folder: Path, text: str = SHORT, *overrides: str) -> str:
    """The one sentence with which a config is refused, without the file's name."""
    with pytest.raises(ConfigError) as error:
        resolve(load(folder, text, *overrides))
    message = str(error.value)
    assert error.value.exit_code == 2
    assert "\n" not in message, "one mistake is one sentence"
    assert not re.search(r"tuple\[|literal\[|dict\[|instance of|pydantic|Traceback", message)
    assert list(folder.iterdir()) == [folder / "arbitrage.yaml"]
    return message.removeprefix(f"{folder / 'arbitrage.yaml'}: ")


def parts_of(**changes: Any) -> Components:
    told = yaml.safe_load(SHORT) | {"run": "/r", "prompts": "/p.jsonl"}
    return resolve(RunConfig.model_validate(told | changes))


def teacher_of(*, seed: int = 0, **fields: Any) -> Teacher:
    told = {"engine": "fake", "languages": ["de"], **fields}
    return parts_of(seed=seed, teachers={"a": told}).teachers[0]


def make_model(folder: Path, weights: bytes = b"weights") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(weights)
    return folder


# --- reading --------------------------------------------------------------------------------------


def test_a_full_example_is_read_to_the_last_key(tmp_path: Path) -> None:
    config = load(tmp_path, FULL)
    first, second = config.prompts.sources
    assert first.path == str(tmp_path / "in/mgsm_{language}.tsv")
    assert first.names == ("question", "answer")
    assert first.columns is not None
    assert (first.quoting, first.format, first.columns.prompt) == (False, "tsv", "question")
    assert (second.dataset, second.split, second.language) == ("org/name", "test", "pt")
    assert config.prompts.columns.language == "l"
    big, small = config.teachers.values()
    assert big.languages == ("pt", "de", "en")
    assert big.families == ("nordic", "slavic")
    assert big.system == {"default": "Answer.", "de": "Antworte."}
    assert [group.n for group in big.sampling] == [1, 3]
    assert big.sampling[1].stop == ("\n\n", "END")
    assert big.reasoning == Reasoning(start="<think>", end="</think>")
    assert big.options == TransformersOptions(dtype="bfloat16", max_length=2048, device="cpu")
    held = Resources(
        replicas=2,
        min_replicas=2,
        cpus=4,
        gpus=0.5,
        memory_gb=12,
        batch_size=16,
        hang_s=60,
        load_timeout_s=600,
        price_per_hour=2.5,
    )
    assert (big.license, big.for_training, big.parameters) == ("apache-2.0", False, 7_000_000_000)
    python = str(tmp_path / "env/bin/python")
    assert big.resources == held.model_copy(update={"python": python})
    assert isinstance(small.options, FakeOptions)
    assert small.options.skill == {"de": 0.9, "default": 0.2}
    assert small.options.crash_once == str(tmp_path / "mark")
    assert small.languages == "all"
    assert config.arbiter.name == "judge"
    assert config.gates.enforced() == ("empty", "repetition", "script", "language", "instruction")
    assert config.gates.equal_languages == (("pt", "gl"), ("no", "da"))
    assert config.output.compression == "snappy"
    parts = resolve(config)
    assert parts.families["no"] == parts.families["is"] == "nordic"
    assert parts.teachers[0].languages >= {"pt", "de", "en", "da", "no", "ru"}
    assert "fr" not in parts.teachers[0].languages
    assert parts.covered == frozenset(table())


def test_the_full_example_names_every_key_there_is() -> None:
    told = yaml.safe_load(FULL)

    def check(block: type[Block], found: dict[str, Any], place: str) -> None:
        missing = set(block.model_fields) - set(found) - {"path", "dataset"}
        usual = {
            "model",
            "revision",
            "trust_remote_code",
            "resources",
            "arbiters",
            "combine",
            "trust",
            *(name for name in FakeOptions.model_fields if name.startswith("judge_")),
        }
        assert missing <= usual, place

    big, small = told["teachers"].values()
    check(RunConfig, told, "run")
    check(TeacherConfig, big, "teacher")
    check(Reasoning, big["reasoning"], "reasoning")
    check(TransformersOptions, big["options"], "transformers")
    check(FakeOptions, small["options"], "fake")
    check(Resources, big["resources"], "resources")
    check(Sampling, {**big["sampling"][0], **big["sampling"][1]}, "sampling")
    check(GatesConfig, told["gates"], "gates")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_every_example_of_the_repository_is_valid(path: Path) -> None:
    loaded = configfile.load(path)
    assert loaded.text == path.read_text(encoding="utf-8")
    assert Path(loaded.config.run).is_absolute()
    # The models of an example need not be here.
    known = {f"candidates/{name}": f"{n:012x}" for n, name in enumerate(loaded.config.teachers)}
    parts = resolve(loaded.config, {**known, "scores/arbiter": "0" * 12})
    assert len(parts.teachers) == len(known)
    assert parts.covered
    for source in loaded.config.prompts.sources:
        assert Path(str(source.path)).is_relative_to(ROOT)
        assert "{language}" in str(source.path) or Path(str(source.path)).is_file()


def test_the_commented_lines_of_the_template_are_valid_too(tmp_path: Path) -> None:
    text = EXAMPLES[0].read_text(encoding="utf-8")
    extra = re.findall(r"^  # (  .*|aya:)$", text, flags=re.MULTILINE)
    teacher = yaml.safe_load(
        "\n".join(line.removeprefix("  # ") for line in extra[:1] + extra[1:9])
    )
    assert list(teacher) == ["aya"]
    told = yaml.safe_load(text)
    told["teachers"].update(teacher)
    told["families"] = {"nordic": ["da", "nb", "sv", "is"]}
    config = load(tmp_path, yaml.safe_dump(told))
    aya = next(teacher for teacher in resolve(config).teachers if teacher.name == "aya")
    assert aya.languages >= {"ru", "tr", "el", "fa"}


def test_prompts_may_be_a_single_path(tmp_path: Path) -> None:
    text = SHORT.replace("{sources: [{path: p.jsonl}]}", "p.jsonl")
    assert load(tmp_path, text) == load(tmp_path)
    config = load(tmp_path, text, "prompts.shard_size=7")
    assert config.prompts.shard_size == 7
    assert config.prompts.sources[0].path == str(tmp_path / "p.jsonl")


def test_prompts_given_as_an_override_start_at_the_configs_folder_too(tmp_path: Path) -> None:
    for text in (SHORT, SHORT.replace("{sources: [{path: p.jsonl}]}", "p.jsonl")):
        config = load(tmp_path, text, "prompts=other.jsonl", "prompts.shard_size=7")
        assert config.prompts.sources[0].path == str(tmp_path / "other.jsonl")
        assert config.prompts.shard_size == 7


def test_one_sampling_group_may_stand_alone(tmp_path: Path) -> None:
    alone = load(tmp_path, SHORT, "teachers.a.sampling={n: 2, temperature: 0.7}")
    listed = load(tmp_path, SHORT, "teachers.a.sampling=[{n: 2, temperature: 0.7}]")
    assert alone == listed
    assert resolve(alone).fingerprint == resolve(listed).fingerprint


def test_language_tags_are_normalised(tmp_path: Path) -> None:
    config = load(tmp_path, SHORT, "teachers.a.languages=[pt-BR, deu, zh_Hant, EN, iw]")
    assert config.teachers["a"].languages == ("pt", "de", "zh", "en", "he")
    config = load(tmp_path, SHORT, "teachers.a.system={pt-BR: x, default: y}")
    assert config.teachers["a"].system == {"pt": "x", "default": "y"}


def test_norwegian_is_no_truth_value(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        SHORT,
        "teachers.a.languages=[no, nn, de]",
        "teachers.a.system={no: Svar kort.}",
        "prompts.sources.0.language=no",
        "families={nordic: [da, no]}",
        "teachers.a.options={skill: {no: 0.9}}",
    )
    assert config.teachers["a"].languages == ("no", "no", "de")
    assert config.teachers["a"].system == {"no": "Svar kort."}
    assert config.prompts.sources[0].language == "no"
    assert resolve(config).families["no"] == "nordic"
    assert config.teachers["a"].options.skill == {"no": 0.9}  # type: ignore[attr-defined]


def test_truth_values_are_still_read(tmp_path: Path) -> None:
    for text, value in {"true": True, "False": False, "yes": True, "off": False}.items():
        assert load(tmp_path, SHORT, f"prompts.detect={text}").prompts.detect is value


def test_the_text_for_a_language_falls_back_to_the_default() -> None:
    assert for_language(None, "de") is None
    assert for_language("x", "de") == "x"
    assert for_language({"de": "y"}, "de") == "y"
    assert for_language({"de": "y"}, "fr") is None
    assert for_language({"de": "y", "default": "z"}, "fr") == "z"


def test_a_config_is_immutable_and_can_be_sent_to_another_process(tmp_path: Path) -> None:
    config = load(tmp_path, FULL)
    assert pickle.loads(pickle.dumps(config)) == config
    parts = resolve(config)
    assert pickle.loads(pickle.dumps(parts)) == parts
    with pytest.raises(ValidationError):
        config.seed = 2  # type: ignore[misc]
    with pytest.raises(ValidationError):
        config.teachers["small"].options.words = 2  # type: ignore[attr-defined]


def test_a_resolved_config_reads_back_the_same(tmp_path: Path) -> None:
    config = load(tmp_path, FULL)
    again = RunConfig.model_validate_json(config.model_dump_json())
    assert again == config
    assert resolve(again).fingerprint == resolve(config).fingerprint


# --- overrides ------------------------------------------------------------------------------------


def test_overrides_set_scalars_lists_and_blocks(tmp_path: Path) -> None:
    config = load(
        tmp_path,
        FULL,
        "seed=11",
        "run=elsewhere/run",
        "teachers.small.options.skill=0.25",
        "teachers.big.sampling=[{n: 5}]".replace("big", "small"),
        "prompts.sources.0.path=other.tsv",
        "prompts.sources.1={path: third.jsonl}",
        "cluster.cpus=null",
        "gates.truncated=true",
        "arbiter.revision=a=b",
    )
    assert config.seed == 11
    assert config.run == str(tmp_path / "elsewhere/run")
    assert config.teachers["small"].options.skill == 0.25  # type: ignore[attr-defined]
    assert config.teachers["small"].sampling[0].n == 5
    paths = [source.path for source in config.prompts.sources]
    assert paths == [str(tmp_path / "other.tsv"), str(tmp_path / "third.jsonl")]
    assert config.cluster.cpus is None
    assert config.gates.truncated is True
    assert config.arbiter.revision == "a=b"


def test_an_override_opens_blocks_that_the_file_has_not(tmp_path: Path) -> None:
    config = load(
        tmp_path, SHORT, "cluster.attempts=7", "teachers.b.engine=fake", "teachers.b.languages=all"
    )
    assert config.cluster.attempts == 7
    assert list(config.teachers) == ["a", "b"]


def test_the_last_override_wins(tmp_path: Path) -> None:
    assert load(tmp_path, SHORT, "seed=1", "seed=2").seed == 2


def test_overrides_do_not_change_the_recorded_text(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(SHORT)
    assert configfile.load(path, ["seed=4"]).text == SHORT


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("seed", ["--set", "'seed'", "a.b=value"]),
        ("=3", ["--set", "'=3'"]),
        ("", ["--set"]),
        ("sede=1", ["'sede'", "did you mean 'seed'"]),
        ("teachers.a.enginge=fake", ["teachers.a", "'enginge'", "'engine'"]),
        ("prompts.sources.1.path=x", ["--set prompts.sources.1.path", "'1'", "below 1"]),
        ("prompts.sources.-1.path=x", ["--set prompts.sources", "'-1'"]),
        ("prompts.sources.x.path=y", ["--set prompts.sources", "'x'"]),
        ("prompts.sources.1=x", ["--set prompts.sources.1", "'1'"]),
        ("run.x=1", ["--set run.x", "'run'", "plain value"]),
        ("seed=[1", ["--set seed", "YAML"]),
        ("gates={empty: true, empty: false}", ["--set gates", "'empty'", "twice"]),
        ("a..b=1", ["unknown key 'a'"]),
    ],
)
def test_a_bad_override_is_named(tmp_path: Path, override: str, words: list[str]) -> None:
    message = refusal(tmp_path, SHORT, override)
    assert all(word in message for word in words), message


# --- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("override", "place", "nearest"),
    [
        ("sed=1", "", "seed"),
        ("teacher={}", "", "teachers"),
        ("prompts.shard_sise=3", "prompts", "shard_size"),
        ("prompts.sources=[{pth: x}]", "prompts.sources.0", "path"),
        ("prompts.columns.promt=x", "prompts.columns", "prompt"),
        ("prompts.sources=[{path: x, columns: {promt: y}}]", "prompts.sources.0.columns", "prompt"),
        ("teachers.a.familys=[slavic]", "teachers.a", "families"),
        ("teachers.a.sampling={temprature: 1}", "teachers.a.sampling.0", "temperature"),
        ("teachers.a.sampling=[{n: 1}, {top-p: 1}]", "teachers.a.sampling.1", "top_p"),
        ("teachers.a.resources.gpu=1", "teachers.a.resources", "gpus"),
        ("teachers.a.options.skil=1", "teachers.a.options", "skill"),
        ("arbiter.nam=x", "arbiter", "name"),
        ("arbiter.options.word=1", "arbiter.options", "words"),
        ("gates.trunkated=true", "gates", "truncated"),
        ("selection.rul=best", "selection", "rule"),
        ("routing.route=all", "routing", "router"),
        ("output.compresion=zstd", "output", "compression"),
        ("cluster.cpu=2", "cluster", "cpus"),
    ],
)
def test_an_unknown_key_names_its_place_and_the_nearest_key(
    tmp_path: Path, override: str, place: str, nearest: str
) -> None:
    message = refusal(tmp_path, SHORT, override)
    start = f"{place}: unknown key" if place else "unknown key"
    assert message.startswith(start), message
    assert f"did you mean {nearest!r}?" in message


def test_a_key_that_is_like_no_other_lists_the_known_ones(tmp_path: Path) -> None:
    message = refusal(tmp_path, SHORT, "gates.xyzzy=1")
    assert "known keys are truncated, empty" in message


@pytest.mark.parametrize(
    ("text", "line", "key"),
    [
        (SHORT + "seed: 1\nseed: 2\n", 8, "seed"),
        (SHORT + "teachers: {}\n", 7, "teachers"),
        ("run: a\nprompts:\n  shard_size: 1\n  detect: true\n  shard_size: 2\n", 5, "shard_size"),
        ("run: a\narbiter: {engine: fake, engine: fake}\n", 2, "engine"),
        ("x: &x {a: 1}\ny:\n  <<: *x\n  b: 1\n  'b': 2\n", 5, "b"),
    ],
)
def test_a_key_written_twice_is_an_error(tmp_path: Path, text: str, line: int, key: str) -> None:
    message = refusal(tmp_path, text)
    assert f"line {line}: the key {key!r} stands twice" in message


def test_merge_keys_of_yaml_work(tmp_path: Path) -> None:
    text = SHORT.replace(
        "  a: {engine: fake, languages: [de]}",
        "  a: &a {engine: fake, languages: [de], seed: 1}\n  b: {<<: *a, languages: [fr]}",
    ).replace(", seed: 1", "")
    config = load(tmp_path, text, "teachers.b.options={voice: b}")
    assert config.teachers["b"].languages == ("fr",)


BOUNDS = [
    ("seed=-1", "seed", "-1"),
    ("seed=1.5", "seed", "1.5"),
    ("seed=x", "seed", "'x'"),
    ("run=", "run", "None"),
    ("run=''", "run", "''"),
    ("prompts.shard_size=0", "prompts.shard_size", "0"),
    ("prompts.shard_size=1000001", "prompts.shard_size", "1000000"),
    ("prompts.max_chars=0", "prompts.max_chars", "0"),
    ("prompts.contradiction=maybe", "prompts.contradiction", "'quarantine'"),
    ("prompts.uncovered=ignore", "prompts.uncovered", "'error'"),
    ("prompts.sources=[]", "prompts.sources", "at least 1"),
    ("prompts.sources=[{}]", "prompts.sources.0", "`path:`"),
    ("prompts.sources=[{path: a, dataset: b}]", "prompts.sources.0", "`dataset:`"),
    ("prompts.sources=[{path: a, folder: b}]", "prompts.sources.0", "'folder'"),
    ("prompts.sources=[{path: a, language: zz}]", "prompts.sources.0.language", "'zz'"),
    ("prompts.sources=[{path: a, format: xml}]", "prompts.sources.0.format", "'jsonl'"),
    ("teachers={}", "teachers", "at least 1"),
    ("teachers={a b: {engine: fake, languages: all}}", "teachers.a b", "'a b'"),
    ("teachers={../a: {engine: fake, languages: all}}", "teachers.../a", "'../a'"),
    ("teachers.a=", "teachers.a", "None"),
    ("teachers.a=3", "teachers.a", "3"),
    ("teachers.a={languages: all}", "teachers.a.engine", "missing"),
    ("teachers.a.engine=fak", "teachers.a", "did you mean 'fake'?"),
    ("teachers.a.engine=gpt", "teachers.a", "engines are fake, transformers"),
    ("teachers.a.engine=[fake]", "teachers.a", "engine"),
    ("teachers.a.engine=transformers", "teachers.a", "`model:`"),
    ("teachers.a.languages=[]", "teachers.a", "covers no language"),
    ("teachers.a.languages=[xx]", "teachers.a.languages", "'xx' is no known language"),
    ("teachers.a.languages=[1]", "teachers.a.languages", "1"),
    ("teachers.a.languages=alles", "teachers.a.languages", "all"),
    ("teachers.a.families=[germanik]", "teachers.a", "did you mean 'germanic'?"),
    ("teachers.a.families=[qqqqqq]", "teachers.a", "families are albanian"),
    ("teachers.a.system={zz: x}", "teachers.a.system", "'zz'"),
    ("teachers.a.system={de: x, deu: y}", "teachers.a.system", "de"),
    ("teachers.a.system=3", "teachers.a.system", "3"),
    ("teachers.a.model=./nowhere", "teachers.a", "no model folder"),
    ("teachers.a.sampling=[]", "teachers.a.sampling", "at least 1"),
    ("teachers.a.sampling={n: 0}", "teachers.a.sampling.0.n", "0"),
    ("teachers.a.sampling={n: 1025}", "teachers.a.sampling.0.n", "1024"),
    ("teachers.a.sampling={n: 2, temperature: 0}", "teachers.a.sampling.0", "2 times"),
    ("teachers.a.sampling={temperature: -0.1}", "teachers.a.sampling.0.temperature", "-0.1"),
    ("teachers.a.sampling={temperature: 11}", "teachers.a.sampling.0.temperature", "10"),
    ("teachers.a.sampling={temperature: .nan}", "teachers.a.sampling.0.temperature", "finite"),
    ("teachers.a.sampling={top_p: 0}", "teachers.a.sampling.0.top_p", "0"),
    ("teachers.a.sampling={top_p: 1.1}", "teachers.a.sampling.0.top_p", "1.1"),
    ("teachers.a.sampling={top_k: -1}", "teachers.a.sampling.0.top_k", "-1"),
    ("teachers.a.sampling={min_p: 1}", "teachers.a.sampling.0.min_p", "1"),
    ("teachers.a.sampling={repetition_penalty: 0}", "teachers.a.sampling.0.repet", "0"),
    ("teachers.a.sampling={max_tokens: 0}", "teachers.a.sampling.0.max_tokens", "0"),
    ("teachers.a.sampling={stop: ['']}", "teachers.a.sampling.0", "stop"),
    ("teachers.a.sampling={seed: -1}", "teachers.a.sampling.0.seed", "-1"),
    ("teachers.a.reasoning={start: a}", "teachers.a.reasoning.end", "missing"),
    ("teachers.a.reasoning={start: '', end: b}", "teachers.a.reasoning.start", "at least 1"),
    ("teachers.a.reasoning={start: a, end: ''}", "teachers.a.reasoning.end", "at least 1"),
    ("teachers.a.reasoning={start: ' a', end: b}", "teachers.a.reasoning", "white space"),
    ("teachers.a.reasoning={start: a, end: a}", "teachers.a.reasoning", "make them different"),
    ("teachers.a.reasoning={start: <a>, end: a>}", "teachers.a.reasoning", "make them different"),
    ("teachers.a.reasoning={begin: a, end: b}", "teachers.a.reasoning", "unknown key"),
    ("teachers.a.resources.replicas=0", "teachers.a.resources.replicas", "0"),
    ("teachers.a.resources.gpus=-1", "teachers.a.resources.gpus", "-1"),
    ("teachers.a.resources.batch_size=0", "teachers.a.resources.batch_size", "0"),
    ("teachers.a.options.words=-1", "teachers.a.options.words", "-1"),
    ("teachers.a.options.fail=1.5", "teachers.a.options.fail", "1.5"),
    ("teachers.a.options.skill=.inf", "teachers.a.options.skill", "inf"),
    ("teachers.a.options=3", "teachers.a.options", "3"),
    ("arbiter=", "arbiter", "missing"),
    ("arbiter.name=a/b", "arbiter.name", "'a/b'"),
    ("arbiter.engine=", "arbiter", "None"),
    ("routing.router=best", "routing.router", "routers are all"),
    ("selection.rule=worst", "selection.rule", "'best'"),
    ("output.compression=gzip", "output.compression", "'zstd'"),
    ("cluster.cpus=0", "cluster.cpus", "0"),
    ("cluster.attempts=0", "cluster.attempts", "0"),
    ("budget.tokens=0", "budget.tokens", "0"),
    ("budget.requests=0", "budget.requests", "0"),
    ("budget.requests=1.5", "budget.requests", "1.5"),
    ("budget.money=0", "budget.money", "0"),
    ("budget.money=.inf", "budget.money", "inf"),
    ("budget.dollars=5", "budget", "'dollars'"),
    ("budget.money=5", "budget.money", "price"),
    ("families={nordic: [da, xx]}", "families", "'xx'"),
    ("families={a: [da], b: [dan]}", "families", "'da'"),
    ("families={de: [da]}", "families", "'de'"),
    ("families=3", "families", "3"),
]


@pytest.mark.parametrize(("override", "place", "word"), BOUNDS, ids=[case[0] for case in BOUNDS])
def test_a_wrong_value_is_one_sentence_with_its_place(
    tmp_path: Path, override: str, place: str, word: str
) -> None:
    message = refusal(tmp_path, SHORT, override)
    assert message.startswith(place), message
    assert message.count(f"{place}: ") <= 1
    assert word in message, message


@pytest.mark.parametrize("key", ["run", "prompts", "teachers", "arbiter"])
def test_a_missing_part_is_named(tmp_path: Path, key: str) -> None:
    told = yaml.safe_load(SHORT)
    del told[key]
    assert refusal(tmp_path, yaml.safe_dump(told)).startswith(f"{key} is missing")


def test_several_mistakes_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, SHORT, "seed=-1", "cluster.attempts=0", "gates.truncated=perhaps")
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    places = ("seed: ", "cluster.attempts: ", "gates.truncated: ")
    assert all(any(place in line for line in lines) for place in places)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["no config", "mapping"]),
        ("- a\n- b\n", ["no config", "mapping"]),
        ("just words", ["no config", "mapping"]),
        ("run: [", ["not valid YAML", "line"]),
        ("run: a\n\tb: c\n", ["not valid YAML"]),
        ("a: !!python/object/apply:os.system [id]\n", ["not valid YAML"]),
        ("? [a, b]\n: 1\n", ["arbitrage.yaml"]),
        ("? {a: b}\n: 1\n", ["arbitrage.yaml"]),
        ("1: 2\n", ["'1'", "known keys"]),
    ],
)
def test_what_is_no_config_is_refused(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    assert all(word in str(error.value) for word in words), str(error.value)
    assert str(tmp_path / "arbitrage.yaml") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config file .*nowhere\.yaml.*arbitrage init"):
        configfile.load(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        configfile.load(tmp_path)
    (tmp_path / "a.yaml").write_bytes(b"run: caf\xe9\n")
    with pytest.raises(ConfigError, match=r"a\.yaml cannot be read"):
        configfile.load(tmp_path / "a.yaml")


# --- paths ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("p.jsonl", "{here}/p.jsonl"),
        ("./p.jsonl", "{here}/p.jsonl"),
        ("in/*.jsonl", "{here}/in/*.jsonl"),
        ("../data/**/x_{language}.tsv", "{up}/data/**/x_{language}.tsv"),
        ("../../p.jsonl", "{upup}/p.jsonl"),
        ("a/../b.jsonl", "{here}/b.jsonl"),
        ("/abs/p.jsonl", "/abs/p.jsonl"),
        ("/abs/../p*.jsonl", "/p*.jsonl"),
        ("~/p.jsonl", "{home}/p.jsonl"),
    ],
)
def test_relative_paths_start_at_the_configs_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: str, expected: str
) -> None:
    here = tmp_path / "deep" / "er"
    here.mkdir(parents=True)
    monkeypatch.chdir("/")
    monkeypatch.setenv("HOME", "/home/me")
    told = yaml.safe_load(SHORT) | {"run": written, "prompts": {"sources": [{"path": written}]}}
    config = load(here, yaml.safe_dump(told))
    wanted = expected.format(
        here=here, up=here.parent, upup=tmp_path, home="/home/me", language="{language}"
    )
    assert config.prompts.sources[0].path == wanted
    assert config.run == wanted
    short = load(here, yaml.safe_dump(told | {"prompts": written}))
    assert short.prompts.sources[0].path == wanted


def test_a_config_called_by_a_relative_name_means_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absolute = load(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert configfile.load(Path("arbitrage.yaml")).config == absolute
    (tmp_path / "sub").mkdir()
    monkeypatch.chdir(tmp_path / "sub")
    assert configfile.load(Path("../arbitrage.yaml")).config == absolute


def test_a_model_is_a_folder_where_there_is_one_and_else_a_hub_name(tmp_path: Path) -> None:
    make_model(tmp_path / "models" / "tiny")
    for written in ("models/tiny", "./models/tiny", str(tmp_path / "models/tiny")):
        config = load(tmp_path, SHORT, f"teachers.a.model={written}", f"arbiter.model={written}")
        assert config.teachers["a"].model == str(tmp_path / "models/tiny")
        assert config.arbiter.model == str(tmp_path / "models/tiny")
    config = load(tmp_path, SHORT, "teachers.a.model=org/models-tiny")
    assert config.teachers["a"].model == "org/models-tiny"


def test_a_saved_dataset_is_a_folder_where_there_is_one_and_else_a_hub_name(tmp_path: Path) -> None:
    (tmp_path / "saved").mkdir()
    source = "prompts.sources=[{dataset: %s}]"
    config = load(tmp_path, SHORT, source % "saved")
    assert config.prompts.sources[0].dataset == str(tmp_path / "saved")
    config = load(tmp_path, SHORT, source % "org/saved")
    assert config.prompts.sources[0].dataset == "org/saved"


# --- coverage, families, twins --------------------------------------------------------------------


def test_a_teacher_covers_its_families_and_languages() -> None:
    teacher = teacher_of(languages=["el", "fas"], families=["slavic"])
    slavic = {code for code, row in table().items() if row.family == "slavic"}
    assert teacher.languages == slavic | {"el", "fa"}


def test_families_can_be_redefined() -> None:
    parts = parts_of(
        families={"nordic": ["da", "nb", "sv", "isl"], "slavic": ["ru"]},
        teachers={
            "n": {"engine": "fake", "families": ["nordic"]},
            "s": {"engine": "fake", "families": ["slavic"], "options": {"voice": "s"}},
        },
    )
    nordic, slavic = parts.teachers
    assert nordic.languages == {"da", "no", "sv", "is"}
    assert slavic.languages == {"ru"}
    assert parts.families["de"] == "germanic"
    assert parts.families["pl"] != "slavic"


def test_twins_are_refused_by_name() -> None:
    alike = {"engine": "fake", "languages": ["de"]}
    other = {**alike, "languages": ["fr"], "resources": {"replicas": 3}, "options": {"words": 12}}
    with pytest.raises(ConfigError, match="'a' and 'b' would give the same answers") as error:
        parts_of(teachers={"a": alike, "b": other})
    assert "\n" not in str(error.value)
    assert (
        len(parts_of(teachers={"a": alike, "b": {**alike, "options": {"voice": "b"}}}).teachers)
        == 2
    )


def test_two_folders_of_one_model_are_twins(tmp_path: Path) -> None:
    first = make_model(tmp_path / "one")
    second = shutil.copytree(first, tmp_path / "two")
    teachers = {
        name: {"engine": "fake", "languages": ["de"], "model": str(folder)}
        for name, folder in {"a": first, "b": second}.items()
    }
    with pytest.raises(ConfigError, match="same answers"):
        parts_of(teachers=teachers)
    (second / "model.safetensors").write_bytes(b"others")
    assert len(parts_of(teachers=teachers).teachers) == 2


# --- identity -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"resources": {"replicas": 4, "gpus": 1, "cpus": 2, "memory_gb": 9, "batch_size": 3}},
        {"options": {"delay_s": 1.0}},
        {"options": {"load_s": 1.0}},
        {"options": {"hang_after": 3, "crash_after": 4, "crash_once": "/x"}},
        {"languages": ["fr", "en"]},
        {"languages": "all"},
        {"families": ["slavic"]},
        {"sampling": {}},
        {"sampling": [{"n": 1, "temperature": 1.0}]},
        {"system": None},
        {"reasoning": None},
        {"revision": None},
        {"trust_remote_code": False},
        {"options": {"skill": 0.5, "words": 12, "voice": "", "lie": "no"}},
        {"options": {}},
        {"options": None},
    ],
    ids=str,
)
def test_what_does_not_change_answers_does_not_rename_a_teacher(change: dict[str, Any]) -> None:
    assert teacher_of(**change).fingerprint == teacher_of().fingerprint
    assert teacher_of(**change).identity == teacher_of().identity


SAMPLED = [
    {"sampling": {name: value}}
    for name, value in {
        "n": 2,
        "temperature": 0.9,
        "top_p": 0.9,
        "top_k": 5,
        "min_p": 0.1,
        "repetition_penalty": 1.1,
        "max_tokens": 64,
        "stop": ["x"],
        "seed": 4,
    }.items()
]
RENAMING = [
    *SAMPLED,
    {"sampling": [{}, {"n": 2}]},
    {"sampling": [{"n": 2}, {}]},
    {"sampling": {"temperature": 0}},
    {"system": "Be brief."},
    {"system": {"de": "Kurz."}},
    {"system": {"de": "Kurz.", "default": "Brief."}},
    {"chat_template": "{{ x }}"},
    {"reasoning": {"start": "<a>", "end": "</a>"}},
    {"reasoning": {"start": "<b>", "end": "</a>"}},
    {"reasoning": {"start": "<a>", "end": "</b>"}},
    {"model": "org/one"},
    {"model": "org/two"},
    {"model": "org/one", "revision": "abc"},
    {"trust_remote_code": True},
    {"options": {"skill": 0.7}},
    {"options": {"skill": {"de": 0.7}}},
    {"options": {"words": 3}},
    {"options": {"voice": "x"}},
    {"options": {"truncate": 0.1}},
    {"options": {"lie": "drop"}},
    {"engine": "transformers", "model": "org/one"},
    {"engine": "transformers", "model": "org/one", "options": {"dtype": "float32"}},
    {"engine": "transformers", "model": "org/one", "options": {"max_length": 64}},
]


@pytest.mark.parametrize("change", RENAMING, ids=str)
def test_what_changes_answers_renames_a_teacher(change: dict[str, Any]) -> None:
    assert teacher_of(**change).fingerprint != teacher_of().fingerprint


def test_no_two_changes_give_one_name() -> None:
    found = [teacher_of(**change).fingerprint for change in [{}, *RENAMING]]
    assert len(set(found)) == len(found)


def test_the_runs_seed_counts_only_where_it_is_used() -> None:
    def differs(sampling: Any) -> bool:
        one, two = (teacher_of(seed=seed, sampling=sampling) for seed in (0, 5))
        return one.fingerprint != two.fingerprint

    assert differs({"n": 2})
    assert differs([{"temperature": 0}, {"temperature": 0.5}])
    assert not differs({"temperature": 0})
    assert not differs({"temperature": 0.5, "seed": 7})
    assert differs([{"temperature": 0.5, "seed": 7}, {"temperature": 0.5}])


def test_a_name_is_no_part_of_an_identity() -> None:
    told = {"engine": "fake", "languages": ["de"]}
    one = parts_of(teachers={"a": told}, arbiter={"engine": "fake", "name": "x"})
    two = parts_of(teachers={"b": told}, arbiter={"engine": "fake", "name": "y"})
    assert one.fingerprint == two.fingerprint
    assert one.teachers[0].label != two.teachers[0].label


def test_the_order_of_teachers_is_no_part_of_a_run() -> None:
    told = {
        name: {"engine": "fake", "languages": ["de"], "options": {"voice": name}} for name in "ab"
    }
    turned = dict(reversed(told.items()))
    assert parts_of(teachers=told).fingerprint == parts_of(teachers=turned).fingerprint


def test_where_and_how_a_run_is_made_is_no_part_of_it() -> None:
    changes: list[dict[str, Any]] = [
        {"run": "/elsewhere"},
        {"output": {"compression": "none"}},
        {"cluster": {"cpus": 3, "gpus": 1, "attempts": 9}},
        {"budget": {"tokens": 5, "requests": 6}},
        {"prompts": {"sources": [{"path": "/q.jsonl"}], "shard_size": 3, "detect": False}},
        {"gates": {"truncated": True, "empty": True}},
        {"routing": {"router": "all"}},
        {"families": {"germanic": [c for c, row in table().items() if row.family == "germanic"]}},
    ]
    assert {parts_of(**change).fingerprint for change in changes} == {parts_of().fingerprint}


@pytest.mark.parametrize(
    ("change", "renamed"),
    [
        ({"gates": {"empty": False}}, {"selector"}),
        ({"arbiter": {"engine": "fake", "options": {"voice": "x"}}}, {"arbiter", "selector"}),
        ({"families": {"nordic": ["da", "sv"]}}, {"selector"}),
        ({"teachers": {"a": {"engine": "fake", "languages": ["fr"]}}}, {"router"}),
        ({"seed": 1}, {"teacher", "router"}),
    ],
    ids=lambda value: str(sorted(value)) if isinstance(value, set) else str(value),
)
def test_a_change_renames_exactly_what_it_changes(
    change: dict[str, Any], renamed: set[str]
) -> None:
    def names(parts: Components) -> dict[str, str]:
        found = {"arbiter": parts.arbiter, "router": parts.router, "selector": parts.selector}
        prints = {name: part.fingerprint for name, part in found.items()}
        return prints | {"teacher": parts.teachers[0].fingerprint}

    old, new = names(parts_of()), names(parts_of(**change))
    assert {name for name in old if old[name] != new[name]} == renamed
    assert parts_of().fingerprint != parts_of(**change).fingerprint


def test_a_model_folder_copied_elsewhere_is_the_same_teacher(tmp_path: Path) -> None:
    first = make_model(tmp_path / "one")
    before = teacher_of(model=str(first)).fingerprint
    second = shutil.copytree(first, tmp_path / "deep" / "two")
    assert teacher_of(model=str(second)).fingerprint == before
    arbiter = {"engine": "fake", "model": str(first)}
    moved = {"engine": "fake", "model": str(second)}
    assert parts_of(arbiter=arbiter).fingerprint == parts_of(arbiter=moved).fingerprint
    (second / "model.safetensors").write_bytes(b"trained on")
    assert teacher_of(model=str(second)).fingerprint != before


def test_a_run_can_be_read_where_its_models_are_not(tmp_path: Path) -> None:
    folder = make_model(tmp_path / "one")
    told = {"a": {"engine": "fake", "languages": ["de"], "model": str(folder)}}
    whole = parts_of(teachers=told)
    shutil.rmtree(folder)
    with pytest.raises(ConfigError, match="no model folder"):
        parts_of(teachers=told)
    config = RunConfig.model_validate(yaml.safe_load(SHORT) | {"teachers": told})
    known = {"candidates/a": whole.teachers[0].fingerprint}
    found = resolve(config, known)
    assert found.teachers[0].fingerprint == whole.teachers[0].fingerprint
    assert found.fingerprint == whole.fingerprint


def test_fingerprints_are_those_of_earlier_versions() -> None:
    parts = parts_of()
    assert {"engine": "fake", "run_seed": 0}.items() <= parts.teachers[0].identity.items()
    assert parts.teachers[0].fingerprint == "a83c184587a8"
    assert parts.arbiter.fingerprint == "2bd97ef35576"


# --- tables that belong together ------------------------------------------------------------------


def test_every_engine_has_options_and_every_option_block_an_engine() -> None:
    assert set(OPTIONS) == set(ENGINES)


def test_every_gate_can_be_switched_and_every_switch_is_a_gate() -> None:
    fields = GatesConfig.model_fields
    assert list(GATES) == [name for name, field in fields.items() if field.annotation is bool]
    assert GatesConfig(**dict.fromkeys(GATES, True)).enforced() == tuple(GATES)
    assert set(GATES) - set(GatesConfig().enforced()) == {"refusal"}


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("gates.max_repetition=1.5", "less than or equal to 1"),
        ("gates.max_foreign_letters=-1", "greater than or equal to 0"),
        (
            "gates.equal_languages=[[id, klingon]]",
            "'klingon' is not a language we know; use a code",
        ),
        ("gates.equal_languages=[[zh-TW, yue]]", "must name two languages or more"),
        ("gates.refusals=[' ']", "a refusal has no text"),
    ],
)
def test_a_threshold_out_of_bounds_is_refused(tmp_path: Path, override: str, sentence: str) -> None:
    assert sentence in refusal(tmp_path, SHORT, override)


@pytest.mark.parametrize(("key", "field", "known"), [("selection", "rule", SELECTORS)])
def test_every_rule_can_be_chosen(key: str, field: str, known: dict[str, Any]) -> None:
    for name in known:
        assert parts_of(**{key: {field: name}})


def test_a_budget_of_money_needs_a_price_somewhere() -> None:
    options = {"base_url": "http://h/v1"}
    judge = {"engine": "endpoint", "model": "j", "options": {**options, "score_api": "judge"}}
    with pytest.raises(ValidationError, match="money needs a price: give `price_per"):
        parts_of(budget={"money": 5}, arbiter=judge)
    judge["options"] |= {"price_per_million_output": 0.4}
    assert parts_of(budget={"money": 5}, arbiter=judge)


def test_a_price_is_for_both_kinds_of_tokens() -> None:
    def price(**prices: float) -> tuple[float, float] | None:
        return EndpointOptions(base_url="http://h/v1", **prices).price  # type: ignore[arg-type]

    assert price() is None
    assert price(price_per_million_input=2) == (2, 0)
    assert price(price_per_million_input=0, price_per_million_output=3) == (0, 3)


def test_every_resource_is_incidental() -> None:
    full = Resources(replicas=2, cpus=1, gpus=1, memory_gb=1, batch_size=1, python="p")
    assert full.identity() == {}


def test_a_python_of_a_virtual_environment_stays_the_link_that_it_is(tmp_path: Path) -> None:
    (tmp_path / "env").mkdir()
    (tmp_path / "env/python").symlink_to(sys.executable)
    text = SHORT.replace("{engine: fake}", "{engine: fake, resources: {python: ./env/python}}")
    config = load(tmp_path, text)
    assert config.arbiter.resources.python == str(tmp_path / "env/python")


def test_the_example_of_an_evaluation_is_valid() -> None:
    config = load_winrate(EVALUATION).config
    assert next(iter(config.models)) == "arbitrage"
    assert Path(config.questions.sources[0].path or "").is_file()
    assert all(Path(one.model or "").is_dir() for one in config.served)
