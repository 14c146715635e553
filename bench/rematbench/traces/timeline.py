"""What a replay of a step's allocations says for people: what the peak is made of, and live bytes over time."""

from __future__ import annotations

from typing import Literal

from rematbench.record import Finite, Record, Whole

Phase = Literal["forward", "backward", "optimizer"]
Kind = Literal["kept", "recomputed", "gradients", "transient", "optimizer"]

LOSS = "(loss)"
"""Stands for a module's path where something was allocated outside all modules: by the loss, or by backward."""


class Share(Record):
    """A part of what is live at the peak.

    Attributes:
        kind: `kept` since the forward for backward; `recomputed` by a region in backward; `gradients` of parameters;
            `transient`, freed before its phase ends; `optimizer`, allocated in its step.
        block: path of the module that allocated it; `""` is the model itself, `(loss)` nothing inside it.
    """

    kind: Kind
    block: str
    bytes: Whole


class Timeline(Record):
    """Live bytes over one step above its start, thinned to the least and greatest of short stretches.

    Attributes:
        time_s: seconds from the start of forward, under the meter; not those of a timed step.
        live_bytes: the sum right after each of these times; its greatest is the peak.
        phases: start and end of each phase.
        recomputed: block, start and end of each call in backward.
    """

    time_s: tuple[Finite, ...]
    live_bytes: tuple[Whole, ...]
    phases: dict[Phase, tuple[Finite, Finite]]
    recomputed: tuple[tuple[str, Finite, Finite], ...] = ()
