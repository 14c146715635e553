"""The causes of memory that checkpointing does not free, declared once each: what each means and how it is found.

A cause is found in the evidence alone, without a model or torch, so that it can be found again in what was recorded.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

from rematbench.records.diagnosis import Cause
from rematbench.records.evidence import Evidence, ParameterFacts, RegionFacts
from rematbench.records.peak import CHUNKS, Owners, Peak, chunked_peak_bytes, held_by, peak_of
from rematbench.traces.caching_allocator import SegmentKinds, by_segment_kind
from rematbench.traces.timeline import LOSS
from rematbench.units import format_bytes, format_percent

_MATTERS = 0.1
"""Of all bytes, what is there before the step included: a cause of less is not told."""

_FIXED = 0.25
"""Of all bytes: below it, what no placement touches is no trouble of checkpointing."""

_LOSS = 0.2
"""Of all bytes: any output and what a loss makes of it are a part of each step."""

_THERE = 0.5
"""Of all bytes: parameters are there in every step, and a trouble where they are the most of it."""

_AT_WORK = 0.4
"""Of all bytes: what a block takes while it is at work is part of every step."""

_NO_SAVING = 0.1
"""Of what a region's modules keep in the plain step: a region that saves no more is not worth a recomputation."""

_LEAST_RESERVED = 64 * 2**20
"""Three large segments: so much the allocator may have in store for nothing."""

_NAMED = 3


class Findings:
    """The evidence, and what several causes take from it, worked out once."""

    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.owners = Owners(evidence)

    @cached_property
    def peak(self) -> Peak:
        return peak_of(self.evidence)

    @cached_property
    def all_bytes(self) -> int:
        """What is there before the step and its peak together."""
        return self.evidence.static.bytes + self.peak.bytes

    @cached_property
    def cached(self) -> dict[str, int]:
        """By region, what it holds after forward though neither an input nor an output of a region."""
        end = self.evidence.placed.after("forward")
        beyond = {region.title: -region.border_bytes for region in self.evidence.regions if not region.saves}
        for lifetime in self.evidence.placed.lifetimes:
            title = self.owners.region(lifetime.module)
            # What was freed of older memory is left out: an attribute that takes the place of the last step's is held.
            if title in beyond and lifetime.size_bytes > 0 and lifetime.spans(end):
                beyond[title] += lifetime.size_bytes
        return {title: size for title, size in beyond.items() if size > 0}

    @cached_property
    def held(self) -> tuple[dict[str, int], dict[str, int]]:
        """By region, what its modules hold after forward in the plain step, and under the placement."""
        plain, placed = self.evidence.plain, self.evidence.placed
        return held_by(plain, self.owners.region), held_by(placed, self.owners.region)

    @cached_property
    def idle(self) -> dict[str, RegionFacts]:
        """The regions that save next to nothing, though a gradient passes them, by title."""
        plain, placed = self.held
        found: dict[str, RegionFacts] = {}
        for region in self.evidence.regions:
            before = plain.get(region.title, 0)
            # What a cache keeps there is no fault of the region's.
            after = placed.get(region.title, 0) - self.cached.get(region.title, 0)
            if region.passes_gradient and before - after <= _NO_SAVING * before:
                found[region.title] = region
        return found

    @cached_property
    def segments(self) -> SegmentKinds:
        """Two such steps in the caching allocator of a GPU."""
        return by_segment_kind([self.evidence.placed] * 2, before=self.evidence.static.sizes)

    @cached_property
    def called(self) -> tuple[str, ...]:
        """Paths of the modules that were called, in the order of their first calls."""
        return tuple(dict.fromkeys(span.name for span in self.evidence.placed.spans if span.is_block))

    def called_in(self, path: str) -> list[str]:
        """Return the modules that a module calls itself, by path."""
        prefix = f"{path}." if path else ""
        inside = {each for each in self.called if each.startswith(prefix) and each != path}
        within = {each for each in inside if any(f"{prefix}{above}" in inside for above in _above(each[len(prefix) :]))}
        return [each for each in self.called if each in inside and each not in within]

    def matters(self, size: int, share: float = _MATTERS, *, of_peak: bool = True) -> bool:
        """Tell whether it is so much of all bytes or, as a part of the peak, the greatest of them."""
        is_greatest = of_peak and size >= max(self.peak.parts.values())
        return size > 0 and (size >= share * self.all_bytes or is_greatest)

    def share(self, size: int) -> str:
        """Say what share of the peak it is."""
        return format_percent(size / max(self.peak.bytes, 1))


