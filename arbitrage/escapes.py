"""Text of others as JSON that a chat model may be shown: no control token in it is one.

Only an engine that holds the tokenizer can fence every token (`engines.fence`); here those that are
in use are spelled in JSON's escapes, which are the same text and no token.
"""

from __future__ import annotations

import json
import re
from typing import Any

_CONTROL = re.compile(
    r"[<\[](?=\||\uff5c|/?s>|[be]o[st]>|(?:start|end)_of_|/?INST\]|</?SYS>>|/?think>)",
    re.IGNORECASE,
)
"""Where a control token that is in use begins; nothing in JSON itself looks like that."""


def fenced_json(value: Any) -> str:
    """JSON of plain data without any control token that is in use."""
    text = json.dumps(value, ensure_ascii=False)
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
