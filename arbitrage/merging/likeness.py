"""Whether checkpoints are of one architecture: names, shapes, dtypes, ties, from headers alone.

Each check yields reasons and remarks over all models of a merge, by name. No architecture is known,
and nothing is read but headers and the sizes of files. Work grows with the number of tensors only.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from arbitrage.errors import InputError
from arbitrage.merging.checkpoint import ADAPTER, Checkpoint
from arbitrage.merging.elements import FLOATS, SIZES
from arbitrage.merging.reasons import (
    Finding,
    Reason,
    by_value,
    counted,
    joined,
    kind_of,
    kinds,
    listed,
    spans,
)
from arbitrage.merging.schedule import Layer, layer_of
from arbitrage.weights import INDEX, OUTPUT, SINGLE, Weight, read_json

COPIED = frozenset(SIZES) - frozenset(FLOATS) - {"C64"}
"""Dtypes of tensors that are no weights (positions, flags): they are the carrier's."""
QUANTIZED = ("quantization_config", "compression_config")
TIES = "tie_word_embeddings"
Checkpoints = Mapping[str, Checkpoint]


def merged_tensors(checkpoint: Checkpoint) -> list[str]:
    """Names of the tensors that are merged; the others are copied."""
    return [name for name, weight in checkpoint.tensors.items() if weight.dtype in FLOATS]


def soundness(checkpoints: Checkpoints) -> Iterator[Finding]:
    """Files that are cut off, headers that contradict themselves, adapters."""
    for name, checkpoint in checkpoints.items():
        if (checkpoint.folder / ADAPTER).is_file():
            yield Reason(
                "adapter",
                name,
                f"it has {ADAPTER} beside full weights, so that it is not clear what the model is; "
                "merge the adapter into its base and save that, or take the adapter's files out",
            )
        wrong = [w.name for w in checkpoint.tensors.values() if not _fits_its_place(w)]
        if wrong:
            yield Reason(
                "file",
                name,
                f"the header gives {kinds(wrong)} another size than shape and dtype have; fetch "
                "the file again",
            )
        for told in (*_cut_off(checkpoint), *_misplaced(checkpoint), *_unindexed(checkpoint)):
            yield Reason("file", name, told)


def _fits_its_place(weight: Weight) -> bool:
    size = SIZES.get(weight.dtype)
    if any(one < 0 for one in weight.shape) or not 0 <= weight.start <= weight.end:
        return False
    return size is None or weight.end - weight.start == weight.numbers * size


def _cut_off(checkpoint: Checkpoint) -> Iterator[str]:
    """Files that are shorter than their headers say, in a sentence each."""
    ends: dict[str, int] = defaultdict(int)
    for weight in checkpoint.tensors.values():
        ends[weight.file] = max(ends[weight.file], weight.end)
    for file, end in ends.items():
        try:
            size = (checkpoint.folder / file).stat().st_size
            lacking = checkpoint.starts[file] + end - size
        except OSError as error:
            yield f"{file} cannot be read ({error.strerror}); fetch it again"
            continue
        if lacking > 0:
            yield f"{file} is cut off: {counted(lacking, 'byte')} are not there; fetch it again"


def _misplaced(checkpoint: Checkpoint) -> Iterator[str]:
    """Files in which two tensors lie at one place, which the format forbids."""
    last: dict[str, Weight] = {}
    for weight in sorted(checkpoint.tensors.values(), key=lambda one: (one.file, one.start)):
        before = last.get(weight.file)
        if before is not None and weight.start < before.end and weight.end > weight.start:
            yield (
                f"{kinds([before.name, weight.name])} overlap in {weight.file}; save the model "
                "again with `save_pretrained`"
            )
            return
        last[weight.file] = weight


def _unindexed(checkpoint: Checkpoint) -> Iterator[str]:
    """An index that does not fit the files."""
    try:
        told = read_json(checkpoint.folder / INDEX).get("weight_map") or {}
    except InputError:
        return  # of a folder that could not be opened
    lacking = [name for name in told if name not in {*checkpoint.tensors, *checkpoint.tied}]
    if lacking:
        yield f"the index names {kinds(lacking)}, which no file has; fetch the files again"
    if told and SINGLE not in told.values() and (checkpoint.folder / SINGLE).is_file():
        yield (
            f"it has {SINGLE} and an index of other files, and not all libraries take the same; "
            "take one of them out"
        )


