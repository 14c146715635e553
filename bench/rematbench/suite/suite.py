"""Suites: which models are measured under which placements, with which settings. TOML, validated.

A suite names models and placements; `Suite.jobs` turns it into one job for each model on each device.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import tomli_w
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from rematbench.errors import SuiteError, shown, unknown
from rematbench.loading import check_reference, parse_value
from rematbench.placement.placement import PLAIN, first_problem
from rematbench.reading import checked, parse_toml, read_text
from rematbench.suite.case import Case, explained, spread_cases, without
from rematbench.suite.model_ref import Arguments, ModelRef

SHIPPED = Path(__file__).parent / "shipped"
USUAL = (PLAIN, "each", "each-but-last", "every:2", "sqrt")
"""The placements of a model given without a suite."""

_FROZEN = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


MOST_THREADS = 4096
"""Of torch in a process: more than the largest machines have, and few enough to start."""

MOST_ROUNDS = 1_000_000
MONTH_S = 30 * 24 * 3600.0
"""Longer than anybody waits for a model; what is longer is a slip."""


def _known_device(name: str) -> str:
    if not re.fullmatch("auto|cpu|cuda(:[0-9]{1,4})?", name):
        raise ValueError(f"unknown device {shown(name)}: known are cpu, cuda, cuda:N and auto")
    return name


DeviceName = Annotated[str, AfterValidator(_known_device)]


class Settings(BaseModel):
    """How a suite is measured.

    Attributes:
        devices: of `cpu`, `cuda`, `xpu`, `mps`, these with `:N`, and `auto`, a GPU where there is one.
        dtype: what the real floating parameters, buffers and batch tensors are put in; None keeps the model's own.
        seed: of the weights, the batch, the random state of every step and the order of the rounds.
        threads: intra-op threads of torch; None leaves torch's choice.
        optimizer: stepped at the end of every step.
        rounds: timed rounds; None lets `time_budget_s` decide, 0 times nothing.
        time_budget_s: seconds of timed rounds for one model on one device.
        interval_width: where `rounds` are not given, they end before the budget once every ratio's interval is this
            narrow, its upper end less its lower one over the ratio; 0 never ends them early.
        timeout_s: seconds for one placement of one model, the worker's start not counted.
        resident: measure the resident set as well, in a process of its own a case.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    devices: Annotated[tuple[DeviceName, ...], Field(min_length=1, strict=False)] = ("auto",)
    dtype: Literal["float64", "float32", "bfloat16", "float16"] | None = None
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] | None = None
    optimizer: Literal["none", "sgd", "adamw"] = "none"
    rounds: Annotated[int, Field(ge=0, le=MOST_ROUNDS)] | None = None
    time_budget_s: Annotated[float, Field(gt=0, le=MONTH_S)] = 10.0
    interval_width: Annotated[float, Field(ge=0)] = 0.05
    timeout_s: Annotated[float, Field(gt=0, le=MONTH_S)] = 300.0
    resident: bool = False


MOST_PER_GIB = 2**30
"""Of a whole-number argument: one for each byte."""

Size = Annotated[int, Field(ge=1, le=MOST_PER_GIB)]

_LARGEST_GIB = 140
"""Sizes grow with a GPU's memory up to here: the largest tensor of the suite `default` then has 98 % of 2**31 elements.

Kernels that count elements in 32 bits refuse more, or, before they are all found, compute wrongly.
"""


