"""The card of an exported data set: what it is, how it was made, what was left out, its limits.

Everything of others (names of models, licenses, files) is text and never markup, in Markdown and in
the front matter, which the Hub reads. No path of the user's machine, no secret and no time of the
clock stands in it, so that the same run gives the same card.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import yaml

from arbitrage import __version__
from arbitrage.exports import FORMATS
from arbitrage.languages import table
from arbitrage.markdown import NOTHING, Raw, harmless_line, template
from arbitrage.permits import Permit, last_part, shown_model
from arbitrage.sieve import WHY
from arbitrage.tallies import NOT_RECORDED, Tally

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from arbitrage.components import Components
    from arbitrage.config import RunConfig
    from arbitrage.datafolder import DataFile
    from arbitrage.permits import Permits
    from arbitrage.results import LanguageResult
    from arbitrage.sieve import Wanted
    from arbitrage.stats import Moments
    from arbitrage.store import Store
    from arbitrage.summary import Summary

TEMPLATE = "datacard.md"
LICENSE_NAMES = """
apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0
bigcode-openrail-m afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear
c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5 cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0
cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0 cc-by-nc-nd-4.0 cc-by-nc-sa-2.0
cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0 cdla-permissive-2.0 wtfpl
ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0 lgpl
lgpl-2.1 lgpl-3.0 isc lppl-1.3c ms-pl mpl-2.0 odc-by odbl osl-3.0 postgresql ofl-1.1 ncsa
unlicense zlib pddl llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma
"""
KNOWN_LICENSES = frozenset(LICENSE_NAMES.split())
"""What the Hub knows by these names (huggingface.co/docs/hub/repositories-licenses)."""
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")
TYPES = {pa.string(): "string", pa.float64(): "float64"}


@dataclass(frozen=True)
class Told:
    """All that a card is made from."""

    store: Store
    components: Components
    config: RunConfig
    permits: Permits
    summary: Summary
    wanted: Wanted
    schema: pa.Schema
    kind: str
    ledger: Mapping[str, Any]
    tally: Tally
    files: Sequence[DataFile] = field(default_factory=list)
    outdated: int = 0


def render(told: Told) -> str:
    """The whole README.md."""
    front = yaml.safe_dump(front_matter(told), sort_keys=False, allow_unicode=True, width=1_000_000)
    return f"---\n{front}---\n\n{template(TEMPLATE).render(**_values(told))}\n"


def front_matter(told: Told) -> dict[str, Any]:
    """What the Hub and `datasets` read."""
    configs = _configs(told)
    features = [_feature(column) for column in told.schema]
    return {
        "pretty_name": harmless_line(_title(told)),
        "language": sorted(told.tally.languages),
        "multilinguality": ["multilingual" if len(told.tally.languages) > 1 else "monolingual"],
        **license_of(told.tally.licenses),
        "task_categories": ["text-generation"],
        "size_categories": [size_category(told.tally.rows)],
        "tags": ["synthetic", "arbitrage", told.wanted.form, "arxiv:2408.14960"],
        "configs": configs,
        "dataset_info": [{"config_name": c["config_name"], "features": features} for c in configs],
    }


def license_of(licenses: Mapping[str, int]) -> dict[str, str]:
    """The license that all models have in common, if they do and the Hub knows it."""
    names = {name.lower() for name in licenses}
    slugs = sorted({re.sub(r"[^a-z0-9.]+", "-", name).strip("-.") or "other" for name in names})
    alone = re.sub(r"-(only|or-later)$", "", next(iter(names), ""))
    if len(names) == 1 and alone in KNOWN_LICENSES:
        return {"license": alone}
    return {"license": "other", "license_name": "-and-".join(slugs)[:96]}


def size_category(rows: int) -> str:
    """The Hub's word for so many rows."""
    return SIZES[max(0, min(len(SIZES) - 1, len(str(max(rows, 1))) - 3))]


def _configs(told: Told) -> list[dict[str, Any]]:
    """One for everything, and one per language where each has files of its own."""
    per_language = any(one.language for one in told.files)
    found = [("default", None), *((c, c) for c in sorted({f.language or "" for f in told.files}))]
    return [
        {
            "config_name": name,
            "data_files": [
                {"split": split, "path": f"data/{code or '*'}/{split}-*"}
                if per_language
                else {"split": split, "path": f"data/{split}-*"}
                for split in _splits(told, code)
            ],
        }
        for name, code in (found if per_language else found[:1])
    ]


def _splits(told: Told, code: str | None) -> list[str]:
    there = {one.split for one in told.files if code in (None, one.language)}
    return [name for name, _ in told.wanted.splits if name in there]


def _feature(column: pa.Field) -> dict[str, Any]:
    """A column as `dataset_info` names it."""
    if pa.types.is_list(column.type):
        return {"name": column.name, "list": [_feature(part) for part in column.type.value_type]}
    return {"name": column.name, "dtype": TYPES[column.type]}


def _title(told: Told) -> str:
    return f"{last_part(told.store.address()) or 'run'} ({told.wanted.form})"


