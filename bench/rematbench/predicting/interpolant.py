"""What tells a step at sizes that are not run: an extrapolation of its numbers, and how blocks of it repeat."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rematbench.predicting.axes import Axis
from rematbench.traces.calls import Ask, Asked, Effect, calls_of, completed, continued, with_kept
from rematbench.traces.extrapolation import Extrapolation
from rematbench.traces.tape import Tape
from rematbench.traces.unrolling import Unrolling

Sizes = Mapping[str, int]

_ON_THE_LINE = 6
"""A product of four sizes, and one place more that bears it out."""

_SHARES = tuple(0.8**power for power in range(3, 24))
"""Of each size, for the largest of those places."""


@dataclass(frozen=True, kw_only=True)
class Deepening:
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
class Interpolant:
    """What tells a step at any sizes: a step that grows in its bytes, and is made longer in its depth."""

    grid: tuple[Axis, ...]
    extrapolation: Extrapolation
    deep: Mapping[str, Deepening]
    ask: Ask | None

    def at(self, sizes: Sizes) -> Tape | None:
        """Return the tape at some sizes; None where its numbers would not be whole.

        Raises:
            Unanswered: kernels were not to be asked there.
        """
        tape = self.extrapolation.at([sizes[axis.name] for axis in self.grid])
        if tape is None or self.ask is None:
            return self._deepened(tape, sizes)
        return self._completed(tape, sizes, self.ask)

    def _completed(self, tape: Tape, sizes: Sizes, ask: Ask) -> Tape | None:
        # First what calls leave, by whose bytes the frees of a deeper step find their allocations.
        kept, answers = with_kept(tape, ask)
        deepened = self._deepened(kept, sizes)
        return completed(deepened, answers) if deepened else None

    def from_below(self, sizes: Sizes) -> Tape | None:
        """Return the tape at sizes at which kernels are not to be asked, by what they do at smaller ones.

        Those lie on one line to the sizes, as near as kernels are to be asked, in equal steps of the axes' grain.
        None where kernels do there what tells nothing.

        Raises:
            Unanswered: nor are they to be asked there.
        """
        place = [sizes[axis.name] for axis in self.grid]
        tape = self.extrapolation.at(place)
        known = self._continued(place) if self.ask and tape else None
        if tape is None or self.ask is None or known is None:
            return None
        told = {call: known[at] for at, call in calls_of(tape).items() if at in known}
        answers = self.ask

        def ask(calls: Iterable[Asked]) -> Mapping[Asked, Effect | str]:
            calls = list(calls)
            rest = answers(call for call in calls if call not in told)
            return {**rest, **{call: told[call] for call in calls if call in told}}

        return self._completed(tape, sizes, ask)

    def _continued(self, place: Sequence[int]) -> dict[int, Effect] | None:
        """Return what calls do at a place, by where they stand in the tape; None where no smaller ones can be asked."""
        assert self.ask is not None
        for share in _SHARES:
            grains = [axis.lattice.grain for axis in self.grid]
            widths = [int(share * target) // 12 // grain * grain for target, grain in zip(place, grains, strict=True)]
            above = int(12 * (1 - share) / share) + 1
            first = [target - (above + _ON_THE_LINE - 1) * width for target, width in zip(place, widths, strict=True)]
            if not any(widths) or any(value < axis.node(0) for axis, value in zip(self.grid, first, strict=True)):
                return None
            found: dict[int, list[Effect]] = {}
            for step in reversed(range(_ON_THE_LINE)):  # the largest first: it is the one that may be too large
                tape = self.extrapolation.at([value + step * width for value, width in zip(first, widths, strict=True)])
                answers = self.ask(calls_of(tape).values()) if tape else {}
                if tape is None or any(isinstance(answer, str) for answer in answers.values()):
                    break
                for at, call in calls_of(tape).items():
                    effect = answers[call]
                    assert isinstance(effect, Effect)
                    found.setdefault(at, []).append(effect)
            else:
                told = {at: continued(effects[::-1], above + _ON_THE_LINE - 1) for at, effects in found.items()}
                return {at: effect for at, effect in told.items() if effect is not None}
        return None

    def about(self, sizes: Sizes) -> Tape | None:
        """Return the tape without asking kernels: what they leave is interpolated, and what they free is not there."""
        return self._deepened(self.extrapolation.at([sizes[axis.name] for axis in self.grid]), sizes)

    def near(self, sizes: Sizes) -> Tape | None:
        """Return a tape of about the size, to tell whether a run there is small."""
        return self._deepened(self.extrapolation.near([sizes[axis.name] for axis in self.grid]), sizes)

    def _deepened(self, tape: Tape | None, sizes: Sizes) -> Tape | None:
        for name, deep in self.deep.items():
            times = deep.times(sizes[name])
            tape = deep.unrolling.unrolled(tape, times) if tape and times is not None else None
        return tape
