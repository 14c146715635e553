"""What is recorded of a model to say why its step takes the memory that it does: traces, and whose memory it is."""

from __future__ import annotations

from dataclasses import dataclass

from rematbench.traces.trace import AllocationTrace


@dataclass(frozen=True, kw_only=True)
class Static:
    """What is there before the step, each storage once, in bytes.

    Attributes:
        attribute_bytes: tensors that modules keep as attributes, of no other group.
        sizes: of every storage.
    """

    parameter_bytes: int = 0
    buffer_bytes: int = 0
    batch_bytes: int = 0
    optimizer_bytes: int = 0
    attribute_bytes: int = 0
    sizes: tuple[int, ...] = ()

    @property
    def bytes(self) -> int:
        """All of it."""
        return sum(self.sizes)


@dataclass(frozen=True, kw_only=True)
class ParameterFacts:
    """A parameter, and whether a step brought it a gradient, without regions and with them.

    Attributes:
        is_trained: whether it requires a gradient.
    """

    path: str
    bytes: int
    is_trained: bool
    is_reached: bool
    is_reached_in_regions: bool


@dataclass(frozen=True, kw_only=True)
class LossInput:
    """The tensor that the loss is taken of, a language model's logits.

    Attributes:
        path: of the module that returned it.
        gradient_bytes: of that module's own parameters and inputs.
    """

    path: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    gradient_bytes: int


@dataclass(frozen=True, kw_only=True)
class RegionFacts:
    """One outermost region at work.

    Attributes:
        title: as sentences name it: `blocks.0`, `blocks.0 to blocks.3`.
        members: their paths.
        kind: the members' classes.
        saves: whether it is to keep something besides its inputs.
        border_bytes: of the storages that its calls returned and had not been given, and of the random states that
            checkpoints keep.
        passes_gradient: whether any of its outputs requires a gradient.
    """

    title: str
    members: tuple[str, ...]
    kind: str
    saves: bool
    border_bytes: int
    passes_gradient: bool


@dataclass(frozen=True, kw_only=True)
class Stored:
    """Memory that the forward allocated and the model keeps: no input or output of a region, nor of the loss.

    Attributes:
        name: `blocks.0.last`, an attribute; `output.past_key_values`, a field of what the model returned.
        is_output: whether it was returned.
    """

    name: str
    bytes: int
    is_output: bool


@dataclass(frozen=True, kw_only=True)
class StepEnd:
    """What one step of several in a row came to, above the start of the first.

    Attributes:
        peak_bytes: the greatest sum in it.
        left_bytes: what it leaves behind, with all gradients gone, above what the one before left.
        batch_left_bytes: what each micro-batch but the last left, gradients included.
        left_by: of `left_bytes`, by the path of the module that allocated it.
    """

    peak_bytes: int
    left_bytes: int
    batch_left_bytes: tuple[int, ...]
    left_by: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """A plain step and one under a placement, lifetime by lifetime, and what else tells whose they are.

    Attributes:
        plain, placed: told by the innermost module; the same where there are no regions.
        regions: the outermost.
        parts: paths of the modules that memory is told by where no region covers it.
        loss_input: None where no module's output is one.
        stored: the largest first.
        steps: three in a row, of `accumulate` micro-batches each.
    """

    plain: AllocationTrace
    placed: AllocationTrace
    regions: tuple[RegionFacts, ...]
    parts: tuple[str, ...]
    static: Static
    parameters: tuple[ParameterFacts, ...]
    loss_input: LossInput | None = None
    stored: tuple[Stored, ...] = ()
    steps: tuple[StepEnd, ...] = ()
    accumulate: int = 1
