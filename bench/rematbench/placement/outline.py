"""What a model offers to a placement: its chains of blocks and its module paths, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from rematbench.errors import PlacementError, unknown
from rematbench.placement.fingerprint import fingerprint


@dataclass(frozen=True, kw_only=True)
class Chain:
    """A container whose children are blocks.

    Attributes:
        blocks: the children's classes.
        runs: where blocks follow one another, so that one region may span them: of each run the positions where a
            region may begin, and where the run ends. As a step has shown it; all of them in one run where none was run.
        plain: why no region of its own may be given to a block, by its position, as `changes its input in place`.
    """

    path: str
    blocks: tuple[str, ...]
    runs: tuple[tuple[int, ...], ...] = ()
    plain: dict[int, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not self.runs and not self.plain:
            object.__setattr__(self, "runs", (tuple(range(len(self.blocks) + 1)),))

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def alone(self) -> tuple[int, ...]:
        """Positions of the blocks that may be a region each."""
        return tuple(position for run in self.runs for position in run[:-1])

    def __str__(self) -> str:
        """Return `encoder.layers[0:6] × Layer`, or the classes there are."""
        classes = ", ".join(dict.fromkeys(self.blocks))
        return f"{self.path}[0:{len(self)}] × {classes}"


@dataclass(frozen=True, kw_only=True)
class Outline:
    """A model as a placement sees it.

    Attributes:
        modules: class name by module path, in registration order, the model itself (`""`) first.
        chains: every container that is not empty, in registration order; with a step recorded, those whose children
            are called.
        outermost: the chains that strategies act on: those inside no other; chains of bare layers only where there is
            nothing else, so that a head written as a `Sequential` is not taken for a stack of blocks.
        parameters: shape by parameter path, in registration order; `()` for one not initialised yet.
        scope: the module that strategies are held to; None for the whole model.
        loose: where no chain is there, the modules that the model calls in its place, as a step has shown them; each
            may be a region.
        unused: containers that the recorded step shows to be no chains.
        recorded: whether all this is what a step has shown.
    """

    modules: dict[str, str]
    chains: tuple[Chain, ...]
    outermost: tuple[Chain, ...]
    parameters: dict[str, tuple[int, ...]] = field(default_factory=dict)
    scope: str | None = None
    loose: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    recorded: bool = False

    @property
    def fingerprint(self) -> str:
        """What a placement for this model may carry, to be refused on any other: `Placement.fingerprint`."""
        return fingerprint(self.modules, self.parameters)

    def at(self, path: str) -> Outline:
        """Return the same model for a strategy to act on one chain, or on the modules inside one.

        Raises:
            PlacementError: there is neither of that path; the closest is offered.
        """
        chosen = tuple(chain for chain in self.chains if chain.path == path)
        if path in self.unused:
            raise PlacementError(f"{path} is no chain: none of its children is called as a block in the step")
        if not chosen and path not in self.modules:
            known = (chain.path for chain in self.chains)
            raise PlacementError(f"{unknown('chain', path, known)}; modules:PATTERN takes any module")
        return replace(self, outermost=chosen, scope=path, loose=())
