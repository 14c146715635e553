"""Predict a step from small ones: run them, fit, hold the fit against a further one, and move up where it fails."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Protocol

from rematbench.errors import RematbenchError
from rematbench.predicting.axes import NODES, Axis, is_small, lattices
from rematbench.predicting.interpolant import Deepening, Interpolant, Sizes
from rematbench.traces.calls import (
    Ask,
    Asked,
    Unanswered,
    abridged,
    choosy,
    effect_of,
)
from rematbench.traces.extrapolation import Extrapolation
from rematbench.traces.tape import ALLOCATIONS, Tape
from rematbench.traces.unrolling import are_alike, unrolling_of
from rematbench.units import format_sizes

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
        share: of each size asked for that is run at most. The nearer the run that a fit is held against, the less is
            left unseen of what a model does otherwise where it is large.
    """

    bytes: int
    flops: int
    share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Predicted:
    """A step at sizes that were not run.

    Attributes:
        tape: the step.
        at: the step at other sizes of the same names, as far as the same runs tell it, kernels asked there; None where
            they do not.
        about: the same but for what kernels choose, which is no more than likely; nothing is asked or run.
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
    about: Callable[[Sizes], Tape | None]
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


def predict(take: Take, target: Sizes, limits: Limits, held: Collection[str] = (), ask: Ask | None = None) -> Predicted:
    """Predict the step at the target sizes.

    Args:
        held: sizes that are run as asked for.
        ask: asks kernels that choose by size what they allocate; without it that is fitted like all else.

    Raises:
        PredictionError: no run tells it.
    """
    return _Search(take, target, limits, held, ask).predicted()


def peak_bytes(tape: Tape) -> int:
    """Return the greatest sum of a tape's allocations."""
    return max(accumulate(_changes(tape), initial=0))


def static_bytes(tape: Tape) -> int:
    """Return what is there before the step."""
    return tape.sum_of("static")