Finder = Callable[[Findings], Iterator[Cause]]


@dataclass(frozen=True, kw_only=True)
class CauseKind:
    """One kind of cause.

    Attributes:
        name: as it is written.
        meaning: what is so where it is told.
        find: yields the cause, or nothing.
    """

    name: str
    meaning: str
    find: Finder


CAUSES: dict[str, CauseKind] = {}


def cause(name: str, meaning: str) -> Callable[[Finder], Finder]:
    """Register a function of the findings as what finds a cause."""

    def register(find: Finder) -> Finder:
        CAUSES[name] = CauseKind(name=name, meaning=meaning, find=find)
        return find

    return register


def causes_of(evidence: Evidence) -> tuple[Cause, ...]:
    """Return what holds a step's memory, the greatest first.

    Ahead of all stand gradients that regions lose, as training is wrong, and growth, as it has no end.
    """
    findings = Findings(evidence)
    found = [each for kind in CAUSES.values() for each in kind.find(findings)]
    found = found or [_kept_anyway(findings)]
    return tuple(sorted(found, key=lambda each: (not _comes_first(each), -each.bytes)))


def _comes_first(found: Cause) -> bool:
    return found.kind == "growth" or (found.kind == "unreached" and found.figures["lost_parameters"] > 0)


@cause("loss", "the logits, and what the loss makes of them, lie outside every region")
def _loss(findings: Findings) -> Iterator[Cause]:
    taken_of, size = findings.evidence.loss_input, findings.peak.loss_bytes
    if taken_of is None or not findings.matters(size, _LOSS):
        return
    saved = findings.peak.bytes - chunked_peak_bytes(findings.evidence.placed, taken_of)
    shape = " × ".join(map(str, taken_of.shape))
    chunked = f"taken in {CHUNKS} chunks, each recomputed in backward, the step would peak about {format_bytes(saved)}"
    yield Cause(
        kind="loss",
        bytes=size,
        at=(taken_of.path,),
        figures={"logits_bytes": taken_of.bytes, "saved_by_chunking_bytes": max(saved, 0)},
        says=(
            f"{findings.share(size)} of the peak are what {_named(taken_of.path)} returns ({shape}, {taken_of.dtype}: "
            f"{format_bytes(taken_of.bytes)}) and what the loss makes of it; regions over blocks do not touch that"
        ),
        next="a loss in chunks or a fused one (linear and cross-entropy in one)"
        + (f": {chunked} lower" if saved > 0 else "; the next block's peak is as high, so mend what stands below too"),
    )


@cause("optimizer", "the optimizer's state, or what its step takes for the moment")
def _optimizer(findings: Findings) -> Iterator[Cause]:
    state, step = findings.evidence.static.optimizer_bytes, findings.peak.optimizer_bytes
    if not findings.matters(state + step, _FIXED, of_peak=findings.matters(step, 1)):
        return
    moment = f", and {format_bytes(step)} more while it steps, which is where the peak lies" if step else ""
    ways = ["a state of 8 bits", "sharding it"]
    if step >= findings.evidence.static.parameter_bytes / 2:
        ways.insert(0, "foreach=False or fused=True, which step without copies of all parameters")
    yield Cause(
        kind="optimizer",
        bytes=state + step,
        figures={"state_bytes": state, "step_bytes": step},
        says=f"the optimizer keeps {format_bytes(state)} from step to step{moment}; no placement touches that",
        next=_either(ways),
    )


