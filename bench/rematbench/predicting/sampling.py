"""Run a model's step at small sizes: built anew for each, and kept for the next placement that is asked for there."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass

import torch

from rematbench.errors import ModelError, PlacementError
from rematbench.measuring.cpu_meter import UncountedError
from rematbench.measuring.meter import meter_for
from rematbench.measuring.session import Session
from rematbench.placement.placement import Placement
from rematbench.predicting.interpolant import Sizes
from rematbench.predicting.search import PredictionError, Refused, Take
from rematbench.traces.tape import Tape
from rematbench.workload.building import static_bytes
from rematbench.workload.step import Workload

Resolve = Callable[[Session], Placement]
"""Makes a placement for the model of a session."""

_KEPT_BYTES = 2**28
"""So much of models that were built is kept for the next placement."""


@dataclass(frozen=True)
class _Place:
    """Sizes that can be looked up."""

    values: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, sizes: Sizes) -> _Place:
        return cls(tuple(sorted(sizes.items())))


class Sampler:
    """Runs steps of one model at small sizes.

    Args:
        build: makes the workload of some sizes; what it raises is the model's own refusal of them.
        device: where it is run.
    """

    def __init__(self, build: Callable[[Sizes], Workload], device: torch.device) -> None:
        self._build = build
        self._device = device
        self._sessions: dict[_Place, Session] = {}
        self._tapes: dict[tuple[str, _Place], Tape] = {}
        self.meter = meter_for(device)

    def session(self, sizes: Sizes) -> Session:
        """Return the model at some sizes, with the state before each of its steps.

        Raises:
            Refused: it cannot be built so.
        """
        place = _Place.of(sizes)
        if place not in self._sessions:
            session = Session(self._built(sizes), self._device, self.meter)
            kept = sum(static_bytes(other.workload) for other in self._sessions.values())
            if kept + static_bytes(session.workload) > _KEPT_BYTES:
                self._sessions.clear()
            self._sessions[place] = session
        return self._sessions[place]

    def takes(self, name: str, resolve: Resolve) -> Take:
        """Return what runs a placement's step at some sizes, once; `name` stands for the placement."""

        def take(sizes: Sizes) -> Tape:
            key = name, _Place.of(sizes)
            if key not in self._tapes:
                self._tapes[key] = run(sizes)
            return self._tapes[key]

        def run(sizes: Sizes) -> Tape:
            try:
                session = self.session(sizes)
                tape = session.tape(resolve(session))
            except (Refused, PredictionError, UncountedError):
                raise
            except Exception as error:
                traceback.print_exc()
                raise Refused(_sentence(error)) from None
            if tape is None:
                raise PredictionError(f"the memory meter of {self._device} tells no lifetimes: use --device cpu")
            return tape

        return take

    def _built(self, sizes: Sizes) -> Workload:
        try:
            return self._build(sizes)
        except PlacementError:
            raise
        except Exception as error:
            traceback.print_exc()
            raise Refused(_sentence(error)) from None


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())[:300]
    return text if isinstance(error, ModelError | PlacementError) else f"{type(error).__name__}: {text}"
