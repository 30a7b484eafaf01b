"""The preflight of a merge: every check's sentence, all at once, and no weight read for it."""

from __future__ import annotations

import io
import json
import math
import os
import tempfile
import tracemalloc
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console

from arbitrage.errors import InputError
from arbitrage.merging import elements, room
from arbitrage.merging.checkpoint import Checkpoint, open_checkpoint
from arbitrage.merging.config import MergeConfig, MergedModel
from arbitrage.merging.configs import differences, flat
from arbitrage.merging.merge import Refused, merge
from arbitrage.merging.preflight import Examination, examine, open_all
from arbitrage.merging.reasons import Reason, spans
from arbitrage.tables_merge import figures, of_examination
from merge_folders import WORDS, folder, looked_at, reason, tensors, tokenizer
from weight_files import write_sparse

MICRO = Path(__file__).resolve().parents[1] / "data" / "micro" / "models"


def pair(root: Path, *, b: Any = None, a: Any = None, **config: Any) -> Path:
    """Folders a and b; `config` is of b alone."""
    tokenizer(folder(root / "a", a), WORDS)
    tokenizer(folder(root / "b", b, **config), WORDS)
    return root


def abouts(found: Examination) -> list[str]:
    return [one.about for one in found.reasons]


def printed(found: Examination, width: int) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, color_system=None, force_terminal=False)
    console.print(of_examination(found), soft_wrap=True)
    return file.getvalue()


def test_models_that_are_alike_are_merged_and_the_figures_are_theirs(tmp_path: Path) -> None:
    found = looked_at(pair(tmp_path))
    assert (found.reasons, found.is_refused) == ((), False)
    numbers = sum(math.prod(shape) for _, shape in tensors().values())
    assert (found.models, found.base, found.tensors) == (2, False, len(tensors()))
    assert (found.parameters, found.output_bytes) == (numbers, 2 * numbers)
    assert found.input_bytes == 4 * numbers
    wide = looked_at(tmp_path, dtype="float32")
    assert (wide.output_bytes, wide.input_bytes) == (4 * numbers, 4 * numbers)
    assert json.loads(json.dumps(found.as_dict()))["output_bytes"] == 2 * numbers


def test_the_micro_models_are_merged_without_a_reason() -> None:
    names = ("germanic", "romance", "south-asian")
    config = MergeConfig(
        method="ties",
        base=str(MICRO / "generalist"),
        models={name: {"model": str(MICRO / name)} for name in names},
    )
    checkpoints, unopened = open_all(config)
    found = examine(config, checkpoints, Path("merged"))
    assert (unopened, found.reasons, found.remarks) == ((), (), ())
    assert list(checkpoints) == [*names, "base"]
    told = figures(found)
    assert told.startswith("merges 3 models onto a base of 38 tensors, 1.9 M parameters; reads 15")
    assert "reads 15 MB, writes 3.8 MB" in told


def test_all_reasons_are_told_at_once(tmp_path: Path) -> None:
    wrong = tensors(layers=3) | {"model.embed_tokens.weight": ("BF16", (40, 8))}
    pair(tmp_path, b=wrong, hidden_size=8, tie_word_embeddings=True)
    (tmp_path / "c").mkdir()
    found = looked_at(tmp_path, weight={"*.mpl.*": 1}, accept=("nothing",))
    assert set(abouts(found)) == {
        *("model", "tensors", "shape", "tied weights", "config", "accept", "settings")
    }
    assert reason(found, "model") == f"c: {tmp_path / 'c'} has no safetensors files"


def test_missing_layers_are_told_as_layers(tmp_path: Path) -> None:
    pair(tmp_path, a=tensors(layers=32), b=tensors(layers=24))
    told = reason(looked_at(tmp_path), "tensors")
    assert told == (
        "b: lacks 16 tensors that a has: model.layers 24 to 31; merge models of one architecture "
        "and size"
    )


def test_missing_tensors_are_told_by_kind_and_by_who_lacks_them(tmp_path: Path) -> None:
    folder(tmp_path / "base", {k: v for k, v in tensors().items() if not k.endswith("norm.weight")})
    extra = {f"model.layers.{n}.bias": ("BF16", (4,)) for n in range(3)}
    folder(tmp_path / "a")
    folder(tmp_path / "b", tensors() | extra)
    found = looked_at(tmp_path, "task_arithmetic")
    assert [(one.where, one.told.split(";")[0]) for one in found.reasons] == [
        (
            "base",
            "lacks 4 tensors that a and b have: model.layers.*.norm.weight (4)",
        ),
        ("b", "has 3 tensors that the others lack: model.layers.*.bias (3)"),
    ]


