"""Runs made by hand for the tests of reports: every number in them is known, none takes a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.records.making import CPU, MIB, equality, measurement, memory, timing

from rematbench.placement.placement import Placement, Region
from rematbench.records.measurement import Measurement, Skip, Structure
from rematbench.records.store import Store
from rematbench.traces.timeline import Share, Timeline

BLOCKS = ("blocks.0", "blocks.1", "blocks.2", "blocks.3")
EVIL = "<img src=x onerror=alert(1)>"
STRUCTURE = Structure(blocks=BLOCKS, skips=(Skip(source="blocks.0", target="blocks.3", bytes=MIB, shape=(2, 3)),))


def case(placement: str, peak_mib: int, ratio: float | None, *paths: str, **values: Any) -> Measurement:
    """Return a full row: the peak is held half by `blocks.0`, half by transients, and the timeline reaches it."""
    peak = peak_mib * MIB
    shares = (Share(kind="kept", block="blocks.0", bytes=peak // 2), Share(kind="transient", block="", bytes=peak // 2))
    held = dict.fromkeys(BLOCKS, peak // 8)
    timeline = Timeline(
        time_s=(0.0, 0.001, 0.002, 0.003, 0.004),
        live_bytes=(0, peak // 2, peak, peak // 4, 0),
        phases={"forward": (0.0, 0.0015), "backward": (0.0015, 0.004)},
        recomputed=(("blocks.1", 0.0021, 0.0025),) if paths else (),
    )
    usual: dict[str, Any] = {
        "memory": memory(peak, held=peak // 2, static_bytes=3 * MIB, at_peak=shares, held_by_block=held),
        "equality": equality(),
        "flops": {"forward": 10**9, "total": 3 * 10**9, "recompute": len(paths) * 10**8, "uncounted_ops": ()},
        "timing": timing(ratio) if ratio is not None else None,
        "timeline": timeline,
        "regions": Placement(name=placement, regions=tuple(Region(path=path) for path in paths)),
        "structure": STRUCTURE if placement == "none" else None,
        "environment": CPU,
    }
    return measurement(placement, **(usual | values))


def toy(**values: Any) -> list[Measurement]:
    """Return one model: `half` is cheapest within 60 % of none's peak, `least` dearer, `bad` is beaten."""
    return [
        case("none", 100, 1.0, **values),
        case("half", 58, 1.2, "blocks[0:2]", **values),
        case("least", 30, 1.5, "blocks[0:4]", "blocks[0:2]", **values),
        case("bad", 110, 1.4, "blocks[3]", **({"equality": equality(buffers="different")} | values)),
        case("cheat", 20, 1.01, "blocks[1]", **({"equality": equality("different")} | values)),
        measurement("huge", status="out_of_memory", message="allocating 9 GiB", **values),
    ]


def stored(folder: Path, cases: Sequence[Measurement]) -> Path:
    """Write a run's folder as a run does."""
    store = Store.begin(folder, "")
    for one in cases:
        store.add(one)
    return folder
