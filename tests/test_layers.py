"""The package's shape, read from its source: layers, sizes, docstrings, and what is not allowed.

`STORY` is the design's table, from the ground up. A module may import modules of lower layers only,
wherever in the file the import stands; neighbours in a line never import each other.
"""

from __future__ import annotations

import ast
import statistics
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).resolve().parents[1] / "arbitrage"

STORY = (
    (
        *("errors", "records", "languages", "stats", "usage", "pulse", "speeds", "page", "lots"),
        *("pace", "amounts", "rivals", "stats.outcomes", "winrate", "escapes", "stats.strengths"),
        *("winrate.style", "markdown", "merging", "merging.methods", "merging.reasons"),
    ),
    (
        *("identity", "blocks", "deadline", "files", "writing", "phrases", "columns", "combine"),
        *("ranking", "weights", "exports", "shown", "winrate.results", "stats.resampling"),
        *("stats.tallies", "winrate.recorded_files", "stats.simulation", "winrate.recorded_forms"),
        *("merging.elements", "merging.sparsity"),
    ),
    (
        *("sourcecode", "rules", "standings", "datafolder", "fields", "winrate.choices"),
        *("winrate.census", "winrate.recorded_questions", "winrate.telling", "stats.agreement"),
        *("stats.smallness",),
    ),
    (
        *("options", "settings", "choices", "lock", "diary", "confusion", "loops", "quotas"),
        *("measures", "winrate.entries", "winrate.scopes", "merging.outcome"),
    ),
    ("config", "gates", "directions", "selection", "card", "diversity", "winrate.remarks"),
    ("judging", "fusion", "advice", "winrate.config", "winrate.analysis", "merging.config"),
    ("components", "merging.schedule", "merging.checkpoint"),
    (
        *("resolve", "routers.protocol", "merging.layout", "merging.streaming"),
        *("merging.vocabulary", "merging.room", "merging.likeness"),
    ),
    ("routers.lifts", "merging.jobs", "merging.output", "merging.configs", "merging.fitting"),
    (
        *("routers.everyone", "routers.fixed", "routers.drawn", "routers.learned"),
        *("routers.cascade", "routers.adaptive", "merging.tokenizing", "merging.workplace"),
    ),
    ("configfile", "store", "sources", "validation", "engines", "routers", "merging.preflight"),
    (
        *("prompts", "arbiter", "plan", "lineup", "placement", "reading", "winrate.games"),
        *("winrate.loading", "winrate.answer_files", "merging.loading"),
    ),
    (
        *("product", "baselines", "pairs", "replay", "winrate.sourcing", "desk"),
        *("winrate.recorded_styles", "spending", "journal", "merging.sweep_config"),
    ),
    (
        *("resumable", "demand", "readahead", "parts", "rounds", "attacks", "results", "worth"),
        *("distributions", "winrate.contest", "winrate.recorded", "merging.points"),
    ),
    ("answers", "costs", "cells", "closeup", "winrate.planner"),
    (
        *("scheduler", "watch", "budget", "progress", "board", "manifest", "summary", "assay"),
        *("samples", "variety", "factors", "winrate.work", "winrate.gathering", "winrate.outlook"),
    ),
    (
        *("replica", "needs", "nodes", "turns", "events", "checks", "permits", "stages"),
        *("winrate.caveats", "stopping", "merging.papers"),
    ),
    ("estimate", "sieve", "metrics", "worker", "merging.merge"),
    ("figures", "tallies", "ray_metrics", "cluster"),
    ("views", "preview", "verify", "datacard", "driver"),
    (
        *("repair", "garbage", "compare", "routing", "failures", "account", "frames", "state"),
        *("exporting", "sides", "pipeline"),
    ),
    ("verdicts", "runs", "inspection", "leaderboard", "differences", "probe", "winrate.evaluation"),
    ("report_view", "merging.evaluating"),
    ("report_matrix", "merging.sweep"),
    ("report_tables", "merging.sweep_outlook"),
    ("tables",),
    (
        *("tables_plan", "tables_arbiter", "tables_gates", "tables_route", "terminal"),
        *("tables_leaderboard", "tables_export", "tables_diff", "winrate_page", "tables_winrate"),
        *("tables_outlook", "tables_merge", "tables_sweep"),
    ),
    ("tables_state", "tables_inspect", "cli_judgements", "report", "cli_winrate", "cli_sweep"),
    (
        *("cli_look", "cli_report", "cli_leaderboard", "cli_diff", "cli_export", "cli_arbiter"),
        *("cli_route", "cli_merge"),
    ),
    ("cli",),
)
LAYERS = {module: layer for layer, modules in enumerate(STORY) for module in modules}
"""A folder stands for all modules in it. The package's own `__init__` is below everything."""