def test_names_that_share_nothing_are_told_so(tmp_path: Path) -> None:
    pair(tmp_path, b={f"language_model.{name}": told for name, told in tensors().items()})
    found = looked_at(tmp_path)
    assert len(found.reasons) >= 2
    assert all("perhaps one was saved with another prefix" in one.told for one in found.reasons[:2])


def test_shapes_are_told_by_kind(tmp_path: Path) -> None:
    wrong = {n: (d, (28, 16) if "up_proj" in n else s) for n, (d, s) in tensors().items()}
    told = reason(looked_at(pair(tmp_path, b=wrong)), "shape")
    assert told == (
        "model.layers.*.mlp.up_proj.weight (4): is 24 x 16 in a, 28 x 16 in b; merge models of "
        "one size"
    )


def test_dtypes_that_cannot_be_averaged_are_refused(tmp_path: Path) -> None:
    packed = {n: ("F8_E4M3" if "up" in n else d, s) for n, (d, s) in tensors().items()}
    told = reason(looked_at(pair(tmp_path, b=packed)), "dtype")
    assert told.startswith("b: 4 tensors of F8_E4M3 cannot be averaged (model.layers.*.mlp.up_proj")
    packed = {n: ("I8" if "up" in n else d, s) for n, (d, s) in tensors().items()}
    told = reason(looked_at(pair(tmp_path, b=packed)), "dtype")
    assert "is BF16 in a, I8 in b, and whole numbers are no weights" in told


def test_precisions_and_whole_numbers_are_remarked(tmp_path: Path) -> None:
    ids = {"model.position_ids": ("I64", (1, 512))}
    found = looked_at(pair(tmp_path, a=tensors() | ids, b=tensors(dtype="F32") | ids))
    assert found.reasons == ()
    assert found.remarks == (
        "copied from a, not merged: 1 tensor of whole numbers (model.position_ids)",
        "10 tensors of b are F32, and BF16 in a; merged in float32",
    )
    assert found.output_bytes == sum(2 * math.prod(s) for _, s in tensors().values()) + 512 * 8
    pair(tmp_path, b=tensors(dtype="F64"), a=tensors(dtype="F64"))
    assert looked_at(tmp_path).remarks == ("float64 of a and b is merged in float32",)


def test_quantized_models_are_refused_by_name(tmp_path: Path) -> None:
    gptq = {"quant_method": "gptq", "bits": 4}
    packed = tensors() | {"model.layers.0.mlp.up_proj.weight": ("U8", (24, 16))}
    found = looked_at(pair(tmp_path, b=packed, quantization_config=gptq))
    assert abouts(found) == ["quantized"]
    assert "b: its weights are quantized (gptq)" in reason(found, "quantized")
    found = looked_at(pair(tmp_path, quantization_config=gptq))
    assert "all tensors are floats; if it was dequantized" in reason(found, "quantized")


def test_ties_must_be_the_same_everywhere(tmp_path: Path) -> None:
    without = {name: told for name, told in tensors().items() if not name.startswith("lm_head")}
    found = looked_at(pair(tmp_path, b=without, tie_word_embeddings=True))
    assert abouts(found) == ["tied weights"]
    told = reason(found, "tied weights")
    assert "the output layer is its own in a, tied to the input in b; save those" in told
    found = looked_at(pair(tmp_path, b=tensors(), tie_word_embeddings=True))
    assert abouts(found) == ["tied weights"], "though b's file holds the layer once more"
    found = looked_at(pair(tmp_path, b=without))
    assert "not there in b" in reason(found, "tied weights")
    for name in ("a", "b"):
        folder(tmp_path / name, without if name == "a" else None, tie_word_embeddings=True)
    assert looked_at(tmp_path).reasons == ()


def test_an_adapter_must_be_merged_first(tmp_path: Path) -> None:
    pair(tmp_path)
    (tmp_path / "b" / "adapter_config.json").write_text("{}")
    assert "an adapter" not in reason(looked_at(tmp_path), "adapter")
    (tmp_path / "b" / "model.safetensors").rename(tmp_path / "b" / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"b: .* holds an adapter \(LoRA, say\), not a model"):
        open_checkpoint("b", MergedModel(model=str(tmp_path / "b")))
    found = looked_at(tmp_path)
    assert abouts(found) == ["model"]
    assert "merge_and_unload" in reason(found, "model")