@cause("gradients", "gradients of the parameters, live at the peak")
def _gradients(findings: Findings) -> Iterator[Cause]:
    evidence = findings.evidence
    reached = [each for each in evidence.parameters if each.is_trained and each.is_reached_in_regions]
    in_all = sum(each.bytes for each in reached)
    size = in_all if evidence.accumulate > 1 else findings.peak.gradient_bytes
    if not findings.matters(size, _FIXED):
        return
    lie = f"gradients of parameters are {format_bytes(size)} of the peak ({findings.share(size)})"
    if evidence.accumulate > 1:
        alone, together = findings.peak.bytes, max((step.peak_bytes for step in evidence.steps), default=0)
        lie = (
            f"gradients of all parameters, {format_bytes(size)}, lie beneath every micro-batch after the first: the "
            f"step peaks at {format_bytes(together)}, one micro-batch alone at {format_bytes(alone)}"
        )
    yield Cause(
        kind="gradients",
        bytes=size,
        at=tuple(each.path for each in sorted(reached, key=lambda each: -each.bytes)[:_NAMED]),
        figures={"gradient_bytes": in_all},
        says=f"{lie}; no placement touches that",
        next=_either(
            [
                "gradients in bfloat16",
                "sharding them",
                "training fewer parameters",
                *(() if evidence.accumulate > 1 else ("an optimizer that steps in backward",)),
            ]
        ),
    )


@cause("parameters", "parameters, buffers, batch and attributes, there before the step")
def _parameters(findings: Findings) -> Iterator[Cause]:
    static = findings.evidence.static
    attributes = max(static.attribute_bytes - sum(findings.cached.values()), 0)  # a cache is told as one
    size = static.parameter_bytes + static.buffer_bytes + static.batch_bytes + attributes
    if not findings.matters(size, _THERE, of_peak=False):
        return
    named = {
        "parameters": static.parameter_bytes,
        "buffers": static.buffer_bytes,
        "the batch": static.batch_bytes,
        "what modules keep as attributes": attributes,
    }
    told = [f"{format_bytes(each)} of {name}" for name, each in named.items() if each >= _MATTERS * size]
    ways = ["parameters in bfloat16 or quantised", "sharding them (FSDP)", "a smaller model"]
    if static.parameter_bytes < size / 2:
        ways = ["a smaller batch", "tensors of fewer bits", "moving to the device what a step needs, when it needs it"]
    yield Cause(
        kind="parameters",
        bytes=size,
        figures={
            "parameter_bytes": static.parameter_bytes,
            "buffer_bytes": static.buffer_bytes,
            "batch_bytes": static.batch_bytes,
            "attribute_bytes": attributes,
        },
        says=f"{_listed(told)} are there before the step; no placement touches that",
        next=_either(ways),
    )


@cause("block", "what one block or region takes while it is at work sets the peak")
def _block(findings: Findings) -> Iterator[Cause]:
    peak = findings.peak
    size = sum(peak.working.values())
    if peak.at_work is None or not findings.matters(size, _AT_WORK):
        return
    region = next((each for each in findings.evidence.regions if each.title == peak.at_work), None)
    by_part: dict[str, int] = defaultdict(int)
    for part in findings.called_in(peak.at_work):
        by_part[part] += sum(each for path, each in peak.working.items() if f"{path}.".startswith(f"{part}."))
    most = _most({part: each for part, each in by_part.items() if each})
    inside = f", in it {_with_bytes(most)}" if most else ""
    spans = len(region.members) if region else 0
    if spans > 1:
        ways = [f"smaller regions: {peak.at_work} is one of {spans} modules, and all of them are live at once"]
    elif region:
        # What is so of one block is so of those like it: with a region inside this one alone, the next sets the peak.
        inside_it = [part.removeprefix(peak.at_work) for part in most if findings.called_in(part)]
        inner = _as_placements(dict.fromkeys(_starred(peak.at_work) + part for part in inside_it))
        ways = [
            *([f"regions inside it{inner}, nested or in its place"] if inner else []),
            "its work in smaller pieces",
            "`rematbench plan`, which looks inside blocks",
        ]
    else:
        ways = [f"a region there{_as_placements([peak.at_work])}", "its work in smaller pieces, or in place"]
    yield Cause(
        kind="block",
        bytes=size,
        at=(peak.at_work,),
        figures={"working_bytes": size},
        says=(
            f"{findings.share(size)} of the peak live only while {_named(peak.at_work)} is "
            f"{'recomputed and ' if region and peak.phase == 'backward' else ''}at work in {peak.phase}{inside}; "
            f"regions elsewhere do not lower that"
        ),
        next=_either(ways),
    )