FAMILIES = ("engines", "routers")
"""Folders of interchangeable things; a member knows its folder's `__init__` and its helpers."""

CHAPTERS = ("stats", "winrate", "merging")
"""Folders that are a part of the story: each of their modules has a place in the table itself."""

HELPERS = {
    "engines.chat": "templates and tokens, for every engine that holds a tokenizer",
    "engines.fence": "what a turn says is no control token, beneath the former",
    "engines.template": "the same for engines without one",
    "engines.reasoning": "the one rule that parts reasoning from answer",
    "engines.microbatch": "batching that every engine without its own scheduler shares",
    "engines.stepper": "the thread of an engine that is stepped",
    "engines.vllm_arguments": "what vLLM is told, in a module that needs no vLLM",
    "engines.vllm_worker": "what goes along into vLLM's own processes",
    "engines.client": "retries, limits and secrets of whatever speaks to a server",
    "engines.pacing": "how fast a server is asked",
}

CATCH_ALL = {"engines.microbatch": 1, "engines.stepper": 3}
"""Handlers that keep any exception: a thread hands it to every caller who waits."""

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
MAX_MEDIAN_LINES = 10
PRINTERS = ("cli", "progress", "terminal")
"""The names of all that may print begin so."""
Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    parts = list(path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(ROOT.rglob("*.py"))}
NAMED = [name for name in MODULES if name]
"""All but the package's own `__init__`."""


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def layer_of(module: str) -> int:
    return LAYERS[module if module in LAYERS else module.split(".")[0]]


