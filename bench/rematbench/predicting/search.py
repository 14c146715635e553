"""Predict a step from a few small ones: run them, fit, hold the fit against a further one, and move up where it fails."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Protocol

from rematbench.errors import RematbenchError
from rematbench.predicting.axes import NODES, Axis, is_small, lattices
from rematbench.traces.extrapolation import Extrapolation
from rematbench.traces.tape import Tape
from rematbench.traces.unrolling import Unrolling, are_alike, unrolling_of

Sizes = Mapping[str, int]

_MOST_ATTEMPTS = 24
_LEAST_RANGE = 0.01


class Refused(Exception):
    """The model does not run at these sizes; in its own words."""


class Take(Protocol):
    """Runs the step at some sizes."""

    def __call__(self, sizes: Sizes) -> Tape:
        """Return its tape.

        Raises:
            Refused: the model does not run so.
        """


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a small step may take.

    Attributes:
        bytes: of its peak and of what is there before it.
        flops: of all of it.
        share: of each size asked for that is run at most. Kernels choose by size what they allocate for themselves, and
            the nearer the run that a fit is held against, the less is left unseen.
    """

    bytes: int
    flops: int
    share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """A step at sizes that were not run.

    Attributes:
        tape: the step.
        at: the step at other sizes, as far as the same runs tell it: of sizes of the same names; None where they do not.
        runs: the sizes that were run, in their order.
        checked_at: the run that was predicted to the byte before this was believed; None where none was.
        off_bytes: by how much the peak of the last check was off; 0 where all of it was right.
        reach: share of the peak by which the prediction may be off; 0 where the check was right.
        broken: modules whose memory came out otherwise at the check, as far as they are known.
        depths: sizes along which the step has more blocks, of which the runs had fewer than asked for.
        notes: what is worth knowing, in sentences.
    """

    tape: Tape
    at: Callable[[Sizes], Tape | None]
    runs: tuple[Sizes, ...]
    checked_at: Sizes | None
    off_bytes: int = 0
    reach: float = 0.0
    broken: tuple[str, ...] = ()
    depths: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def is_exact(self) -> bool:
        """Whether a further run came out to the byte."""
        return self.checked_at is not None and self.reach == 0.0


class PredictionError(RematbenchError):
    """No small step tells a large one: why, in a sentence."""


def predict(take: Take, target: Sizes, limits: Limits, held: Collection[str] = ()) -> Predicted:
    """Predict the step at the target sizes.

    Args:
        held: sizes that are run as asked for.

    Raises:
        PredictionError: no run tells it.
    """
    return _Search(take, target, limits, held).predicted()


def peak_bytes(tape: Tape) -> int:
    """Return the greatest sum of a tape's allocations."""
    return max(accumulate(_changes(tape), initial=0))


def static_bytes(tape: Tape) -> int:
    """Return what is there before the step."""
    return tape.sum_of("static")


def _changes(tape: Tape) -> Iterator[int]:
    return (value for label, value in zip(tape.labels, tape.values, strict=True) if label.kind in ("allocate", "free"))


@dataclass(frozen=True, kw_only=True)
class _Deep:
    """An axis along which the step has more blocks and not larger ones.

    Attributes:
        step: by how much the size grows for the repeats to come once more.
    """

    start: int
    step: int
    unrolling: Unrolling

    def times(self, value: int) -> int | None:
        """Return how often the repeats come more than at the start; None where they do not come to a value."""
        times, left = divmod(value - self.start, self.step)
        return None if left or times < 0 else times


@dataclass(frozen=True, kw_only=True)
class _Fit:
    """What tells a step at any sizes: a step that grows in its bytes, and is made longer in its depth."""

    grid: tuple[Axis, ...]
    extrapolation: Extrapolation
    deep: Mapping[str, _Deep]

    def at(self, sizes: Sizes) -> Tape | None:
        """Return the tape at some sizes; None where its numbers would not be whole."""
        tape = self.extrapolation.at([sizes[axis.name] for axis in self.grid])
        for name, deep in self.deep.items():
            times = deep.times(sizes[name])
            tape = deep.unrolling.unrolled(tape, times) if tape and times is not None else None
        return tape