def _values(told: Told) -> dict[str, Any]:
    """What the template puts in."""
    ledger = told.summary.ledger
    return {
        "title": _title(told),
        "what": FORMATS[told.wanted.form].what,
        "told": told,
        "rows": told.tally.rows,
        "version": __version__,
        "run_fingerprint": told.components.fingerprint,
        "date": _date(told.store),
        "columns": [name for name in told.schema.names if name in told.wanted.beside],
        "texts": FORMATS[told.wanted.form].texts,
        "splits": [(name, told.tally.splits[name]) for name, _ in told.wanted.splits],
        "licenses": sorted(told.tally.licenses.items()),
        "teachers": _teachers(told),
        "arbiters": _arbiters(told),
        "choice": _choice(told),
        "languages": _languages(told),
        "gain": _gain(told),
        "ledger": ledger,
        "refused": sum(ledger.refused.values()),
        "quarantined": sum(ledger.quarantined.values()),
        "left_out": _left_out(told.ledger),
        "unfinished": ledger.unfinished,
        "remarks": told.components.remarks,
        "barred": [permit.name for permit in told.permits.pool if not permit.for_training],
        "percent": _percent,
        "raw": Raw,
        "per_language": any(one.language for one in told.files),
        "not_recorded": NOT_RECORDED,
    }


def _percent(part: float, whole: float) -> Raw:
    return Raw(f"{part / whole:.1%}" if whole else "")


def _date(store: Store) -> str:
    """The day on which the last shard of the product was made, as the diary tells."""
    times = [
        event["time"]
        for event in store.events()
        if event.get("event") == "task_done" and event.get("stage") == "select"
    ]
    return time.strftime("%Y-%m-%d", time.gmtime(max(times))) if times else NOT_RECORDED


def _teachers(told: Told) -> list[dict[str, Any]]:
    """The pool in its order, then those that the config no longer has."""
    tally = told.tally
    found = dict.fromkeys([*told.permits.pool, *sorted(tally.teachers, key=_place), *tally.beside])
    languages: Counter[str] = Counter()
    for row in tally.languages.values():
        languages.update(row.teachers.keys())
    return [
        {
            "who": permit,
            "rows": tally.teachers[permit],
            "rejected": tally.beside[permit],
            "languages": languages[permit.name],
        }
        for permit in found
    ]


def _place(permit: Permit) -> tuple[str, str]:
    return permit.name, permit.model or ""


def _arbiters(told: Told) -> list[dict[str, Any]]:
    return [
        {
            "name": one.name,
            "engine": one.config.engine,
            "model": shown_model(one.config.model),
            "revision": one.config.revision,
            "fingerprint": one.fingerprint,
        }
        for one in told.components.arbiters
    ]


def _choice(told: Told) -> list[tuple[str, str]]:
    """How was chosen, as (what, how)."""
    config, components = told.config, told.components
    chosen = ", ".join(
        f"{name} {value}" for name, value in config.selection.identity().items() if name != "rule"
    )
    rule = config.selection.rule + (f" ({chosen})" if chosen else "")
    found = [
        ("prompts from", ", ".join(_sources(config))),
        ("routing", config.routing.router),
        ("gates enforced", ", ".join(config.gates.enforced()) or NOTHING),
        ("selection rule", rule),
        ("seed", str(config.seed)),
        ("run fingerprint", components.fingerprint),
    ]
    if len(components.arbiters) > 1:
        found.append(("rewards of several Arbiters", f"combined by {config.combine}"))
    if config.retry is not None:
        found.append(("retry", "prompts whose answers all failed a gate were asked once more"))
    if config.fuser is not None:
        found.append(("fuser", "one model also wrote an answer from all the others'"))
    return found


def _sources(config: RunConfig) -> list[str]:
    """Names of files and data sets, never where they lie."""
    places = (source.path or source.dataset or "" for source in config.prompts.sources)
    return [
        (shown_model(place) or "") if source.dataset else last_part(place)
        for source, place in zip(config.prompts.sources, places, strict=True)
    ]


def _languages(told: Told) -> list[dict[str, Any]]:
    results = {row.language: row for row in told.summary.languages}
    found = []
    for code, mine in sorted(told.tally.languages.items()):
        winners = sorted(mine.teachers.items(), key=lambda one: (-one[1], one[0]))
        alone, gain = _alone(results.get(code))
        found.append(
            {
                "code": code,
                "name": table()[code].name,
                "rows": mine.rows,
                "reward": Raw(f"{mine.reward.mean:.3f}"),
                "winners": ", ".join(f"{name} {count / mine.rows:.0%}" for name, count in winners),
                "alone": alone,
                "gain": gain,
            }
        )
    return found


def _alone(row: LanguageResult | None) -> tuple[str, Raw]:
    """The language's best single teacher, and what choosing gains over it."""
    name = row.best_alone if row else None
    if row is None or name is None:
        return NOTHING, Raw("")
    return name, _interval(row.teachers[name].gain)


def _gain(told: Told) -> Raw | None:
    ways = told.summary.as_dict()["beside"]
    way = ways.get("best single teacher")
    if way is None or way["gain"] is None:
        return None
    half = "" if way["interval"] is None else f" \u00b1 {way['interval']:.3f}"
    return Raw(f"{way['gain']:+.3f}{half} over {way['prompts']:,} prompts")


def _interval(gain: Moments) -> Raw:
    half = "" if math.isnan(gain.half_width) else f" \u00b1 {gain.half_width:.3f}"
    return Raw(f"{gain.mean:+.3f}{half}")


def _left_out(ledger: Mapping[str, Any]) -> list[tuple[str, int, str]]:
    """(why, rows, by whom) in the order of the reasons."""
    return [
        (WHY[why], sum(counts.values()), ", ".join(f"{n} {c:,}" for n, c in counts.items() if n))
        for why, counts in ledger["left_out"].items()
    ]