def imports(module: str) -> Iterator[tuple[str, int]]:
    """Every absolute name that a module imports, wherever the import stands, with its line."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def own_imports(module: str) -> Iterator[tuple[str, int]]:
    """The modules of this package that a module imports."""
    for name, line in imports(module):
        first, _, rest = name.partition(".")
        if first != "arbitrage":
            continue
        while rest and rest not in MODULES:
            rest = rest.rpartition(".")[0]
        yield rest, line


def functions(module: str) -> list[Function]:
    return [node for node in ast.walk(tree_of(module)) if isinstance(node, Function)]


def length(function: Function) -> int:
    return (function.end_lineno or function.lineno) - function.lineno + 1


def calls(module: str) -> Iterator[tuple[str, int]]:
    """Every called thing as it is written, with its line."""
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


def test_every_module_is_in_the_table_and_every_entry_is_a_module() -> None:
    assert [m for m in NAMED if m not in LAYERS and m.split(".")[0] not in FAMILIES] == []
    folders = (*FAMILIES, *CHAPTERS)
    assert [m for m in NAMED if "." in m and m.split(".")[0] not in folders] == []
    assert [entry for entry in LAYERS if entry not in MODULES] == []


@pytest.mark.parametrize("module", NAMED)
def test_a_module_imports_only_from_lower_layers(module: str) -> None:
    wrong = []
    for imported, line in own_imports(module):
        if not imported or layer_of(imported) < layer_of(module):
            continue
        if "." in module and imported in (module.split(".")[0], *HELPERS):
            continue
        wrong.append(f"line {line}: {module} imports {imported}")
    assert wrong == []


def test_the_package_itself_imports_nothing_until_it_is_used_and_no_import_is_relative() -> None:
    body = tree_of("").body
    assert {ast.unparse(n) for n in body if isinstance(n, ast.Import | ast.ImportFrom)} == {
        "from __future__ import annotations",
        "from typing import TYPE_CHECKING",
    }
    assert {name for name, _ in own_imports("")} == {"runs"}
    relative = [
        f"{module}:{node.lineno}"
        for module in NAMED
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.ImportFrom) and node.level
    ]
    assert relative == []


def test_only_cluster_imports_ray_and_its_metrics_have_a_module_of_their_own() -> None:
    """What is told to a monitoring system has nothing to do with actors, tasks and nodes."""
    users = {(m, name) for m in NAMED for name, _ in imports(m) if name.split(".")[0] == "ray"}
    assert {module for module, _ in users} == {"cluster", "ray_metrics"}
    assert {name for module, name in users if module == "ray_metrics"} == {"ray.util.metrics"}


def test_only_store_writes_parquet_of_a_run_and_only_an_export_its_own() -> None:
    importers = {m for m in NAMED for name, _ in imports(m) if name.startswith("pyarrow.parquet")}
    assert importers == {"store", "datafolder", "sources", "reading"}, "the last two read only"
    writing = ("write_table", "ParquetWriter", "to_parquet", "write_dataset", "write_metadata")
    writers = {m for m in NAMED for called, _ in calls(m) if called.split(".")[-1] in writing}
    assert writers == {"store", "datafolder"}


def test_only_the_command_line_and_progress_print() -> None:
    printers = {m for m in NAMED for called, _ in calls(m) if called == "print"}
    consoles = {m for m in NAMED for name, _ in imports(m) if name == "rich.console.Console"}
    streams = {
        m
        for m in NAMED
        for node in ast.walk(tree_of(m))
        if isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout", "sys.stderr")
    }
    found = printers | consoles | streams
    assert [module for module in found if not module.startswith(PRINTERS)] == []


def test_heavy_libraries_are_imported_only_by_the_engines_that_need_them() -> None:
    heavy = {"torch", "transformers", "vllm", "tokenizers", "safetensors"}
    users = {m for m in NAMED for name, _ in imports(m) if name.split(".")[0] in heavy}
    assert all(module.startswith("engines.") for module in users), users


def test_no_module_is_named_like_one_of_the_standard_library() -> None:
    assert {m.split(".")[-1] for m in NAMED} & sys.stdlib_module_names == set()


@pytest.mark.parametrize("module", NAMED)
def test_files_and_functions_are_short(module: str) -> None:
    lines = MODULES[module].read_text(encoding="utf-8").count("\n")
    assert lines <= MAX_FILE_LINES
    long = {f.name: length(f) for f in functions(module) if length(f) > MAX_FUNCTION_LINES}
    assert long == {}


def test_the_median_function_is_a_few_lines() -> None:
    lengths = [length(function) for module in NAMED for function in functions(module)]
    assert len(lengths) > 200
    assert statistics.median(lengths) <= MAX_MEDIAN_LINES


@pytest.mark.parametrize("module", MODULES)
def test_code_is_ascii(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    wrong = [f"{n}: {line}" for n, line in enumerate(text.splitlines(), 1) if not line.isascii()]
    assert wrong == []


def protocol_members() -> set[str]:
    """Methods that a Protocol documents once for all who implement it."""
    return {
        member.name
        for module in NAMED
        for node in ast.walk(tree_of(module))
        if isinstance(node, ast.ClassDef) and any("Protocol" in ast.unparse(b) for b in node.bases)
        for member in node.body
        if isinstance(member, Function)
    }


def overrides(node: ast.ClassDef, method: str) -> bool:
    """Whether a class of another library, or a Protocol, documents this method already."""
    foreign = {"construct_mapping"}
    return bool(node.bases) and method in protocol_members() | foreign


def public(node: ast.Module | ast.ClassDef, place: str) -> Iterator[tuple[str, ast.AST]]:
    """All public functions, classes and methods below a node, without overrides."""
    for child in node.body:
        if not isinstance(child, Function | ast.ClassDef) or child.name.startswith("_"):
            continue
        if isinstance(node, ast.ClassDef) and overrides(node, child.name):
            continue
        yield f"{place}.{child.name}", child
        if isinstance(child, ast.ClassDef):
            yield from public(child, f"{place}.{child.name}")


@pytest.mark.parametrize("module", MODULES)
def test_everything_public_has_a_docstring(module: str) -> None:
    tree = tree_of(module)
    assert ast.get_docstring(tree), "the module has none"
    found = list(public(tree, module))
    assert [name for name, node in found if not ast.get_docstring(node)] == []  # type: ignore[arg-type]


@pytest.mark.parametrize("module", NAMED)
def test_public_functions_are_annotated(module: str) -> None:
    bare = []
    for name, node in public(tree_of(module), module):
        if isinstance(node, Function):
            arguments = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
            untyped = {a.arg for a in arguments if not a.annotation} - {"self", "cls"}
            bare += [name] if untyped or node.returns is None else []
    assert bare == []


def is_too_wide(node: ast.ExceptHandler) -> bool:
    """A handler of everything that neither raises again nor turns it into an error of ours."""
    caught = ast.unparse(node.type) if node.type else "BaseException"
    wide = {"Exception", "BaseException"} & set(caught.strip("()").split(", "))
    last = node.body[-1]
    raises = isinstance(last, ast.Raise) and (last.exc is None or last.cause is not None)
    return bool(wide) and not raises


@pytest.mark.parametrize("module", NAMED)
def test_users_mistakes_are_not_asserted_and_errors_are_not_swallowed(module: str) -> None:
    wrong = []
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Assert):
            wrong.append(f"line {node.lineno}: assert")
        elif isinstance(node, ast.ExceptHandler) and is_too_wide(node):
            wrong.append(f"line {node.lineno}: except")
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("suppress"):
            wide = {"Exception", "BaseException"} & {ast.unparse(arg) for arg in node.args}
            wrong += [f"line {node.lineno}: suppress of everything"] if wide else []
    assert len(wrong) <= CATCH_ALL.get(module, 0), wrong