@cause("outside", "modules that no region covers keep it for backward")
def _outside(findings: Findings) -> Iterator[Cause]:
    outside = findings.peak.outside
    size = sum(outside.values())
    if not findings.evidence.regions or not findings.matters(size):
        return
    most = _most(outside)
    modules = [path for path in most if path and path != LOSS]
    single = [path for path in modules if not findings.called_in(path)]
    yield Cause(
        kind="outside",
        bytes=size,
        at=tuple(most),
        figures={"kept_outside_bytes": size},
        says=f"{findings.share(size)} of the peak are kept by what no region covers: {_with_bytes(most)}",
        next=_either(_ways_outside([path for path in modules if path not in single], single)),
    )


@cause("kept", "what blocks keep for backward, or regions as their inputs: the memory that placements are about")
def _kept(findings: Findings) -> Iterator[Cause]:
    found = _kept_anyway(findings)
    if findings.matters(found.bytes):
        yield found


def _kept_anyway(findings: Findings) -> Cause:
    """Say what is kept however little it is: of a step that nothing is wrong with."""
    peak, regions = findings.peak, findings.evidence.regions
    kept = {name: size for name, size in (peak.kept if regions else peak.outside).items() if name not in findings.idle}
    size = max(sum(kept.values()) - sum(findings.cached.values()), 0)
    most = _most(kept)
    if regions:
        says = f"{findings.share(size)} of the peak are the inputs that {_count(len(regions), 'region')} keep"
        ways = ["regions over several blocks each (`sqrt`, `segments:4`)", "nested ones (`nested:2`)"]
    else:
        frozen = _frozen_share(findings.evidence.parameters)
        through = f", though {format_percent(frozen)} of the parameters are frozen" if frozen > 0.5 else ""
        says = f"{findings.share(size)} of the peak are kept for backward{through}, most in {_with_bytes(most)}"
        ways = ["regions over the blocks (`each`)"]
    return Cause(
        kind="kept",
        bytes=size,
        at=tuple(most),
        figures={"kept_bytes": size},
        says=says,
        next=_either([*ways, "`rematbench plan`, which finds the cheapest for a budget"]),
    )


@cause("no-saving", "regions whose modules keep hardly more than the regions do")
def _no_saving(findings: Findings) -> Iterator[Cause]:
    evidence, idle = findings.evidence, findings.idle
    plain, placed = findings.held
    before, after = (sum(held.get(title, 0) for title in idle) for held in (plain, placed))
    size = after
    if idle and len(idle) == len(evidence.regions):
        # Their inputs too, which modules before them made: kept for the regions' sake, or anyway.
        before, after = (sum(held_by(trace, lambda _: "").values()) for trace in (evidence.plain, evidence.placed))
        size = min(after, findings.peak.bytes)
    if not idle or (len(idle) < len(evidence.regions) / 2 and not findings.matters(size)):
        return
    kinds = _listed(sorted({region.kind for region in idle.values()})[:_NAMED])
    own = sum(plain.get(title, 0) for title in idle)
    reason = "single layers, frozen ones and attention in fused kernels keep little beyond their inputs, as regions do"
    if own > 2 * sum(region.border_bytes for region in idle.values()):
        reason = "what they compute is kept all the same, as where forward itself takes a gradient through them"
    yield Cause(
        kind="no-saving",
        bytes=max(size, 0),
        at=tuple(idle)[:_NAMED],
        figures={"regions": len(idle), "plain_held_bytes": before, "held_bytes": after},
        says=(
            f"{_count(len(idle), 'region')} of {len(evidence.regions)} ({kinds}: {_few(idle)}) free next to nothing: "
            f"{format_bytes(after)} are kept for backward with them, {format_bytes(before)} without; {reason}"
        ),
        next=_either(["regions over whole blocks, or several", "no region there: it costs a recomputation"]),
    )