def names(checkpoints: Checkpoints) -> Iterator[Finding]:
    """Tensors that some models lack, by who lacks them."""
    outputs = {tensor for _, tensor in _outputs(checkpoints)}
    told_apart = any(True for _ in ties(checkpoints))
    for who, tensors in _holders(checkpoints).items():
        lacking = [name for name in checkpoints if name not in who]
        if told_apart:
            tensors = [tensor for tensor in tensors if tensor not in outputs]
        if not lacking or not tensors:
            continue
        present = {layer_of(t) for name in lacking for t in checkpoints[name].tensors}
        shown = _by_layer(tensors, {layer for layer in present if layer is not None})
        number = counted(len(tensors), "tensor")
        advice = "merge models of one architecture and size" + _nothing_shared(checkpoints, tensors)
        if len(lacking) <= len(who):
            told = f"{_verb(lacking, 'lack')} {number} that {joined(who)} {_verb(who, 'have')}"
            yield Reason("tensors", joined(lacking), f"{told}: {shown}; {advice}")
        else:
            told = f"{_verb(who, 'have')} {number} that the others lack"
            yield Reason("tensors", joined(who), f"{told}: {shown}; {advice}")


def _verb(who: Iterable[str], verb: str) -> str:
    single = {"have": "has"}.get(verb, f"{verb}s")
    return single if len(list(who)) == 1 else verb


def _nothing_shared(checkpoints: Checkpoints, tensors: list[str]) -> str:
    """Said where these are all that some model has."""
    if any(len(one.tensors) == len(tensors) for one in checkpoints.values()):
        return " (no name is the same: perhaps one was saved with another prefix)"
    return ""


def _holders(checkpoints: Checkpoints) -> dict[tuple[str, ...], list[str]]:
    """Tensors by the models that have them."""
    who: dict[str, list[str]] = defaultdict(list)
    for name, checkpoint in checkpoints.items():
        for tensor in checkpoint.tensors:
            who[tensor].append(name)
    found: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for tensor, models in who.items():
        found[tuple(models)].append(tensor)
    return found


def _by_layer(tensors: list[str], present: set[Layer]) -> str:
    """Tensors as whole layers, where nothing of a layer is present, and by kind."""
    layers: dict[str, set[int]] = defaultdict(set)
    rest = []
    for tensor in tensors:
        layer = layer_of(tensor)
        if layer is None or layer in present:
            rest.append(tensor)
        else:
            layers[layer.stem].add(layer.number)
    shown = [f"{stem} {spans(numbers)}" for stem, numbers in layers.items()]
    return ", ".join([listed(shown)] * bool(shown) + [kinds(rest)] * bool(rest))


def shapes(checkpoints: Checkpoints, vocabulary: Iterable[str]) -> Iterator[Finding]:
    """Tensors of different shapes, by kind. The rows of vocabulary tensors are another's affair."""
    rows = frozenset(vocabulary)
    found: dict[tuple[str, tuple[tuple[str, str], ...]], list[str]] = defaultdict(list)
    for who, tensors in _holders(checkpoints).items():
        for tensor in tensors if len(who) > 1 else ():
            start = 1 if tensor in rows else 0
            seen = [checkpoints[name].tensors[tensor].shape for name in who]
            if any(shape[start:] != seen[0][start:] for shape in seen[1:]):
                told = tuple(zip(who, map(_dimensions, seen), strict=True))
                found[kind_of(tensor), told].append(tensor)
    for (kind, told), tensors in found.items():
        where = tensors[0] if len(tensors) == 1 else f"{kind} ({len(tensors):,})"
        yield Reason("shape", where, f"is {by_value(told)}; merge models of one size")


def _dimensions(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape)) or "one number"


def dtypes(checkpoints: Checkpoints, carrier: str) -> Iterator[Finding]:
    """What is no float: refused where it is packed, or a float elsewhere; else copied."""
    for name, checkpoint in checkpoints.items():
        if not _quantization(checkpoint):
            yield from _unknown(name, checkpoint)
    yield from _mixed(checkpoints)
    told = [w.name for w in checkpoints[carrier].tensors.values() if w.dtype in COPIED]
    if told:
        number = counted(len(told), "tensor")
        yield f"copied from {carrier}, not merged: {number} of whole numbers ({kinds(told)})"
    yield from _precisions(checkpoints, carrier)


def _unknown(name: str, checkpoint: Checkpoint) -> Iterator[Finding]:
    found: dict[str, list[str]] = defaultdict(list)
    for weight in checkpoint.tensors.values():
        if weight.dtype not in FLOATS and weight.dtype not in COPIED:
            found[weight.dtype].append(weight.name)
    for dtype, tensors in found.items():
        yield Reason(
            "dtype",
            name,
            f"{counted(len(tensors), 'tensor')} of {dtype} cannot be averaged ({kinds(tensors)}); "
            "save it as bfloat16, float16 or float32 first",
        )


