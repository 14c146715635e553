"""What of a chain one region may span, from a recording: the runs of blocks that really follow one another.

Inside a region nothing that a block returns is there for anyone but the next block, and the region is recomputed from
what its first block was given. So a run ends where a value is used by others, and no region begins at a block whose
arguments are written to afterwards.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence

from rematbench.placing.recorded import ModuleCall, Recording, Use

Calls = Sequence[ModuleCall]
"""Of one block, in order."""


class Runs:
    """Answers what of a chain's blocks may be regions; the uses of each storage are looked up once."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._uses: dict[int, list[Use]] = defaultdict(list)
        for use in recording.uses:
            self._uses[use.storage].append(use)

    def obstacle(self, calls: Calls) -> str | None:
        """Return why no region may begin at a block with these calls, `changes its input in place`; None where one may.

        It is put so that the block is what it is said of.
        """
        if not calls:
            return "is not called in the step"
        if not any(call.grad for call in calls):
            return "runs without gradients"
        if any(call.changed for call in calls):
            return "changes its input in place"
        if any(self._is_written_later(call) for call in calls):
            return "is given what is changed in place later"
        if not any(call.outputs for call in calls):
            return "returns no tensor"
        return None

    def runs(self, blocks: Mapping[int, Calls]) -> tuple[tuple[int, ...], ...]:
        """Return the maximal runs of a chain's blocks, whose calls stand by position.

        Of each run the positions where a region may begin, and where the last one ends.
        """
        found: list[tuple[int, ...]] = []
        for stretch in self._stretches(blocks):
            cuts = [at for at in stretch if self.obstacle(blocks[at]) is None]
            if cuts:
                found.append((*cuts, stretch[-1] + 1))
        return tuple(found)

    def _stretches(self, blocks: Mapping[int, Calls]) -> Iterator[list[int]]:
        """Yield runs of positions, the longest from the left that begin where a region may."""
        stretch: list[int] = []
        handed: list[frozenset[int]] = []
        for at in sorted(blocks):
            calls = blocks[at]
            if stretch and at == stretch[-1] + 1 and self._goes_on(blocks[stretch[-1]], calls, handed):
                stretch.append(at)
            else:
                if stretch:
                    yield stretch
                stretch = [at] if self.obstacle(calls) is None else []
                handed = [call.taken for call in calls]
            handed = [here & _handed(call) for here, call in zip(handed, calls, strict=True)]
        if stretch:
            yield stretch

    def _goes_on(self, before: Calls, after: Calls, handed: Sequence[frozenset[int]]) -> bool:
        """Tell whether a region that ends with a block may go on over the next one.

        Args:
            handed: for each call of the block before, storages that the region hands through from its own arguments:
                those are there for anyone.
        """
        if len(before) != len(after) or not all(call.follows for call in after):
            return False
        return all(
            first.grad == second.grad
            and not (first.hooks or second.hooks)
            and bool(first.outputs)
            and not any(self._is_used_otherwise(storage, first, second) for storage in first.made - there)
            and not any(self._is_written_between(storage, first, second) for storage in second.further)
            for first, second, there in zip(before, after, handed, strict=True)
        )

    def _is_used_otherwise(self, storage: int, first: ModuleCall, second: ModuleCall) -> bool:
        if storage in self._recording.static:
            return False
        for use in self._uses[storage]:
            is_between = first.end <= use.tick < second.end
            is_after = use.tick >= second.end and storage not in second.made
            if (is_between or is_after) and not self._is_inside(use, first) and not self._is_inside(use, second):
                return True
        return False

    def _is_written_between(self, storage: int, first: ModuleCall, second: ModuleCall) -> bool:
        return any(
            use.writes and first.end <= use.tick <= second.begin and not self._is_inside(use, first)
            for use in self._uses[storage]
        )

    def _is_written_later(self, call: ModuleCall) -> bool:
        return any(
            use.writes and use.tick >= call.end and not self._is_inside(use, call)
            for storage in call.taken
            for use in self._uses[storage]
        )

    def _is_inside(self, use: Use, call: ModuleCall) -> bool:
        return self._recording.inside(use.call, call.number)


def _handed(call: ModuleCall) -> frozenset[int]:
    """Return the storages of a result that nothing but the very arguments lie on."""
    others = {tensor.storage for tensor in call.outputs if not tensor.handed}
    return frozenset(tensor.storage for tensor in call.outputs if tensor.storage is not None) - others