def test_configs_that_differ_are_told_key_by_key(tmp_path: Path) -> None:
    nested = {"vision": {"size": 3, "deep": {"x": [1, 2]}}}
    folder(tmp_path / "a", rms_norm_eps=1e-5, **nested)
    nested = {"vision": {"size": 4, "deep": {"x": [1, 3]}}}
    folder(tmp_path / "b", rms_norm_eps=1e-6, **nested, labels={"0": "x", "1": "y"})
    found = looked_at(tmp_path, accept=("vision.deep",))
    assert [one.where for one in found.reasons] == ["labels", "rms_norm_eps", "vision.size"]
    assert found.reasons[1].told == (
        "is 1e-05 in a, 1e-06 in b; merge models that agree, or set `accept: [rms_norm_eps]` if it "
        "changes nothing"
    )
    assert 'is nothing in a, {0: "x", 1: "y"} in b' in found.reasons[0].told
    assert "vision.deep.x is [1, 2] in a, [1, 3] in b, as accepted" in found.remarks[1]
    accept = ("labels", "rms_norm_eps", "vision")
    assert looked_at(tmp_path, accept=accept).reasons == ()


def test_what_says_nothing_of_the_weights_may_differ(tmp_path: Path) -> None:
    incidental = {"_name_or_path": "x", "torch_dtype": "float16", "use_cache": False}
    pair(tmp_path, transformers_version="4.1", rope_scaling=None, **incidental)
    found = looked_at(tmp_path)
    assert (found.reasons, found.remarks) == ((), ())
    pair(tmp_path, eos_token_id=[2, 7], attention_dropout=0.1)
    found = looked_at(tmp_path)
    assert found.reasons == ()
    assert found.remarks[0] == "not the same in all: eos_token_id; that of a counts"
    assert found.remarks[1] == "not the same in all, and for training only: attention_dropout"


def test_newer_and_older_configs_of_one_model_are_the_same(tmp_path: Path) -> None:
    newer = {"rope_theta": None, "rope_parameters": {"rope_theta": 1e4, "rope_type": "default"}}
    assert looked_at(pair(tmp_path, **newer)).reasons == ()
    old = {"rope_theta": 1e4, "rope_scaling": {"type": "linear", "factor": 2}}
    new = {"rope_parameters": {"rope_theta": 1e4, "rope_type": "linear", "factor": 2.0}}
    assert flat(old) == flat(new)
    pair(tmp_path, rope_theta=None, rope_parameters={"rope_theta": 5e5, "rope_type": "default"})
    assert "is 10000 in a, 500000 in b" in reason(looked_at(tmp_path), "config")


def test_a_key_to_accept_must_be_some_config_s(tmp_path: Path) -> None:
    told = reason(looked_at(pair(tmp_path), accept=("rope_tetha",)), "accept")
    assert told == "rope_tetha: no model's config.json has this key; did you mean 'rope_theta'?"
    told = reason(looked_at(tmp_path, accept=("vocab_size",)), "accept")
    assert "cannot be accepted" in told


def test_a_config_that_is_not_there_is_a_reason_unless_none_has_one(tmp_path: Path) -> None:
    pair(tmp_path)
    (tmp_path / "b" / "config.json").unlink()
    found = looked_at(tmp_path)
    assert set(abouts(found)) == {"config", "vocabulary"}
    assert reason(found, "config").startswith("b: there is no config.json")
    (tmp_path / "a" / "config.json").unlink()
    found = looked_at(tmp_path)
    assert found.reasons == ()
    assert "no model has a config.json" in found.remarks[0]


PLAIN = st.none() | st.booleans() | st.integers(-3, 3) | st.sampled_from(["x", "y"])
KEYS = st.sampled_from(["a", "b", "c_d", "rope_scaling", "type"])
CONFIGS = st.dictionaries(
    KEYS,
    st.recursive(PLAIN, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=6),
    min_size=1,
    max_size=4,
)


