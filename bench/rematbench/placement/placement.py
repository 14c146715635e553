"""A placement is plain data: a name and the regions that are checkpointed.

Hand-written, made by a named strategy or found by a planner, it is the same type, and it reads and writes TOML and
JSON. Nothing here imports torch.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PlainValidator, ValidationError, field_validator, model_validator

from rematbench.errors import PlacementError, shown
from rematbench.placement.paths import RegionPath
from rematbench.placement.policies import SAVE_POLICIES
from rematbench.reading import parse_json, parse_toml, read_text

PLAIN = "none"
"""The plain step's name: the placement without regions, which every other is compared with."""


FILE_ENDINGS = (".toml", ".json")
"""By which a text is known as a placement file's path and no strategy."""


class Options(BaseModel):
    """How a region is checkpointed; the names follow `torch.utils.checkpoint.checkpoint`.

    Attributes:
        save: what the region keeps besides its inputs: one of `SAVE_POLICIES`, or `module:attribute` naming a policy
            function as `torch.utils.checkpoint.create_selective_checkpoint_contexts` takes it.
        reentrant: use torch's reentrant variant.
        preserve_rng: replay the random state of the forward in the recomputation.
        early_stop: stop a recomputation once all that backward needs is there (non-reentrant only; around scripted
            modules it runs to its end, since their interpreter cannot be left midway).
        batch_norm: `as-is` updates running statistics again in the recomputation (pytorch#96136); `once` does not, and
            puts other buffers back that the forward writes, such as counters.
        offload: tensors kept for backward through autograd wait in host memory (`save_on_cpu`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    save: str = "nothing"
    reentrant: bool = False
    preserve_rng: bool = True
    early_stop: bool = True
    batch_norm: Literal["as-is", "once"] = "as-is"
    offload: bool = False

    @field_validator("save")
    @classmethod
    def _known_policy(cls, save: str) -> str:
        if save not in SAVE_POLICIES and ":" not in save:
            raise ValueError(f"{shown(save)} is not one of {', '.join(SAVE_POLICIES)}, nor module:attribute")
        return save

    @model_validator(mode="after")
    def _combinable(self) -> Self:
        if self.reentrant and self.save != "nothing":
            raise ValueError(f"save={self.save} needs the non-reentrant variant: leave out reentrant")
        return self

    def changed(self) -> dict[str, object]:
        """Return the options that differ from their defaults, in declaration order."""
        values = {name: getattr(self, name) for name in Options.model_fields}
        return {name: value for name, value in values.items() if value != Options.model_fields[name].default}


def _read_path(value: object) -> RegionPath:
    if not isinstance(value, str):
        raise ValueError("a region's path is text, such as blocks[0:4]")
    try:
        return RegionPath(value)
    except PlacementError as error:
        raise ValueError(str(error)) from error


class Region(Options):
    """A part of the model that is checkpointed as one: a module, or a run of neighbours in a chain.

    Attributes:
        path: `blocks[3]`, `blocks[0:4]`, `encoder.layers[2].mlp`; parsed once, a `RegionPath`.
    """

    path: Annotated[str, PlainValidator(_read_path)]

    def __str__(self) -> str:
        return self.path + "".join(f"+{name}={_text(value)}" for name, value in self.changed().items())


class Placement(BaseModel):
    """A name and its regions. Regions nest by containment and never overlap otherwise.

    Attributes:
        compile_budget: in place of regions, the activation memory budget, 0 to 1, that the whole model is compiled
            under.
        notes: what the strategy that made it left out, in sentences for its row; in no file.
        fingerprint: of the outline of the model that it was made for (`outline(model).fingerprint`), on any other of
            which it is refused; None, as in a file written by hand, goes unchecked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    regions: tuple[Region, ...] = ()
    fingerprint: str | None = None
    compile_budget: float | None = Field(default=None, ge=0, le=1, exclude_if=lambda budget: budget is None)
    notes: tuple[str, ...] = Field(default=(), exclude=True)

    @model_validator(mode="after")
    def _regions_or_compiled(self) -> Self:
        if self.regions and self.compile_budget is not None:
            raise ValueError("a compiled model takes no regions: leave out compile_budget or the regions")
        return self

    def __str__(self) -> str:
        """Return the regions in one line; a long list shows its ends and its length."""
        if self.compile_budget is not None:
            return f"compiled, activation memory budget {self.compile_budget:g}"
        texts = [str(region) for region in self.regions]
        if len(texts) > 8:
            texts = [*texts[:3], "…", texts[-1], f"({len(texts)} regions)"]
        return " ".join(texts)

    @classmethod
    def load(cls, path: str | Path) -> Placement:
        """Read a placement from a `.toml` or `.json` file; a file without a name is named after itself.

        Raises:
            PlacementError: the file is not there or is no placement; the sentence names the key.
        """
        path = Path(path)
        data = _read(path)
        try:
            return cls.model_validate({"name": path.stem, **data})
        except ValidationError as error:
            raise PlacementError(f"{path}: {first_problem(error)}") from error

    def save(self, path: str | Path) -> None:
        """Write the placement as JSON, with only what differs from the defaults."""
        Path(path).write_text(self.to_json())

    def to_json(self) -> str:
        """Return the placement as a file that `load` reads, with only what differs from the defaults."""
        stamp = {} if self.fingerprint is None else {"fingerprint": self.fingerprint}
        regions = [{"path": region.path, **region.changed()} for region in self.regions]
        what = {"regions": regions} if self.compile_budget is None else {"compile_budget": self.compile_budget}
        return json.dumps({"name": self.name, **stamp, **what}, indent=2) + "\n"


def first_problem(error: ValidationError, prefix: str = "") -> str:
    """Return a validation error's first problem as `placements[2].save: 'all' is not one of …`."""
    problem = error.errors(include_url=False)[0]
    where = prefix
    for part in problem["loc"]:
        name = part if isinstance(part, int) or re.fullmatch(r"[\w.-]{1,80}", part) else shown(part)
        where += f"[{name}]" if isinstance(part, int) else f".{name}" if where else str(name)
    what = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        what = "no such key"
    return f"{where}: {what}" if where else what


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = read_text(path)
        data = parse_json(text) if path.suffix == ".json" else parse_toml(text)
    except OSError as error:
        raise PlacementError(f"placement file {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise PlacementError(f"placement file {path}: {error}") from error
    if not isinstance(data, dict):
        raise PlacementError(f"placement file {path}: expected a name and regions, found a {type(data).__name__}")
    return data
