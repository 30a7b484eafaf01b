"""One HTML file that opens offline: a template, its data, its styles and its scripts, all inlined.

It knows no run: who calls it names the template and brings the data. What others wrote (text of
models, names of users) is text: Jinja escapes it in markup, JSON carries it in `data`, and the
scripts set it as `textContent`.

Invariants: a page asks the net for nothing, and runs only the scripts whose hashes stand in its
Content-Security-Policy; nothing in `data` can end or open an element; plotly is there at most once;
the page is always UTF-8 that can be encoded, whatever half characters the values had.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from functools import cache
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, PackageLoader, StrictUndefined, TemplateNotFound
from markupsafe import Markup

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

BASE = "page"
"""The template that every other extends; `page.css` and `page.js` are on every page."""

ESCAPES = {ord(char): f"\\u{ord(char):04x}" for char in "<>&\u2028\u2029"}
"""What JSON may say of characters that mean something to an HTML or an older script parser."""


def render(
    template: str,
    *,
    title: str,
    data: Mapping[str, Any],
    plots: bool = False,
    also: Sequence[str] = (),
    **values: Any,
) -> str:
    """The whole page of `templates/<template>`, which extends `page.html`.

    `<name>.css` and `<name>.js` beside a template `<name>.html` are taken along, and those of the
    names in `also` before them. `data` is what the page's scripts read, see `encoded`; `values` are
    the template's own. With `plots` plotly's own script is inlined.
    """
    name = template.removesuffix(".html")
    parts = list(dict.fromkeys((BASE, *also, name)))
    found = {kind: [_source(f"{part}.{kind}") for part in parts] for kind in ("css", "js")}
    scripts = ([_plotly()] if plots else []) + [script for script in found["js"] if script]
    page = environment().get_template(f"{name}.html")
    text = page.render(
        values
        | {
            "title": title,
            "policy": policy(scripts),
            "styles": [Markup(style) for style in found["css"] if style],  # noqa: S704
            "scripts": [Markup(script) for script in scripts],  # noqa: S704
            "data": Markup(encoded(data)),  # noqa: S704
        }
    )
    return whole(text)


@cache
def environment() -> Environment:
    """The templates of this package; every value in them is escaped, an unknown one is an error."""
    return Environment(
        loader=PackageLoader("arbitrage", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def encoded(data: Any) -> str:
    """JSON that can stand inside a script element: no `<`, `>` or `&`; nan and inf are null."""
    text = json.dumps(plain(data), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return whole(text.translate(ESCAPES))


def plain(value: Any) -> Any:
    """The same value of what JSON knows alone; numbers of numpy become Python's.

    Raises TypeError where it is of nothing that JSON knows.
    """
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    item = getattr(value, "item", None)
    if item is None:
        raise TypeError(f"{type(value).__name__} has no form in JSON")
    return plain(item())


def whole(text: str) -> str:
    """The same text without half characters, which no file can hold."""
    return text.encode("utf-8", "replace").decode("utf-8")


def policy(scripts: Sequence[str]) -> str:
    """The Content-Security-Policy under which exactly these scripts run, and nothing is fetched."""
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {hashes}",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode("utf-8")).digest()).decode("ascii")


@cache
def _source(name: str) -> str:
    """The text of a file beside the templates, as a browser reads it; empty where there is none."""
    env = environment()
    try:
        return env.loader.get_source(env, name)[0].replace("\r\n", "\n") if env.loader else ""
    except TemplateNotFound:
        return ""


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    script: str = get_plotlyjs()
    return script.replace("\r\n", "\n")
