"""What a step's peak is made of, lifetime by lifetime: the loss, gradients, the block at work, and what is kept."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import inf

from rematbench.records.evidence import Evidence, LossInput
from rematbench.traces.caching_allocator import BLOCK_BYTES
from rematbench.traces.timeline import LOSS, Phase
from rematbench.traces.trace import AllocationTrace, Lifetime

CHUNKS = 8
"""In so many pieces a loss is taken where it is said what that would save."""

_LEAST, _MOST = 0.4, 2.0
"""How large a loss's own tensors are, for each byte of its input: one row may be left out, and bfloat16 become
float32."""


@dataclass(frozen=True, kw_only=True)
class Peak:
    """The bytes live at a step's peak, in parts that add up to it.

    Attributes:
        loss_bytes: the tensor the loss is taken of, and those as large as it that the loss makes of it.
        gradient_bytes: of parameters.
        optimizer_bytes: allocated in the optimizer's step.
        at_work: the region or part that was running, or whose backward was; None where that is not told.
        working: what lives only while it does, by module; a region's recomputed tensors are there.
        kept: by regions since the forward, by title.
        outside: kept since the forward where no region is, by part; `(loss)` is none.
        left: allocated in recomputations and never freed, by region.
        freed_bytes: of memory from before the step that is freed by then; below 0.
    """

    bytes: int
    phase: Phase
    loss_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    at_work: str | None
    working: dict[str, int]
    kept: dict[str, int]
    outside: dict[str, int]
    left: dict[str, int]
    freed_bytes: int
    has_regions: bool

    @property
    def parts(self) -> dict[str, int]:
        """The peak by what it is, in words; the parts add up to it."""
        named = {
            "logits and loss": self.loss_bytes,
            "gradients of parameters": self.gradient_bytes,
            "the optimizer's step": self.optimizer_bytes,
            "at work": sum(self.working.values()),
            "kept by regions": sum(self.kept.values()),
            "kept outside regions" if self.has_regions else "kept for backward": sum(self.outside.values()),
            "left by recomputations": sum(self.left.values()),
            "freed of what was there": self.freed_bytes,
        }
        return {name: size for name, size in named.items() if size}


class Owners:
    """Tells whose memory it is that a module allocated: a region's or, where none covers it, a part's."""

    def __init__(self, evidence: Evidence) -> None:
        self._regions = {member: region.title for region in evidence.regions for member in region.members}
        self._parts = set(evidence.parts)

    def region(self, module: str | None) -> str | None:
        """Return the title of the region that a module is in."""
        return next((self._regions[path] for path in _upwards(module) if path in self._regions), None)

    def part(self, module: str | None) -> str:
        """Return the path of the part that a module is in, else its own."""
        if module is None:
            return LOSS
        return next((path for path in _upwards(module) if path in self._parts), module)

    def of(self, module: str | None) -> str:
        """Return the region's title, else the part's path."""
        return self.region(module) or self.part(module)


def peak_of(evidence: Evidence) -> Peak:
    """Take the peak of the placed step apart."""
    trace, owners = evidence.placed, Owners(evidence)
    phase, moment = _highest(trace)
    live = [index for index, lifetime in enumerate(trace.lifetimes) if lifetime.spans(moment)]
    loss = set(loss_lifetimes(trace, evidence.loss_input)) if evidence.loss_input else set()
    sums: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for index in live:
        lifetime = trace.lifetimes[index]
        group, name = ("loss", "") if index in loss else _group(trace, lifetime, owners)
        sums[group][name] += lifetime.size_bytes
    return Peak(
        bytes=trace.sums[moment],
        phase=phase,
        loss_bytes=sums["loss"][""],
        gradient_bytes=sums["gradients"][""],
        optimizer_bytes=sums["optimizer"][""],
        at_work=_at_work(trace, moment, sums["working"], owners),
        working=dict(sums["working"]),
        kept=dict(sums["kept"]),
        outside=dict(sums["outside"]),
        left=dict(sums["left"]),
        freed_bytes=sums["freed"][""],
        has_regions=bool(evidence.regions),
    )


def held_by(trace: AllocationTrace, owner: Callable[[str | None], str | None]) -> dict[str, int]:
    """Return what is held at the end of forward by owner; what none owns is left out."""
    end = trace.after("forward")
    sums: dict[str, int] = defaultdict(int)
    for lifetime in trace.lifetimes:
        name = owner(lifetime.module) if lifetime.spans(end) else None
        if name is not None:
            sums[name] += lifetime.size_bytes
    return dict(sums)


def loss_lifetimes(trace: AllocationTrace, loss_input: LossInput) -> Iterator[int]:
    """Yield the numbers of the lifetimes that are the loss's input, and of those of its size that the loss makes.

    They come after it in forward, and in backward before the first block has its turn.
    """
    start, end, blocks_turn = _loss_at_work(trace, loss_input)
    for index, lifetime in enumerate(trace.lifetimes):
        of_its_size = _LEAST <= lifetime.size_bytes / loss_input.bytes <= _MOST
        in_loss = start <= lifetime.allocated_at < end
        in_its_backward = lifetime.module is None and end <= lifetime.allocated_at < blocks_turn
        is_gradient = in_its_backward and lifetime.spans(trace.after("backward"))
        if of_its_size and (in_loss or in_its_backward) and not is_gradient:
            yield index


def chunked_peak_bytes(trace: AllocationTrace, loss_input: LossInput) -> int:
    """Return what a step would peak at if its loss were taken, forward and backward, of a piece at a time.

    While that lasts, the gradients of the weight and of what it is multiplied with are there as wholes, and a piece's
    besides, which is added.
    """
    start, _, blocks_turn = _loss_at_work(trace, loss_input)
    changes = [0] * (len(trace.sums) + 1)
    for index in loss_lifetimes(trace, loss_input):
        lifetime = trace.lifetimes[index]
        less = lifetime.size_bytes - lifetime.size_bytes // CHUNKS
        changes[lifetime.allocated_at + 1] -= less
        if lifetime.freed_at != inf:
            changes[int(lifetime.freed_at) + 1] += less
    peak = change = 0
    for moment, (total, here) in enumerate(zip(trace.sums, changes, strict=False)):
        change += here
        besides = loss_input.gradient_bytes if start < moment <= blocks_turn else 0
        peak = max(peak, total + change + besides)
    return peak


def _loss_at_work(trace: AllocationTrace, loss_input: LossInput) -> tuple[float, float, float]:
    """Return how many events there are when the loss's input is allocated, when forward ends and, in backward, when
    the first block has its turn: when anything is recomputed, or freed that was allocated ahead of that input.

    All are infinite where the input is not found in the trace.
    """
    end = trace.after("forward")
    found = [
        lifetime.allocated_at
        for lifetime in trace.lifetimes
        if lifetime.phase == "forward"
        and lifetime.module == loss_input.path
        and loss_input.bytes <= lifetime.size_bytes < loss_input.bytes + BLOCK_BYTES  # some allocators count in blocks
    ]
    return (found[-1], end, min(_first_of_blocks(trace, found[-1], end), default=inf)) if found else (inf, inf, inf)


def _first_of_blocks(trace: AllocationTrace, start: int, end: int) -> Iterator[float]:
    for lifetime in trace.lifetimes:
        if lifetime.phase == "backward" and lifetime.module is not None:
            yield lifetime.allocated_at
        elif lifetime.phase == "forward" and lifetime.allocated_at < start and end <= lifetime.freed_at < inf:
            yield lifetime.freed_at


def _highest(trace: AllocationTrace) -> tuple[Phase, int]:
    moments = {phase: trace.greatest(span) for phase, span in trace.phases.items()}
    phase = max(moments, key=lambda phase: trace.sums[moments[phase]])
    return phase, moments[phase]


def _group(trace: AllocationTrace, lifetime: Lifetime, owners: Owners) -> tuple[str, str]:
    """Say which part of the peak a live piece of memory belongs to, and by which name."""
    stays = lifetime.phase is not None and lifetime.spans(trace.after(lifetime.phase))
    region = owners.region(lifetime.module)
    if lifetime.size_bytes < 0:
        return "freed", ""
    if lifetime.phase == "optimizer":
        return "optimizer", ""
    if lifetime.phase == "backward" and stays:
        return ("left", region) if region else ("gradients", "")
    if lifetime.phase == "backward" or not stays:
        return "working", LOSS if lifetime.module is None else lifetime.module
    return ("kept", region) if region else ("outside", owners.part(lifetime.module))


def _at_work(trace: AllocationTrace, moment: int, working: dict[str, int], owners: Owners) -> str | None:
    """Return whose turn it is at the peak: who has most that is only for now, else who lets go of memory next."""
    told = {module: size for module, size in working.items() if module != LOSS}
    if told:
        sums: dict[str, int] = defaultdict(int)
        for module, size in told.items():
            sums[owners.of(module)] += size
        return max(sums, key=sums.__getitem__)
    end = trace.after("forward")
    freed = [
        lifetime
        for lifetime in trace.lifetimes
        if lifetime.phase == "forward" and lifetime.spans(end) and moment <= lifetime.freed_at < inf
    ]
    following = min(freed, key=lambda lifetime: lifetime.freed_at, default=None)
    return owners.of(following.module) if following else None


def _upwards(module: str | None) -> Iterable[str]:
    path = module
    while path is not None:
        yield path
        path = path.rpartition(".")[0] if path else None
