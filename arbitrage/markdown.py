"""Cards in Markdown, in which everything of others (names, licenses, paths) is text, never markup.

Templates are those of this package. What is put in is escaped, but for numbers and `Raw`.
"""

from __future__ import annotations

import re
from functools import cache

import jinja2

ACTIVE = re.compile(r"([\\`*_{}\[\]<>#|~$&@:])")
"""What Markdown, HTML in it, or the Hub (mentions, formulas) could take for more than text."""
JOINERS = "\u200c\u200d"
"""What Persian, Hindi and emoji need."""
NOTHING = "none"


class Raw(str):
    """Text of this package's own, in which Markdown is meant."""

    __slots__ = ()


def harmless_line(value: object) -> str:
    """Text of others on one line; what cannot be seen or turns the line around is made visible."""
    text = " ".join(str(value).split())
    return "".join(c if c.isprintable() or c in JOINERS else "\ufffd" for c in text)


def escaped(value: object) -> str:
    """A value for Markdown: numbers and `Raw` as they are, everything else as plain text."""
    if isinstance(value, Raw | int | float):
        return str(value)
    if value is None:
        return NOTHING
    text = ACTIVE.sub(r"\\\1", harmless_line(value).replace("&", "&amp;").replace("<", "&lt;"))
    text = text.replace("\\&amp;", "&amp;").replace("\\&lt;", "&lt;")
    return re.sub(r"(?i)\b(www)\.", r"\1\\.", text)


@cache
def template(name: str) -> jinja2.Template:
    """A card's template. All that is put in is escaped; HTML's own escaping would be wrong."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("arbitrage", "templates"),
        finalize=escaped,
        autoescape=False,  # noqa: S701 - `finalize` does it
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)