class ModelEntry(BaseModel):
    """A model of a suite; written as a string it is `model`.

    Attributes:
        model: `family.network`, `package.module:attribute` or `file.py:attribute`, with `?argument=value` behind it.
        name: how rows call it; the text of `model` if absent.
        arguments: what the factory is called with on every device.
        at: further whole-number arguments, too large to run: the rows are predicted from smaller ones.
        cuda: further arguments on an accelerator.
        cuda_per_gib: whole-number arguments on an accelerator, so much for each GiB of its memory, of 140 at most.
        placements: besides the suite's.
    """

    model_config = _FROZEN

    model: str
    name: Annotated[str, Field(min_length=1)] = ""
    arguments: Arguments = {}
    at: dict[Annotated[str, Field(min_length=1)], Size] = {}
    cuda: Arguments = {}
    cuda_per_gib: dict[str, Annotated[float, Field(ge=0, le=MOST_PER_GIB)]] = {}
    placements: tuple[Case, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _expanded(cls, data: Any) -> Any:
        data = {"model": data} if isinstance(data, str) else data
        if not isinstance(data, dict):
            return data
        # Rows have the name that they would have if the model were built and run so.
        at = data.get("at")
        more = [f"{name}={size}" for name, size in at.items()] if isinstance(at, dict) else []
        model = data.get("model")
        behind = f"{'&' if '?' in str(model) else '?'}{'&'.join(more)}" if more and isinstance(model, str) else ""
        return {"name": f"{model}{behind}" if behind else model} | data

    @field_validator("placements", mode="before")
    @classmethod
    def _spread(cls, data: Any) -> Any:
        return spread_cases(data)

    @field_validator("model")
    @classmethod
    def _readable(cls, model: str) -> str:
        explained(lambda text: ModelRef.parse(text, Path()), model)
        return model

    def ref(self, root: Path, device: Device) -> ModelRef:
        """Return the model with the arguments it has on a device."""
        arguments = dict(self.arguments)
        if device.capacity_bytes is not None:
            gib = min(device.capacity_bytes / 2**30, _LARGEST_GIB)
            arguments |= self.cuda
            arguments |= {name: max(1, int(gib * share)) for name, share in self.cuda_per_gib.items()}
        return ModelRef.parse(self.model, root, self.name, **arguments)


class Device(BaseModel):
    """A device as a suite needs to know it; `capacity_bytes` is a GPU's memory, None for a processor."""

    model_config = _FROZEN

    name: str
    capacity_bytes: int | None = None


class Job(BaseModel):
    """One model on one device with all its placements; a worker process runs it.

    Attributes:
        at: sizes that are predicted for, as in `ModelEntry`.
    """

    model_config = _FROZEN

    suite: str
    model: ModelRef
    device: str
    cases: tuple[Case, ...]
    settings: Settings
    at: dict[str, int] = {}


class Suite(BaseModel):
    """Models × placements × devices, with settings. `none` is always among the placements, and first."""

    model_config = _FROZEN

    name: Annotated[str, Field(min_length=1)]
    description: str = ""
    settings: Settings = Settings()
    placements: Annotated[tuple[Case, ...], Field(validate_default=True)] = USUAL  # type: ignore[assignment]
    models: Annotated[tuple[ModelEntry, ...], Field(min_length=1)]

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, data: Any) -> Any:
        return checked(data)

    @field_validator("placements", mode="before")
    @classmethod
    def _spread(cls, data: Any) -> Any:
        return spread_cases(data)

    @field_validator("placements")
    @classmethod
    def _with_reference(cls, cases: tuple[Case, ...]) -> tuple[Case, ...]:
        plain = Case.model_validate(PLAIN)
        return (plain, *(case for case in cases if case != plain))

    @model_validator(mode="after")
    def _unambiguous(self) -> Self:
        _refuse_twice("model", (entry.name for entry in self.models))
        for entry in self.models:
            _refuse_twice("placement", (case.name for case in self.cases(entry)))
        return self

    def cases(self, entry: ModelEntry) -> tuple[Case, ...]:
        """Return the placements of one model, `none` first."""
        return (*self.placements, *entry.placements)

    def jobs(self, root: Path, devices: Iterable[Device]) -> list[Job]:
        """Return one job for each model on each device."""
        return [
            Job(
                suite=self.name,
                model=entry.ref(root, device),
                device=device.name,
                cases=self.cases(entry),
                settings=self.settings,
                at=entry.at,
            )
            for device in devices
            for entry in self.models
        ]

    def check_models(self, root: Path) -> None:
        """Refuse models that are plainly not there, before anything is run.

        Raises:
            ModelError: there is no such reference model, or no such file.
        """
        for entry in self.models:
            check_reference(ModelRef.parse(entry.model, root).reference, root)

    def to_toml(self) -> str:
        """Return the suite as a file that `load_suite` reads back to the same suite."""
        return tomli_w.dumps(self.model_dump(exclude_defaults=True))


def _refuse_twice(kind: str, names: Iterable[str]) -> None:
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"{kind} {shown(twice[0])} stands twice: give one of them another name")


def shipped_suites() -> dict[str, Path]:
    """Return the suites that come with rematbench, by name."""
    return {file.stem: file for file in sorted(SHIPPED.glob("*.toml"))}


def load_suite(source: str) -> Suite:
    """Read a suite by its name or its file's path.

    Raises:
        SuiteError: there is none, or it is not valid; the sentence names the key.
    """
    if not source.endswith(".toml"):
        known = shipped_suites()
        if source not in known:
            raise SuiteError(f"{unknown('suite', source, known)}; your own is a path that ends in .toml")
        path = known[source]
    else:
        path = Path(source)
    return _validated({"name": path.stem, **_read(path)}, str(path))


def custom_suite(models: Iterable[str]) -> Suite:
    """Return a suite of models given on the command line, under the usual placements."""
    return _validated({"name": "custom", "models": list(models)}, "--model")


def predicted_suite(model: str, at: Mapping[str, int]) -> Suite:
    """Return a suite of one model at sizes that are predicted for, under the usual placements."""
    return _validated({"name": "predict", "models": [{"model": model, "at": dict(at)}]}, model)


def select(suite: Suite, models: Iterable[str], placements: Iterable[str], settings: Iterable[str]) -> Suite:
    """Narrow a suite to what the command line asks for.

    Args:
        models: those of the suite by name; one it does not have is added.
        placements: instead of the suite's and of the models' own.
        settings: `key=value` each, value in TOML.

    Raises:
        SuiteError: any of them is not valid.
    """
    data = suite.model_dump(exclude_defaults=True)
    known = {entry["name"]: entry for entry in data["models"]}
    data["models"] = [known.get(model, model) for model in models] or data["models"]
    if chosen := list(placements):
        data["placements"] = chosen
        data["models"] = [
            without(entry, "placements") if isinstance(entry, dict) else entry for entry in data["models"]
        ]
    data["settings"] = data.get("settings", {}) | dict(_setting(pair) for pair in settings)
    return _validated(data, f"suite {suite.name}")


def _setting(pair: str) -> tuple[str, Any]:
    key, equals, value = pair.partition("=")
    if key not in Settings.model_fields or not equals:
        raise SuiteError(f"--set {pair[:80]}: {unknown('setting', key, Settings.model_fields)}; write key=value")
    return key, parse_value(value)


def _read(path: Path) -> dict[str, Any]:
    try:
        return parse_toml(read_text(path))
    except OSError as error:
        raise SuiteError(f"suite {path}: {error.strerror or error}") from error
    except ValueError as error:
        raise SuiteError(f"suite {path}: {error}") from error


def _validated(data: dict[str, Any], source: str) -> Suite:
    try:
        return Suite.model_validate(data)
    except ValidationError as error:
        raise SuiteError(f"{source}: {first_problem(error)}") from error