@cause("frozen", "regions through which no gradient passes, so nothing is kept there with or without them")
def _frozen(findings: Findings) -> Iterator[Cause]:
    evidence = findings.evidence
    trained = [each.path for each in evidence.parameters if each.is_trained]
    idle = {
        region.title: region
        for region in evidence.regions
        if not region.passes_gradient
        and not any(path.startswith(f"{member}.") for path in trained for member in region.members)
    }
    if not idle:
        return
    _, held = findings.held
    size = max(sum(held.get(title, 0) for title in idle), 0)
    yield Cause(
        kind="frozen",
        bytes=size,
        at=tuple(idle)[:_NAMED],
        figures={"regions": len(idle), "held_bytes": size},
        says=(
            f"{_count(len(idle), 'region')} of {len(evidence.regions)} ({_few(idle)}) save nothing: all parameters "
            f"there and before are frozen, so no gradient passes and nothing is kept"
        ),
        next="no regions there, only from the first trained parameter on",
    )


@cause("cache", "a cache, an attribute or an output keeps what regions would free")
def _cache(findings: Findings) -> Iterator[Cause]:
    stored, left = findings.evidence.stored, findings.peak.left
    cached = findings.cached
    # What a recomputation stores takes the place of what the forward stored.
    size = max(sum(cached.values()), sum(left.values()))
    if not findings.matters(size, _MATTERS / 2, of_peak=False):
        return
    names = [each.name for each in stored]
    by_whom = (
        f"{_few(names)} keep" if len(names) > 1 else f"{names[0] if names else 'something outside its modules'} keeps"
    )
    again = f", and {format_bytes(sum(left.values()))} of what was recomputed lives on too" if left else ""
    ways = []
    if any(each.is_output for each in stored):
        ways.append("training without what is returned beside the loss (use_cache=False, no output_attentions)")
    if not names or any(not each.is_output for each in stored):
        ways.append("storing nothing in forward, or only what is detached and small, and clearing it after the step")
    yield Cause(
        kind="cache",
        bytes=size,
        at=tuple(names or cached)[:_NAMED],
        figures={"cached_bytes": sum(cached.values()), "left_bytes": sum(left.values())},
        says=f"{by_whom} {format_bytes(sum(cached.values()))} of what regions computed and would have dropped{again}",
        next=_either(ways),
    )


@cause("unreached", "trained parameters that get no gradient")
def _unreached(findings: Findings) -> Iterator[Cause]:
    trained = [each for each in findings.evidence.parameters if each.is_trained]
    lost = [each for each in trained if each.is_reached and not each.is_reached_in_regions]
    never = [each for each in trained if not each.is_reached and not each.is_reached_in_regions]
    if not lost and not never:
        return
    missing = lost or never
    size = sum(each.bytes for each in missing)
    which = f"{_count(len(missing), 'parameter')} ({_few([each.path for each in missing])}, {format_bytes(size)})"
    if lost:
        says = f"no gradient reaches {which} in regions, though the plain step brings one: they are not trained"
        ways = [
            "reentrant=false, the default: a reentrant region whose inputs need no gradient gives none",
            "model.enable_input_require_grads() in transformers",
        ]
    else:
        says = f"no gradient reaches {which}, with or without regions: the step does not use them, or detaches them"
        ways = ["requires_grad_(False) where that is meant", "the forward, where it is not"]
    yield Cause(
        kind="unreached",
        bytes=size,
        at=tuple(each.path for each in missing[:_NAMED]),
        figures={"lost_parameters": len(lost), "unreached_parameters": len(never)},
        says=says,
        next=_either(ways),
    )