@settings(max_examples=300)
@given(st.lists(CONFIGS, min_size=2, max_size=3))
def test_every_difference_is_told_once_and_can_be_accepted(configs: list[dict[str, Any]]) -> None:
    found = {
        f"m{n}": Checkpoint(f"m{n}", Path(f"m{n}"), {}, config) for n, config in enumerate(configs)
    }
    told = [one for one in differences(found, (), "m0") if isinstance(one, Reason)]
    flats = [flat(config) for config in configs]
    keys = {key for one in flats for key in one if len({f.get(key, "-") for f in flats}) > 1}
    assert len({one.where for one in told}) == len(told)
    for key in keys:
        around = [one for one in told if key == one.where or key.startswith(f"{one.where}.")]
        assert len(around) == 1, key
    assert bool(told) == bool(keys)
    accepted = list(differences(found, [one.where for one in told], "m0"))
    assert [one for one in accepted if isinstance(one, Reason) and one.about == "config"] == []


def test_patterns_must_fit_and_leave_nothing_out(tmp_path: Path) -> None:
    weight = {"*.mpl.*": 1.0, "*.mlp.*": 0.5, "model.layers.0.mlp.*": 2.0}
    found = looked_at(pair(tmp_path), per_model={"b": {"weight": weight}})
    where = [one.where for one in found.reasons]
    assert where == [
        "models.b.weight: *.mpl.*",
        "models.b.weight: model.layers.0.mlp.*",
        "models.b.weight",
    ]
    assert "did you mean 'mlp' for 'mpl'?" in found.reasons[0].told
    assert "write it first, or drop it" in found.reasons[1].told
    assert "no pattern fits 6 tensors" in found.reasons[2].told
    assert looked_at(tmp_path, weight={"*.mlp.*": 0.5, "*": 1}).reasons == ()
    told = looked_at(tmp_path, "slerp", t={"*.mlp.*": 0.5}).reasons
    assert [one.where for one in told] == ["t"]


def test_a_setting_that_nobody_takes_is_a_mistake(tmp_path: Path) -> None:
    own = {name: {"weight": 1} for name in ("a", "b")}
    found = looked_at(pair(tmp_path), weight=0.5, per_model=own)
    assert reason(found, "settings") == (
        "weight: every model has its own, so that this changes nothing; drop it"
    )


def test_weights_that_come_to_nothing_are_refused(tmp_path: Path) -> None:
    weights = {"a": {"weight": (0.1, 0.3)}, "b": {"weight": {"*.mlp.*": (-0.1, -0.3), "*": 1}}}
    pair(tmp_path)
    told = reason(looked_at(tmp_path, per_model=weights), "weights")
    assert told.startswith("a and b: they add up to 0 for 4 tensors (model.layers.*.mlp.up_proj")
    assert looked_at(tmp_path, per_model=weights, normalize=False).reasons == ()
    told = reason(looked_at(tmp_path, weight={"*norm*": 0, "*": 1}, normalize=False), "weights")
    assert told.startswith("a and b: all are 0 for 4 tensors (model.layers.*.norm.weight (4))")
    found = looked_at(tmp_path, per_model={"b": {"weight": 0}})
    assert (found.reasons, found.remarks) == ((), ("b counts nowhere, as its weight is 0",))
    tokenizer(folder(tmp_path / "base"), WORDS)
    found = looked_at(tmp_path, "task_arithmetic", weight=0, scale=0)
    assert found.reasons == ()
    assert len(found.remarks) == 2


def test_a_density_of_nothing_is_refused(tmp_path: Path) -> None:
    folder(tmp_path / "base")
    pair(tmp_path)
    found = looked_at(tmp_path, "ties", density=0.5, per_model={"b": {"density": {"*": (0, 1)}}})
    told = reason(found, "settings")
    assert told.startswith("models.b.density: a density of 0 keeps nothing of 2 tensors")


def test_a_folder_counts_once_and_is_not_its_own_base(tmp_path: Path) -> None:
    folder(tmp_path / "base")
    folder(tmp_path / "a")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "c").symlink_to(tmp_path / "base")
    told = [one for one in looked_at(tmp_path, "ties").reasons if one.about == "models"]
    assert sorted(one.where for one in told) == ["a and b", "c"]
    assert any("nothing that it learned" in one.told for one in told)


class Usage(NamedTuple):
    free: int