class _Climb(Exception):
    """The sizes that were run do not do: larger ones are to be tried on some axes."""

    def __init__(self, axes: Sequence[str], why: str) -> None:
        super().__init__(why)
        self.axes = axes


class _Hold(Exception):
    """A size cannot be varied at all: it is to be run as it was asked for."""

    def __init__(self, axis: str) -> None:
        super().__init__(axis)
        self.axis = axis


class _Search:
    """One prediction on its way."""

    def __init__(self, take: Take, target: Sizes, limits: Limits, held: Collection[str]) -> None:
        self._take = take
        self._target = dict(target)
        self._limits = limits
        self._lattices = {name: lattices(value) for name, value in target.items()}
        self._rungs = dict.fromkeys(target, 0)
        self._held = {name for name, value in target.items() if is_small(value) or name in held}
        self._tapes: dict[tuple[int, ...], Tape] = {}
        self._refused: dict[tuple[int, ...], str] = {}
        self._runs: list[Sizes] = []
        self._notes: dict[str, None] = {}

    def predicted(self) -> Predicted:
        """Try small sizes, then larger ones, until a further run comes out as told; return the best that was found."""
        best: Predicted | None = None
        why = ""
        for _ in range(_MOST_ATTEMPTS):
            if not self._free():
                return self._result(self._tape(self._target), checked_at=self._target)
            try:
                fit = self._fitted()
                found = self._checked(fit)
                if found.is_exact:
                    return found
                best = found if best is None or found.reach <= best.reach else best
                if not self._climbed_towards(fit, found.checked_at or {}):
                    break
            except _Hold as hold:
                self._held.add(hold.axis)
            except _Climb as climb:
                why = str(climb)
                if not self._climbed(climb.axes):
                    break
            except Refused as refused:
                why = str(refused)
                break
        if best is None:
            raise PredictionError(f"small steps do not tell it: {why}")
        return self._run_after_all() if self._is_small(best.tape) else replace(best, runs=tuple(self._runs))

    def _run_after_all(self) -> Predicted:
        self._notes["it was run at its own size, as smaller steps did not tell it"] = None
        return self._result(self._tape(self._target), checked_at=self._target)

    def _free(self) -> list[Axis]:
        """Return the axes that are varied."""
        return [self._axis(name) for name in self._target if name not in self._held]

    def _climbed_towards(self, fit: _Fit, sizes: Sizes) -> bool:
        """Move every axis up until its line reaches the run that came out otherwise.

        Tell whether any moved, and what is to be run there is still small.
        """
        moved = False
        for axis in fit.grid:
            moved |= self._climbed([axis.name])
            while self._axis(axis.name, 1).node(NODES - 1) <= sizes[axis.name] and self._climbed([axis.name]):
                pass
        top = {axis.name: self._axis(axis.name).node(1) for axis in fit.grid}
        told = fit.at(top | {name: deep.start for name, deep in fit.deep.items()})
        return moved and (told is None or self._is_small(told))

    def _axis(self, name: str, more: int = 0) -> Axis:
        """Return an axis where it has come to, or some rungs further up."""
        known = self._lattices[name]
        return Axis(name=name, target=self._target[name], lattice=known[min(self._rungs[name] + more, len(known) - 1)])

    def _climbed(self, names: Sequence[str]) -> bool:
        """Move some axes up to larger values; tell whether any could be."""
        able = [name for name in names if self._rungs[name] + 1 < len(self._lattices[name])]
        for name in able:
            self._rungs[name] += 1
        return bool(able)

    def _tape(self, sizes: Sizes) -> Tape:
        """Run the step at some sizes, once; those that are not named are as asked for."""
        place = tuple(sizes.get(name, value) for name, value in self._target.items())
        if place in self._refused:
            raise Refused(self._refused[place])
        if place not in self._tapes:
            named = dict(zip(self._target, place, strict=True))
            try:
                self._tapes[place] = self._take(named)
            except Refused as refused:
                self._refused[place] = str(refused)
                raise
            self._runs.append(named)
        return self._tapes[place]

    def _fitted(self) -> _Fit:
        """Run the center and the lines through it, and tell what each axis does to the step."""
        axes = self._free()
        center = {axis.name: axis.node(0) for axis in axes}
        try:
            first = self._tape(center)
        except Refused as refused:
            raise _Climb([axis.name for axis in axes], str(refused)) from None
        grid: list[Axis] = []
        lines: list[list[Tape]] = []
        deep: dict[str, _Deep] = {}
        for axis in axes:
            try:
                line = [first, *(self._tape(center | {axis.name: node}) for node in axis.nodes[1:])]
            except Refused as refused:
                raise _Climb([axis.name], str(refused)) from None
            if all(first.is_like(tape) for tape in line):
                grid.append(axis)
                lines.append(line)
                if all(tape.values == first.values for tape in line):
                    self._notes[f"{axis.name} changes nothing in the step's memory or FLOPs"] = None
            else:
                deep[axis.name] = self._deepening(axis, line, alone=len(axes) == 1)
        tapes = {
            tuple(step if at == axis else 0 for at in range(len(grid))): tape
            for axis, line in enumerate(lines)
            for step, tape in enumerate(line)
        }
        nodes = tuple(axis.nodes for axis in grid)
        return _Fit(grid=tuple(grid), extrapolation=Extrapolation(nodes=nodes, tapes=tapes or {(): first}), deep=deep)

    def _deepening(self, axis: Axis, line: Sequence[Tape], *, alone: bool) -> _Deep:
        """Return how the step grows along an axis on which it has other entries.

        Raises:
            _Climb: not so that three steps tell a fourth, but larger ones may.
            _Hold: nor do they; what remains is to run it at its own value, where another one is small.
        """
        shallow, deeper, deepest = line
        unrolling = unrolling_of(shallow, deeper)
        is_reached = (axis.target - axis.node(0)) % (axis.node(1) - axis.node(0)) == 0
        if is_reached and unrolling is not None and are_alike(unrolling.unrolled(shallow, 2), deepest):
            return _Deep(start=axis.node(0), step=axis.node(1) - axis.node(0), unrolling=unrolling)
        if self._rungs[axis.name] + 1 < len(self._lattices[axis.name]) and len(deepest.labels) == len(deeper.labels):
            raise _Climb([axis.name], f"at other values of {axis.name} the step is another")
        if not alone and self._fits_beside(axis, line):
            raise _Hold(axis.name)
        raise _Climb([axis.name], f"at other values of {axis.name} the step is another")

    def _fits_beside(self, axis: Axis, line: Sequence[Tape]) -> bool:
        """Tell whether a step with one size as asked for, and the others small, is small itself, by a guess."""
        share = (axis.target / axis.nodes[-1]) ** 2
        return (peak_bytes(line[-1]) + static_bytes(line[-1])) * share <= self._limits.bytes

    def _checked(self, fit: _Fit) -> Predicted:
        """Hold a fit against further runs, the numbers that mix axes interpolated with more runs where need be."""
        fit = self._with_mixed(fit)
        sizes = self._check_sizes(fit)
        told = fit.at(sizes)
        try:
            measured = self._tape(sizes)
        except Refused as refused:
            raise _Climb(list(sizes), str(refused)) from None
        tape = fit.at(self._target)
        if tape is None:
            raise _Climb(list(sizes), "the memory of the step is no polynomial of its sizes")
        if told is not None and _equal(told, measured):
            return self._result(tape, fit, checked_at=sizes, depths=tuple(fit.deep))
        off = abs(peak_bytes(told) - peak_bytes(measured)) if told else peak_bytes(measured)
        # What was unlike anywhere may be unlike at the peak of a larger step.
        unlike = _unlike(told, measured) if told else {}
        reach = max(_LEAST_RANGE, 2 * (off + sum(unlike.values())) / max(1, peak_bytes(measured)))
        return self._result(
            tape,
            fit,
            checked_at=sizes,
            off_bytes=off,
            reach=reach,
            broken=tuple(unlike),
            depths=tuple(fit.deep),
        )

    def _with_mixed(self, fit: _Fit) -> _Fit:
        """Run one step with all axes changed, and more for the numbers that are no product over the axes."""
        if len(fit.grid) < 2:
            return fit
        extrapolation = fit.extrapolation
        index = (1,) * len(fit.grid)
        try:
            measured = self._tape(self._sizes_at(fit, index))
            wrong = (
                extrapolation.wrong([axis.node(1) for axis in fit.grid], measured)
                if (extrapolation.center.is_like(measured))
                else None
            )
            if wrong is None:
                raise _Climb([axis.name for axis in fit.grid], "at other sizes together the step is another")
            if not wrong.any():
                return fit
            extrapolation = extrapolation.with_mixed(wrong)
            more = {
                at: self._tape(self._sizes_at(fit, at))
                for at in extrapolation.grid
                if at not in fit.extrapolation.tapes
            }
        except Refused as refused:
            raise _Climb([axis.name for axis in fit.grid], str(refused)) from None
        if not all(extrapolation.center.is_like(tape) for tape in more.values()):
            raise _Climb([axis.name for axis in fit.grid], "at other sizes together the step is another")
        return replace(fit, extrapolation=extrapolation.with_tapes(more))

    def _sizes_at(self, fit: _Fit, index: Sequence[int]) -> dict[str, int]:
        deep = {name: axis.start for name, axis in fit.deep.items()}
        return {axis.name: axis.node(step) for axis, step in zip(fit.grid, index, strict=True)} | deep

    def _check_sizes(self, fit: _Fit) -> dict[str, int]:
        """Return the largest sizes to hold a fit against: as far as the limits allow, and one step deeper."""
        deep = {name: axis.start + axis.step for name, axis in fit.deep.items()}
        # A line whose last value has borne out its degrees is checked by it; else there has to be one more.
        least = {axis.name: axis.node(2 if fit.extrapolation.is_settled(at) else 3) for at, axis in enumerate(fit.grid)}
        share, before = self._limits.share, None
        while True:
            sizes = {axis.name: axis.like_the_target(axis.target * share, least[axis.name]) for axis in fit.grid} | deep
            told = fit.at(sizes)
            if told is None or self._is_small(told) or sizes == before:
                return sizes
            before, share = sizes, share / 2

    def _is_small(self, tape: Tape) -> bool:
        needed = peak_bytes(tape) + static_bytes(tape)
        return needed <= self._limits.bytes and tape.sum_of("flops") <= self._limits.flops

    def _result(self, tape: Tape, fit: _Fit | None = None, **found: Any) -> Predicted:
        def at(sizes: Sizes) -> Tape | None:
            return fit.at(sizes) if fit and all(sizes[name] == self._target[name] for name in self._held) else None

        return Predicted(tape=tape, at=at, runs=tuple(self._runs), notes=tuple(self._notes), **found)


def _equal(told: Tape, measured: Tape) -> bool:
    return told.values == measured.values and (told.labels == measured.labels or are_alike(told, measured))


def _unlike(told: Tape, measured: Tape) -> dict[str, int]:
    """Return by how much what a module allocates came out otherwise, the greatest difference first."""
    sums: dict[str, int] = {}
    for tape, sign in ((told, 1), (measured, -1)):
        for label, value in zip(tape.labels, tape.values, strict=True):
            if label.kind == "allocate":
                sums[label.name] = sums.get(label.name, 0) + sign * value
    found = {name: abs(off) for name, off in sums.items() if off}
    return dict(sorted(found.items(), key=lambda item: -item[1]))