@cause("reserved", "a GPU's allocator has to reserve far more than is allocated, as what is free lies in pieces")
def _reserved(findings: Findings) -> Iterator[Cause]:
    fixed, expandable = findings.segments.fixed, findings.segments.expandable
    size = fixed.reserved_bytes - fixed.allocated_bytes
    if size < _LEAST_RESERVED or size < 0.2 * fixed.reserved_bytes:
        return
    helps = findings.segments.saved_bytes
    yield Cause(
        kind="reserved",
        bytes=size,
        figures={
            "allocated_bytes": fixed.allocated_bytes,
            "reserved_bytes": fixed.reserved_bytes,
            "expandable_bytes": expandable.reserved_bytes,
        },
        says=(
            f"torch's allocator on a GPU, as modelled, reserves {format_bytes(fixed.reserved_bytes)} where at most "
            f"{format_bytes(fixed.allocated_bytes)} are allocated: what is free lies in pieces"
        ),
        next=f"PYTORCH_ALLOC_CONF=expandable_segments:True, which reserves {format_bytes(expandable.reserved_bytes)}"
        if helps > size / 4
        else "batches of one size, as expandable segments would reserve as much",
    )


@cause("growth", "every step leaves memory behind")
def _growth(findings: Findings) -> Iterator[Cause]:
    steps = findings.evidence.steps
    if not steps:
        return
    left = [step.left_bytes for step in steps]
    between = [min(step.batch_left_bytes[1:], default=0) for step in steps]
    grows, grows_inside = min(left[1:], default=0) > 0, min(between) > 0
    if not grows and not grows_inside:
        return
    by: dict[str, int] = steps[-1].left_by
    most = _most(by)
    if grows:
        each = ", ".join(format_bytes(size) for size in left)
        says = f"steps in a row leave {each} behind, with all gradients gone"
    else:
        says = (
            f"each micro-batch after the first leaves {format_bytes(between[-1])} behind until the step is over: "
            f"{findings.evidence.accumulate} of them peak at {format_bytes(steps[-1].peak_bytes)}"
        )
    yield Cause(
        kind="growth",
        bytes=left[-1] if grows else between[-1],
        at=tuple(most),
        figures={f"step_{number}_left_bytes": size for number, size in enumerate(left, 1)},
        says=f"{says}{f', allocated in {_with_bytes(most)}' if most else ''}",
        next="whatever collects tensors over steps: a list that is appended to, a sum of losses without detach()",
    )


def _ways_outside(modules: list[str], single: list[str]) -> list[str]:
    ways = [f"regions there too{_as_placements(modules)}"] if modules else []
    if single:
        ways.append(f"{_few(single)} in one module with its neighbours, as a region: a single layer saves nothing")
    return ways or ["moving that code into a module, which can be a region"]


# --- words


def _as_placements(paths: Iterable[str]) -> str:
    texts = [f"`modules:{path}`" for path in paths if path and path != LOSS]
    return f" ({', '.join(texts)})" if texts else ""


def _most(sizes: dict[str, int]) -> dict[str, int]:
    """Return the few names with most bytes."""
    order = sorted(sizes, key=lambda name: -sizes[name])
    return {name: sizes[name] for name in order[:_NAMED] if sizes[name] > sizes[order[0]] / 10}


def _named(path: str) -> str:
    if path[:1].isdigit():
        return f"module {path}"
    return {"": "the model's own code", LOSS: "the loss"}.get(path, path)


def _with_bytes(sizes: dict[str, int]) -> str:
    return _listed([f"{_named(path)} ({format_bytes(size)})" for path, size in sizes.items()])


def _above(path: str) -> Iterator[str]:
    """Yield the paths of all that a module is inside of, but for the model itself."""
    while path := path.rpartition(".")[0]:
        yield path


def _starred(path: str) -> str:
    """Return a pattern for a block and all others of its chain."""
    chain, dot, name = path.rpartition(".")
    return f"{chain}{dot}*" if name.isdecimal() else path


def _few(names: Iterable[str]) -> str:
    texts = list(map(_named, names))
    rest = len(texts) - _NAMED
    return ", ".join(texts[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")


def _listed(texts: list[str]) -> str:
    return " and ".join(filter(None, [", ".join(texts[:-1]), texts[-1]])) if texts else "nothing"


def _either(ways: list[str]) -> str:
    return "; or ".join(ways)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _frozen_share(parameters: Iterable[ParameterFacts]) -> float:
    sizes = [(each.bytes, each.is_trained) for each in parameters]
    return sum(size for size, is_trained in sizes if not is_trained) / max(sum(size for size, _ in sizes), 1)