def test_disk_and_memory_must_suffice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pair(tmp_path / "pool")
    size = looked_at(tmp_path / "pool").output_bytes
    monkeypatch.setattr("shutil.disk_usage", lambda place: Usage(size))
    told = reason(looked_at(tmp_path / "pool"), "disk")
    assert told == (
        f"{tmp_path}: 5.8 kB are to be written, 57 B more than are free; free some, give another -o"
    )
    work = tmp_path / "out" / "merged.merging"
    work.mkdir(parents=True)
    (work / "model-1.safetensors").write_bytes(bytes(8192))
    assert looked_at(tmp_path / "pool").reasons == (), "what a stopped merge holds is its own"
    monkeypatch.setattr(room, "memory_free", lambda: 10**8)
    told = reason(looked_at(tmp_path / "pool"), "memory")
    assert "are needed and 100 MB are free; set `threads: 1`" in told
    monkeypatch.setattr(room, "memory_free", lambda: None)
    assert looked_at(tmp_path / "pool").reasons == ()


def test_free_memory_is_what_the_machine_says_or_unknown(tmp_path: Path) -> None:
    told = tmp_path / "meminfo"
    assert room.memory_free(told) is None
    told.write_text("MemTotal: 9 kB\nMemAvailable:   2048 kB\n")
    assert room.memory_free(told) == 2 * 2**20
    told.write_text("MemAvailable: many\n")
    assert room.memory_free(told) is None


def test_more_threads_and_models_need_more_memory(tmp_path: Path) -> None:
    big = {"x.weight": ("BF16", (1 << 12, 1 << 12))}
    pair(tmp_path, a=big, b=big)
    needs = [looked_at(tmp_path, threads=threads).memory_bytes for threads in (1, 2, 9)]
    assert needs[1] - needs[0] == (2 * 2 + 6) * elements.BLOCK * 4
    assert needs[2] - needs[1] == 7 * (needs[1] - needs[0])


def test_a_target_below_a_file_is_refused(tmp_path: Path) -> None:
    pair(tmp_path / "pool")
    (tmp_path / "out").write_text("")
    assert "this is no folder" in reason(looked_at(tmp_path / "pool"), "target")


