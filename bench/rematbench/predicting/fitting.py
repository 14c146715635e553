"""The largest value of a size that fits into a memory: found on predicted steps, and run where it can be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rematbench.predicting.interpolant import Sizes
from rematbench.predicting.prediction import Predictor
from rematbench.predicting.sampling import Resolve
from rematbench.predicting.search import Predicted, PredictionError, peak_bytes, static_bytes
from rematbench.records.fitting import CurvePoint, FittedPlacement
from rematbench.traces.tape import Tape

_FIRST = 64
"""So many times the multiple is asked for first; the answer is looked for from there, up or down."""

_ROUNDS = 6
_MOST = 2**30
_POINTS = 24


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked: the largest value of one size whose step fits.

    Attributes:
        vary: the size.
        at: other sizes.
        memory_bytes: for the peak and all that is there before the step.
        multiple_of: the answer is a multiple of it.
    """

    vary: str
    at: Mapping[str, int]
    memory_bytes: int
    multiple_of: int = 1

    def sizes(self, value: int) -> dict[str, int]:
        return {**self.at, self.vary: value}


def total_bytes(tape: Tape) -> int:
    """Return what a step needs with all that is there before it."""
    return peak_bytes(tape) + static_bytes(tape)


def fit(
    predictor: Predictor,
    name: str,
    resolve: Resolve,
    question: Question,
    *,
    plain: Callable[[Sizes], Predicted | None] = lambda _sizes: None,
    measured: Callable[[Sizes], int | None] = lambda _sizes: None,
) -> FittedPlacement:
    """Find the largest value for one placement.

    Args:
        plain: predicts the plain step, to tell what is recomputed.
        measured: runs a step and returns what it needs with what is there before it; None where it is too large here.

    Raises:
        PredictionError: no small step tells a larger one.
    """
    search = _Search(predictor, name, resolve, question)
    value = search.largest()
    if value is None:
        smallest = search.predicted(question.multiple_of)
        return FittedPlacement(
            placement=name, value=None, next_value=question.multiple_of, next_bytes=total_bytes(smallest.tape),
            runs=search.runs, curve=(),
        )  # fmt: skip
    here = search.predicted(value)
    told = here.at(question.sizes(value + question.multiple_of)) if here.is_exact else None
    beyond = told or search.predicted(value + question.multiple_of).tape
    sizes, more = question.sizes(value), question.sizes(value + question.multiple_of)
    before = plain(sizes)
    flops = here.tape.sum_of("flops")
    return FittedPlacement(
        placement=name,
        value=value,
        bytes=total_bytes(here.tape),
        next_value=value + question.multiple_of,
        next_bytes=total_bytes(beyond),
        reach=here.reach,
        compute_ratio=flops / before.tape.sum_of("flops") if before and before.tape.sum_of("flops") else None,
        measured_bytes=measured(sizes),
        next_measured_bytes=measured(more),
        runs=search.runs,
        checked_at=dict(here.checked_at) if here.checked_at else None,
        curve=search.curve(here, value),
    )


class _Search:
    """The largest value for one placement."""

    def __init__(self, predictor: Predictor, name: str, resolve: Resolve, question: Question) -> None:
        self._predictor = predictor
        self._name = name
        self._resolve = resolve
        self._question = question
        self._every: dict[tuple[tuple[str, int], ...], None] = {}

    @property
    def runs(self) -> int:
        """How many small steps have been run."""
        return len(self._every)

    def predicted(self, value: int) -> Predicted:
        """Predict the step at a value."""
        found = self._predictor.predicted(self._name, self._resolve, self._question.sizes(value))
        self._every.update(dict.fromkeys(tuple(sorted(run.items())) for run in found.runs))
        return found

    def largest(self) -> int | None:
        """Return the largest multiple that fits, None where not even the first does.

        A prediction tells the values around its own too, so that one is looked for on it, and predicted itself then:
        what it was told from lies nearer to it, and may tell otherwise.
        """
        step = self._question.multiple_of
        value = _FIRST * step
        low, high = 0, None  # the largest known to fit, the smallest known not to, by predictions of their own
        for _ in range(_ROUNDS):
            found = self.predicted(value)
            if self._fits(found.tape):
                low = max(low, value)
            else:
                high = value if high is None else min(high, value)
            if high is not None and high - low <= step:
                return low or None
            told = self._told_by(found, value, low, high)
            # What is told of the next value by a run that was right is as good as a prediction of its own.
            is_told = found.is_exact and found.at(self._question.sizes(told)) is not None
            if is_told and {told, value} == {low, low + step}:
                return low or None
            value = told
        raise PredictionError(
            f"no end was found: {low} fits, and {high or 'nothing larger'} does not, of {self._question.vary}"
        )

    def _told_by(self, found: Predicted, value: int, low: int, high: int | None) -> int:
        """Return the value to predict next: the largest that one prediction says fits, or the one beyond it."""
        step = self._question.multiple_of
        # Where to look next need not be exact, so no kernel is asked what it frees itself: it is taken as it grows.
        roughly = found.about(self._question.sizes(value))
        scale = total_bytes(found.tape) / max(1, total_bytes(roughly)) if roughly else 1.0

        def fits(other: int) -> bool:
            tape = found.tape if other == value else found.about(self._question.sizes(other))
            return (
                tape is not None and total_bytes(tape) * (1 if other == value else scale) <= self._question.memory_bytes
            )

        if high is None:
            top = low
            while fits(2 * top) and top < _MOST:
                top *= 2
            top = 2 * top
        else:
            top = high
        below = low
        while top - below > step:
            middle = (below + top) // 2 // step * step
            below, top = (middle, top) if fits(middle) else (below, middle)
        return below if below > low else top

    def _fits(self, tape: Tape) -> bool:
        return total_bytes(tape) <= self._question.memory_bytes

    def curve(self, found: Predicted, value: int) -> tuple[CurvePoint, ...]:
        """Return what the step needs at values up to a bit beyond one."""
        step = self._question.multiple_of
        top = value + max(step, value // 4)
        width = max(step, top // _POINTS // step * step)
        points = []
        for at in range(width, top + 1, width):
            tape = found.at(self._question.sizes(at))
            if tape is not None:
                points.append(CurvePoint(value=at, bytes=total_bytes(tape)))
        return tuple(points)