def _mixed(checkpoints: Checkpoints) -> Iterator[Finding]:
    """Tensors that are floats in one model and whole numbers in another."""
    found: dict[tuple[str, tuple[tuple[str, str], ...]], int] = Counter()
    for who, tensors in _holders(checkpoints).items():
        models = [name for name in who if not _quantization(checkpoints[name])]
        for tensor in tensors:
            told = [(name, checkpoints[name].tensors[tensor].dtype) for name in models]
            kinds_of_numbers = {
                dtype in FLOATS for _, dtype in told if dtype in FLOATS or dtype in COPIED
            }
            if len(kinds_of_numbers) > 1:
                found[kind_of(tensor), tuple(told)] += 1
    for (kind, told_of), number in found.items():
        where = kind if number == 1 else f"{kind} ({number:,})"
        yield Reason(
            "dtype",
            where,
            f"is {by_value(told_of)}, and whole numbers are no weights; save all models alike",
        )


def _precisions(checkpoints: Checkpoints, carrier: str) -> Iterator[Finding]:
    """Floats of several precisions: they are merged in float32, and what comes out is told."""
    mine = checkpoints[carrier].tensors
    for name, checkpoint in checkpoints.items():
        other = Counter(
            (weight.dtype, mine[tensor].dtype)
            for tensor, weight in checkpoint.tensors.items()
            if tensor in mine and weight.dtype != mine[tensor].dtype and weight.dtype in FLOATS
        )
        for (dtype, its), number in other.items():
            tensors = counted(number, "tensor")
            yield f"{tensors} of {name} are {dtype}, and {its} in {carrier}; merged in float32"
    wide = [name for name, one in checkpoints.items() if "F64" in _dtypes_of(one)]
    if wide:
        yield f"float64 of {joined(wide)} is merged in float32"


def _dtypes_of(checkpoint: Checkpoint) -> set[str]:
    return {weight.dtype for weight in checkpoint.tensors.values()}


def quantization(checkpoints: Checkpoints) -> Iterator[Finding]:
    """Models whose config says that their weights are packed."""
    for name, checkpoint in checkpoints.items():
        method = _quantization(checkpoint)
        if method and _dtypes_of(checkpoint) <= frozenset(FLOATS):
            yield Reason(
                "quantized",
                name,
                f"config.json says quantized ({method}), and all tensors are floats; if it was "
                "dequantized, take `quantization_config` out of its config.json",
            )
        elif method:
            yield Reason(
                "quantized",
                name,
                f"its weights are quantized ({method}) and cannot be averaged; merge the model "
                "that it was made from, or dequantize it first",
            )


def _quantization(checkpoint: Checkpoint) -> str:
    """How the config says that weights are quantized; empty where it does not."""
    for config in (checkpoint.config, checkpoint.text_config):
        for key in QUANTIZED:
            told = config.get(key)
            if isinstance(told, dict) and told:
                return str(told.get("quant_method") or told.get("quantization_method") or "?")
            if told:
                return str(told)
    return ""


def ties(checkpoints: Checkpoints) -> Iterator[Finding]:
    """Output layers that are the input once more in some models, and their own in others."""
    own = {name for name, _ in _outputs(checkpoints)}
    said = {name: _says_tied(one) for name, one in checkpoints.items()}
    if not own and not {True, False} <= set(said.values()):
        return
    if len(own) == len(checkpoints) and len({said[name] is True for name in said}) == 1:
        return
    told = by_value((name, _tie_told(name in own, said[name])) for name in checkpoints)
    yield Reason(
        "tied weights",
        ", ".join(checkpoints),
        f"the output layer is {told}; save those that tie it with one of their own (a copy of the "
        f"embedding as lm_head.weight, and `{TIES}: false`)",
    )


def _outputs(checkpoints: Checkpoints) -> Iterator[tuple[str, str]]:
    """Models with output layers of their own, and their names."""
    for name, checkpoint in checkpoints.items():
        for tensor in checkpoint.tensors:
            if tensor.endswith(OUTPUT):
                yield name, tensor


def _says_tied(checkpoint: Checkpoint) -> bool | None:
    told = checkpoint.config.get(TIES, checkpoint.text_config.get(TIES))
    return told if isinstance(told, bool) else None


def _tie_told(own: bool, said: bool | None) -> str:
    if own:
        return "tied in the config alone" if said else "its own"
    return "tied to the input" if said else "not there"