def _changes(tape: Tape) -> Iterator[int]:
    return (
        value for label, value in zip(tape.labels, tape.values, strict=True) if label.kind in (*ALLOCATIONS, "free")
    )


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

    def __init__(self, take: Take, target: Sizes, limits: Limits, held: Collection[str], ask: Ask | None) -> None:
        self._take = take
        self._ask = ask
        self._choosy: set[str] = set()
        self._unasked: set[str] = set()
        self._is_continued = False
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
                fit, found = self._fitted_and_checked()
                if found.is_exact or (found.off_bytes == 0 and not found.broken):  # no larger step tells more
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

    def _climbed_towards(self, fit: Interpolant, sizes: Sizes) -> bool:
        """Move every axis up until its line reaches the run that came out otherwise.

        Tell whether any moved, and what is to be run there is still small.
        """
        moved = False
        for axis in fit.grid:
            moved |= self._climbed([axis.name])
            while self._axis(axis.name, 1).node(NODES - 1) <= sizes[axis.name] and self._climbed([axis.name]):
                pass
        axes = [self._axis(axis.name) for axis in fit.grid]
        deep = {name: found.start for name, found in fit.deep.items()}
        runs = [{other.name: other.node(NODES - 1 if other is axis else 0) for other in axes} for axis in axes]
        told = [fit.near(run | deep) for run in (*runs, {axis.name: axis.node(1) for axis in axes})]
        return moved and all(tape is None or self._is_small(tape) for tape in told)

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
            if self._ask:
                self._choosy |= choosy(self._tapes[place])
        return self._tapes[place]

    def _abridged(self, tape: Tape) -> Tape:
        """Return a tape without what kernels choose in it that are asked for it."""
        kinds = self._choosy - self._unasked
        return abridged(tape, kinds) if kinds else replace(tape, calls=())

    def _fitted(self) -> Interpolant:
        """Run the center and the lines through it, and tell what each axis does to the step."""
        axes = self._free()
        center = {axis.name: axis.node(0) for axis in axes}
        try:
            first = self._tape(center)
        except Refused as refused:
            raise _Climb([axis.name for axis in axes], str(refused)) from None
        grid: list[Axis] = []
        lines: list[list[Tape]] = []
        deep: dict[str, Deepening] = {}
        run: list[list[Tape]] = []
        for axis in axes:
            try:
                run.append([first, *(self._tape(center | {axis.name: node}) for node in axis.nodes[1:])])
            except Refused as refused:
                raise _Climb([axis.name], str(refused)) from None
        # Only now it is known which kernels choose.
        for axis, line in zip(axes, run, strict=True):
            line = [self._abridged(tape) for tape in line]
            if all(line[0].is_like(tape) for tape in line):
                grid.append(axis)
                lines.append(line)
                if all(tape.values == line[0].values for tape in line):
                    self._notes[f"{axis.name} changes nothing in the step's memory or FLOPs"] = None
            else:
                deep[axis.name] = self._deepening(axis, line, alone=len(axes) == 1)
        tapes = {
            tuple(step if at == axis else 0 for at in range(len(grid))): tape
            for axis, line in enumerate(lines)
            for step, tape in enumerate(line)
        }
        nodes = tuple(axis.nodes for axis in grid)
        extrapolation = Extrapolation(nodes=nodes, tapes=tapes or {(): self._abridged(first)})
        return Interpolant(grid=tuple(grid), extrapolation=extrapolation, deep=deep, ask=self._ask)

    def _deepening(self, axis: Axis, line: Sequence[Tape], *, alone: bool) -> Deepening:
        """Return how the step grows along an axis on which it has other entries.

        Raises:
            _Climb: not so that three steps tell a fourth, but larger ones may.
            _Hold: nor do they; what remains is to run it at its own value, where another one is small.
        """
        shallow, deeper, deepest = line
        unrolling = unrolling_of(shallow, deeper)
        is_reached = (axis.target - axis.node(0)) % (axis.node(1) - axis.node(0)) == 0
        if is_reached and unrolling is not None and are_alike(unrolling.unrolled(shallow, 2), deepest):
            return Deepening(start=axis.node(0), step=axis.node(1) - axis.node(0), unrolling=unrolling)
        if self._rungs[axis.name] + 1 < len(self._lattices[axis.name]) and len(deepest.labels) == len(deeper.labels):
            raise _Climb([axis.name], f"at other values of {axis.name} the step is another")
        if not alone and self._fits_beside(axis, line):
            raise _Hold(axis.name)
        raise _Climb([axis.name], f"at other values of {axis.name} the step is another")

    def _fits_beside(self, axis: Axis, line: Sequence[Tape]) -> bool:
        """Tell whether a step with one size as asked for, and the others small, is small itself, by a guess."""
        share = (axis.target / axis.nodes[-1]) ** 2
        return (peak_bytes(line[-1]) + static_bytes(line[-1])) * share <= self._limits.bytes

    def _fitted_and_checked(self) -> tuple[Interpolant, Predicted]:
        """Fit what was run and hold it against a further run; again without a kernel that is not to be asked."""
        while True:
            known = set(self._choosy)
            fit = self._with_mixed(self._fitted())
            sizes = self._check_sizes(fit)
            near = fit.near(sizes)
            if near is not None and not self._is_small(near):
                raise Refused(f"a step at {format_sizes(sizes)}, to hold what is told against, is too large to be run")
            try:
                measured = self._tape(sizes)
            except Refused as refused:
                raise _Climb(list(sizes), str(refused)) from None
            if self._choosy != known:
                continue
            try:
                if not self._is_told(fit, sizes, measured):
                    told, tape = fit.about(sizes), fit.about(self._target)
                    break
                told = fit.at(sizes)
                strange = self._strange(measured) if told is None or not _equal(told, measured) else set()
                if strange:
                    raise Unanswered(strange, "alone it allocates otherwise than in the step")
                tape = self._told(fit)
                break
            except Unanswered as unanswered:
                self._unasked |= unanswered.kinds
                self._notes[f"kernels were not asked what they allocate ({unanswered})"] = None
        if tape is None:
            raise _Climb(list(sizes), "the memory of the step is no polynomial of its sizes")
        return fit, self._checked(fit, tape, sizes, told, measured)

    def _told(self, fit: Interpolant) -> Tape | None:
        """Return the step asked for, its kernels told from smaller sizes where they are too large to be asked."""
        try:
            return fit.at(self._target)
        except Unanswered as unanswered:
            tape = fit.from_below(self._target)
            if tape is None:
                raise
            self._is_continued = True
            self._notes[f"kernels too large to be run alone were asked at smaller sizes ({unanswered})"] = None
            return tape

    def _is_told(self, fit: Interpolant, sizes: Sizes, measured: Tape) -> bool:
        """Tell whether all but what kernels choose came out; only then are they asked.

        A call whose arguments do not belong together may write where it must not.
        """
        told, run = fit.about(sizes), self._abridged(measured)
        if told is None or len(told.labels) != len(run.labels):
            return False
        chosen = run.chosen
        settled = tuple(
            there if own else here for own, here, there in zip(chosen, told.values, run.values, strict=True)
        )
        return _equal(told.with_values(settled), run)

    def _strange(self, measured: Tape) -> set[str]:
        """Return the kinds of calls of a step that did otherwise than they do alone."""
        kinds = self._choosy - self._unasked
        if not self._ask:
            return set()
        calls = [(Asked(call.kind, call.numbers, call.flops), call) for call in measured.calls if call.kind in kinds]
        answers = self._ask(asked for asked, _ in calls)
        return {asked.kind for asked, call in calls if answers.get(asked) != effect_of(call, measured)}

    def _checked(self, fit: Interpolant, tape: Tape, sizes: Sizes, told: Tape | None, measured: Tape) -> Predicted:
        """Say how far a prediction is to be believed."""
        if told is not None and _equal(told, measured):
            # What chooses by size and was not asked at this one may have chosen otherwise.
            reach = _LEAST_RANGE if self._choosy & self._unasked or self._is_continued else 0.0
            return self._result(tape, fit, checked_at=sizes, reach=reach, depths=tuple(fit.deep))
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

    def _with_mixed(self, fit: Interpolant) -> Interpolant:
        """Run one step with all axes changed, and more for the numbers that are no product over the axes."""
        if len(fit.grid) < 2:
            return fit
        extrapolation = fit.extrapolation
        index = (1,) * len(fit.grid)
        try:
            measured = self._abridged(self._tape(self._sizes_at(fit, index)))
            is_like = extrapolation.center.is_like(measured)
            wrong = extrapolation.wrong([axis.node(1) for axis in fit.grid], measured) if is_like else None
            if wrong is None:
                raise _Climb([axis.name for axis in fit.grid], "at other sizes together the step is another")
            if not wrong.any():
                return fit
            extrapolation = extrapolation.with_mixed(wrong)
            more = {
                at: self._abridged(self._tape(self._sizes_at(fit, at)))
                for at in extrapolation.grid
                if at not in fit.extrapolation.tapes
            }
        except Refused as refused:
            raise _Climb([axis.name for axis in fit.grid], str(refused)) from None
        if not all(extrapolation.center.is_like(tape) for tape in more.values()):
            raise _Climb([axis.name for axis in fit.grid], "at other sizes together the step is another")
        return replace(fit, extrapolation=extrapolation.with_tapes(more))

    def _sizes_at(self, fit: Interpolant, index: Sequence[int]) -> dict[str, int]:
        deep = {name: axis.start for name, axis in fit.deep.items()}
        return {axis.name: axis.node(step) for axis, step in zip(fit.grid, index, strict=True)} | deep

    def _check_sizes(self, fit: Interpolant) -> dict[str, int]:
        """Return the largest sizes to hold a fit against: as far as the limits allow, and one step deeper."""
        deep = {name: axis.start + axis.step for name, axis in fit.deep.items()}
        # A line whose last value has borne out its degrees is checked by it; else there has to be one more.
        least = {axis.name: axis.node(2 if fit.extrapolation.is_settled(at) else 3) for at, axis in enumerate(fit.grid)}
        share, before = self._limits.share, None
        while True:
            sizes = {axis.name: axis.like_the_target(axis.target * share, least[axis.name]) for axis in fit.grid} | deep
            told = fit.near(sizes)
            if told is None or self._is_small(told) or sizes == before:
                return sizes
            before, share = sizes, share / 2

    def _is_small(self, tape: Tape) -> bool:
        needed = peak_bytes(tape) + static_bytes(tape)
        return needed <= self._limits.bytes and tape.sum_of("flops") <= self._limits.flops

    def _result(self, tape: Tape, fit: Interpolant | None = None, **found: Any) -> Predicted:
        def is_of_fit(sizes: Sizes) -> bool:
            return fit is not None and all(sizes[name] == self._target[name] for name in self._held)

        def at(sizes: Sizes) -> Tape | None:
            with suppress(Unanswered):
                return fit.at(sizes) if fit and is_of_fit(sizes) else None
            return None

        def about(sizes: Sizes) -> Tape | None:
            return fit.about(sizes) if fit and is_of_fit(sizes) else None

        return Predicted(tape=tape, at=at, about=about, runs=tuple(self._runs), notes=tuple(self._notes), **found)


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
