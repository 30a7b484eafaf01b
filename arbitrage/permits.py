"""What is known of whoever wrote an answer: model, license, whether training on it is allowed.

Reads configs and identities of components. A teacher is found by its fingerprint; one that the
config no longer has by its stored identity: a teacher that was asked again is the teacher itself,
and the same model has the same license. What nobody recorded is none, never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from arbitrage.components import Teacher
from arbitrage.files import has_scheme
from arbitrage.manifest import IDENTITY

if TYPE_CHECKING:
    from collections.abc import Mapping

    from arbitrage.components import Components
    from arbitrage.config import RunConfig, TeacherConfig
    from arbitrage.store import Listing, Store

LOCAL = ("/", ".", "~")


@dataclass(frozen=True)
class Permit:
    """A teacher as a reader of its answers needs it. `license` is none where it is not recorded,
    `fuses` says that it wrote from others' answers, `current` that the config has it."""

    name: str
    engine: str | None = None
    model: str | None = None
    revision: str | None = None
    license: str | None = None
    for_training: bool = True
    fuses: bool = False
    current: bool = False


@dataclass
class Permits:
    """By fingerprint; what the config does not tell is read once from stored identities."""

    store: Store
    listing: Listing
    components: Components
    now: RunConfig | None = None
    _known: dict[str, Permit] = field(default_factory=dict, init=False)
    _models: list[tuple[Any, Permit]] | None = field(default=None, init=False)

    @property
    def pool(self) -> list[Permit]:
        """Those of the config, in its order."""
        return [self.of(teacher.fingerprint) for teacher in self.components.answering]

    @property
    def barred(self) -> bool:
        """Whether there may be answers that are not for training."""
        return not all(permit.for_training for permit in self.pool)

    def of(self, fingerprint: str, name: str = "") -> Permit:
        """Of a teacher; `name` is what it was called, for one that nothing is stored of."""
        if fingerprint not in self._known:
            owner = self.components.owner(fingerprint)
            self._known[fingerprint] = (
                self._of_config(owner)
                if isinstance(owner, Teacher)
                else self._of_identity(fingerprint, name)
            )
        return self._known[fingerprint]

    def _of_config(self, teacher: Teacher) -> Permit:
        told = self._as_told_now(teacher)
        config = teacher.config
        return Permit(
            teacher.name,
            config.engine,
            shown_model(config.model),
            config.revision,
            told.license,
            told.for_training,
            fuses=teacher is self.components.fuser,
            current=True,
        )

    def _as_told_now(self, teacher: Teacher) -> TeacherConfig:
        """A license may have been written down after the run: the config that was given counts."""
        if self.now is None:
            return teacher.config
        if teacher is self.components.fuser:
            return self.now.fuser or teacher.config
        mine = teacher.config.identity()
        named = self.now.teachers.get(teacher.name)
        others = [one for one in self.now.teachers.values() if one.identity() == mine]
        if named is not None and named.identity() == mine:
            return named
        return others[0] if others else teacher.config

    def _of_identity(self, fingerprint: str, name: str) -> Permit:
        note = self._note(fingerprint)
        identity = note.get("identity", {})
        if "teacher" in identity:
            return self.of(identity["teacher"], name)
        model = identity.get("model")
        told = next((p for known, p in self._current_models() if model and known == model), None)
        return Permit(
            note.get("name", name),
            identity.get("engine"),
            shown_model(model.get("name")) if isinstance(model, dict) else None,
            identity.get("revision"),
            told.license if told else None,
            told.for_training if told else True,
            fuses=bool(identity.get("fuses")),
        )

    def _current_models(self) -> list[tuple[Any, Permit]]:
        """The stored models of the config's teachers; what is barred first."""
        if self._models is None:
            found = []
            for teacher in self.components.answering:
                model = self._note(teacher.fingerprint).get("identity", {}).get("model")
                found.append((model, self.of(teacher.fingerprint)))
            self._models = sorted(found, key=lambda one: one[1].for_training)
        return self._models

    def _note(self, fingerprint: str) -> Mapping[str, Any]:
        folder = self.listing.folders.get(("candidates", fingerprint))
        note: Mapping[str, Any] | None = None
        if folder is not None:
            note = self.store.read_json(f"{folder}{IDENTITY}")
        return note or {}


def shown_model(model: str | None) -> str | None:
    """A model's name as others may see it: of a folder or an address the last part alone."""
    if model is None or not (model.startswith(LOCAL) or has_scheme(model) or "\\" in model):
        return model
    return last_part(model)


def last_part(place: str) -> str:
    """The last part of a path or an address."""
    path = place.partition("?")[0] if has_scheme(place) else place
    return path.replace("\\", "/").rstrip("/").rpartition("/")[2]
