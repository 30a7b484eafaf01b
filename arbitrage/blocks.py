"""What every part of a config is made of: closed to unknown keys, and able to say its identity.

`identity()` gives the fields of a block that change what it produces; fields made with
`incidental()` (resources, concurrency, names) are never part of it, and fields at their default are
left out, so that a new field with a default never renames what is already paid for.
"""

from __future__ import annotations

import difflib
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, model_validator


def incidental(default: Any, **bounds: Any) -> Any:
    """A field that never changes what is produced, so that changing it redoes nothing."""
    return Field(default, json_schema_extra={"identity": False}, **bounds)


class Block(BaseModel):
    """Base of every part of a config: immutable, and closed to unknown keys."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False
    )

    @model_validator(mode="before")
    @classmethod
    def _name_the_nearest_key(cls, value: Any) -> Any:
        if isinstance(value, dict):
            known = [field.alias or name for name, field in cls.model_fields.items()]
            for key in value:
                if key not in known:
                    raise ValueError(_unknown_key(str(key), known))
        return value

    def identity(self) -> dict[str, Any]:
        """Plain data: the fields that change the output and are not at their default."""
        found: dict[str, Any] = {}
        for name, field in type(self).model_fields.items():
            extra = field.json_schema_extra
            if isinstance(extra, dict) and extra.get("identity") is False:
                continue
            value = getattr(self, name)
            if value != field.get_default(call_default_factory=True):
                found[name] = _plain(value)
        return found


def _plain(value: Any) -> Any:
    if isinstance(value, Block):
        return value.identity()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def _unknown_key(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]!r}?" if near else f"known keys are {', '.join(known)}"
    return f"unknown key {key!r}; {hint}"
