"""What a worker says of its stages: that one begins, that it is over, and which placement failed in it."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rematbench.errors import PlacementError, RematbenchError
from rematbench.measuring.cpu_meter import UncountedError
from rematbench.predicting.search import PredictionError
from rematbench.record import Record
from rematbench.records.measurement import Status
from rematbench.running.protocol import Began, Ended, Failed, Stage
from rematbench.workload.devices import is_out_of_memory

Say = Callable[[Record], None]


class Stopped(Exception):
    """A placement failed and has been reported: nothing more can be trusted in this process."""


@contextmanager
def staged(say: Say, placement: str, stage: Stage) -> Iterator[None]:
    """Say what is being done, and when it is over; report what it raises as the placement's failure and stop."""
    say(Began(placement=placement, stage=stage))
    try:
        yield
    except RematbenchError as error:
        if not isinstance(error, PlacementError | PredictionError | UncountedError):
            raise
        _fail(say, placement, stage, error)
    except Exception as error:
        _fail(say, placement, stage, error)
    say(Ended())


def _fail(say: Say, placement: str, stage: Stage, error: Exception) -> None:
    traceback.print_exc()
    status = Status.OUT_OF_MEMORY if is_out_of_memory(error) else Status.ERROR
    say(Failed(placement=placement, status=status, message=f"{stage}: {one_line(error)}"))
    raise Stopped from error


def one_line(error: BaseException) -> str:
    """Return an error as one line that any encoding of Unicode can carry."""
    notes = getattr(error, "__notes__", ())
    text = " ".join(" ".join([str(error), *notes]).split()).encode(errors="replace").decode()
    kind = type(error).__name__
    return text if isinstance(error, RematbenchError) else f"{kind}: {text}"[:500] if text else kind