def test_no_weight_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terabyte of holes takes no room on the disk, and must take none in memory."""
    large = {f"model.layers.{n}.w.weight": ("BF16", (1 << 20, 1 << 15)) for n in range(8)}
    pair(tmp_path, a=large, b=large)
    monkeypatch.setattr("shutil.disk_usage", lambda place: Usage(1 << 50))
    monkeypatch.delattr("numpy.fromfile")
    tracemalloc.start()
    found = looked_at(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.reasons == ()
    assert found.input_bytes == 2 * 8 * (1 << 36)
    assert peak < 20_000_000


def test_files_that_are_cut_off_or_contradict_themselves_are_told(tmp_path: Path) -> None:
    pair(tmp_path)
    path = tmp_path / "b" / "model.safetensors"
    os.truncate(path, path.stat().st_size - 1234)
    told = reason(looked_at(tmp_path), "file")
    assert told == ("b: model.safetensors is cut off: 1,234 bytes are not there; fetch it again")
    header = {"x.weight": {"dtype": "F32", "shape": [4, 4], "data_offsets": [0, 8]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(8))
    told = [one for one in looked_at(tmp_path).reasons if one.about == "file"]
    assert "gives x.weight another size than shape and dtype have" in told[0].told
    write_sparse(path, {})
    assert "has safetensors files without a tensor" in reason(looked_at(tmp_path), "model")


@pytest.mark.parametrize(
    "text", ["[1]", "{", '{"x": 3}', "[" * 100_000, '{"x": {"dtype": "F32", "shape": "y"}}']
)
def test_odd_files_are_reasons_and_never_raise(tmp_path: Path, text: str) -> None:
    pair(tmp_path)
    path = tmp_path / "b" / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text.encode())
    assert "b" in reason(looked_at(tmp_path), "model")
    folder(tmp_path / "b")
    (tmp_path / "b" / "config.json").write_text(text)
    assert abouts(looked_at(tmp_path))


JSON = st.recursive(
    PLAIN | st.sampled_from([True, -1, 40, 1 << 90, 1e300, "\ud800", ""]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=2), inner),
    max_leaves=4,
)
ODD_KEYS = (
    *("vocab_size", "tie_word_embeddings", "text_config", "quantization_config", "rope_scaling"),
    *("rope_parameters", "model", "added_tokens", "chat_template", "architectures", "normalizer"),
)
ODD = st.dictionaries(st.sampled_from(ODD_KEYS), JSON, max_size=4)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ODD, ODD, ODD, st.sampled_from(["same", "shared"]), st.booleans())
def test_whatever_json_a_folder_holds_nothing_is_raised(
    config: Any, tokens: Any, told: Any, vocabulary: str, turned: bool
) -> None:
    with tempfile.TemporaryDirectory() as place:
        pair(Path(place))
        files = {"config.json": config, "tokenizer.json": tokens, "tokenizer_config.json": told}
        for name, content in files.items():
            (Path(place) / "b" / name).write_text(json.dumps(content))
        found = looked_at(Path(place), vocabulary=vocabulary, like="b" if turned else "a")
    assert "tokenizer" in abouts(found)
    assert printed(found, 80)
    assert json.dumps(found.as_dict())


@pytest.mark.parametrize("shape", [(-4, -16), (1 << 62,) * 20, (0, 16), ()])
def test_odd_shapes_are_reasons(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pair(tmp_path)
    header = {"lm_head.weight": {"dtype": "BF16", "shape": shape, "data_offsets": [0, 2]}}
    text = json.dumps(header).encode()
    path = tmp_path / "b" / "model.safetensors"
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(2))
    for carrier in ("a", "b"):
        found = looked_at(tmp_path, like=carrier)
        assert found.reasons
        assert printed(found, 80)


def test_a_model_of_many_experts_is_examined(tmp_path: Path) -> None:
    """Work grows with the number of tensors alone; see that all of them are looked at."""
    names = [f"model.layers.{n // 200}.mlp.experts.{n % 200}.up.weight" for n in range(10_000)]
    told = dict.fromkeys(names, ("BF16", (2, 2)))
    pair(tmp_path, a=told, b={name: told[name] for name in names if ".experts.7." not in name})
    found = looked_at(tmp_path, weight={f"*.layers.{n}.*": n + 1 for n in range(50)})
    assert found.tensors == 10_000
    assert reason(found, "tensors").startswith(
        "b: lacks 50 tensors that a has: model.layers.*.mlp.experts.*.up.weight (50);"
    )


@pytest.mark.parametrize("width", [60, 80, 160])
def test_every_reason_and_remark_is_shown_at_any_width(tmp_path: Path, width: int) -> None:
    pair(tmp_path, b=tensors(layers=3), rms_norm_eps=3, eos_token_id=9)
    found = looked_at(tmp_path, accept=("vocab",))
    shown = printed(found, width)
    table = shown.partition("note:")[0].splitlines()
    assert max(map(len, table)) <= width
    cells = "".join("".join(table).split())
    for one in found.reasons:
        assert one.about.replace(" ", "") in cells
    words = set(shown.split())
    assert all(set(one.about.split()) <= words for one in found.reasons)
    assert "not merged, for 3 reasons; no weight was read" in shown
    assert "note: not the same in all: eos_token_id" in shown


def test_hostile_names_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    evil = "\x1b[31mred\u202e[bold]x[/bold]\nnot merged, for 0 reasons"
    folder(tmp_path / "a", tensors() | {evil: ("BF16", (2,))}, **{evil: {evil: 1}})
    folder(tmp_path / "b", **{evil: {evil: evil}})
    found = looked_at(tmp_path, accept=(evil,), weight={evil: 1, "*": 1})
    shown = printed(found, 400)
    assert found.reasons
    assert "\x1b" not in shown
    assert "\u202e" not in shown
    assert "[bold]x[/bold]" in shown
    assert not any(line.startswith("not merged, for 0") for line in shown.splitlines())


def test_spans() -> None:
    assert spans([7, 3, 5, 6]) == "3, 5 to 7"
    assert spans(range(24, 32)) == "24 to 31"


def test_a_merge_of_models_that_are_not_there_is_refused_with_all_reasons(tmp_path: Path) -> None:
    pair(tmp_path, rms_norm_eps=3)
    names = {name: {"model": str(tmp_path / name)} for name in ("a", "b", "gone", "away")}
    with pytest.raises(Refused) as error:
        merge(MergeConfig(method="linear", models=names), tmp_path / "out")
    found = error.value.examination
    assert [(one.about, one.where) for one in found.reasons] == [
        ("model", "gone"),
        ("model", "away"),
        ("config", "rms_norm_eps"),
    ]
    assert not (tmp_path / "out").exists()
