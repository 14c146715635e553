"""Predicted peaks against the same steps, run: at a batch eight times the largest that the prediction ran.

    python benchmarks/predicted.py [--only 'transformers.*'] [--out results/reference/predicted-cpu.csv]

Networks are the reference models and, where their libraries are installed, those of the zoo; a batch of theirs is made
larger by repeating its samples. Each network is tried under `none`, `each`, `nested:2` and a plan. Rows are written as
they come, and a network that has rows is not run again.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "bench")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch  # noqa: E402
from tests.zoo.catalogue import NETWORKS  # noqa: E402

from rematbench.measuring.session import Session  # noqa: E402
from rematbench.placement.goal import Goal  # noqa: E402
from rematbench.placement.placement import Placement  # noqa: E402
from rematbench.placement.registry import parse_strategy  # noqa: E402
from rematbench.predicting.interpolant import Sizes  # noqa: E402
from rematbench.predicting.planning import PredictedPlanner  # noqa: E402
from rematbench.predicting.prediction import Predictor, case_of  # noqa: E402
from rematbench.predicting.search import Predicted, peak_bytes  # noqa: E402
from rematbench.suite.suite import Device, load_suite  # noqa: E402
from rematbench.torch_internals import pytree  # noqa: E402
from rematbench.workload.building import build, unpacked  # noqa: E402
from rematbench.workload.step import Workload  # noqa: E402

CPU = torch.device("cpu")
SHARE = 1 / 8
PLACEMENTS = ("none", "each", "nested:2", "plan")
FIELDS = (
    "network",
    "placement",
    "at",
    "runs",
    "largest",
    "checked_at",
    "predicted_bytes",
    "low_bytes",
    "high_bytes",
    "measured_bytes",
    "off_percent",
    "predict_s",
    "step_s",
    "message",
    "commit",
)
Build = Callable[[Sizes], Workload]


def reference() -> Iterator[tuple[str, Build, int]]:
    """Yield the reference models, each with a batch that takes a second or so."""
    for entry in load_suite("default").models:
        ref = entry.ref(ROOT, Device(name="cpu"))
        usual = int(ref.arguments.get("batch", 8))

        def made(sizes: Sizes, ref: Any = ref) -> Workload:
            return build(ref.model_copy(update={"arguments": ref.arguments | dict(sizes)}), CPU, seed=0)

        yield entry.name, made, max(128, usual)


def zoo() -> Iterator[tuple[str, Build, int]]:
    """Yield the networks of the zoo whose library is here."""
    for name, network in NETWORKS.items():
        if network.missing:
            continue

        def made(sizes: Sizes, network: Any = network) -> Workload:
            torch.manual_seed(0)
            module, batch, loss_fn = unpacked(network.name, network.factory())
            return Workload(module=module, batch=repeated(batch, sizes["batch"]), loss_fn=loss_fn)

        yield name, made, 128


def repeated(batch: Any, count: int) -> Any:
    """Return a batch with so many samples: the first ones again and again."""
    tensors = [leaf for leaf in pytree.tree_leaves(batch) if isinstance(leaf, torch.Tensor) and leaf.ndim]
    samples = tensors[0].shape[0]

    def more(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or not leaf.ndim or leaf.shape[0] != samples:
            return leaf
        return leaf.repeat(-(-count // samples), *[1] * (leaf.ndim - 1))[:count].contiguous()

    return pytree.tree_map(more, batch)


def rows_of(name: str, made: Build, batch: int) -> Iterator[dict[str, Any]]:
    """Predict and measure a network under each placement."""
    predictor = Predictor(made, CPU, share=SHARE)
    target = {"batch": batch}
    for placement in PLACEMENTS:
        row: dict[str, Any] = {"network": name, "placement": placement, "at": f"batch={batch}"}
        start = time.process_time()
        try:
            found, resolve = predicted(predictor, placement, target)
            row |= told(found, target) | {"predict_s": round(time.process_time() - start, 2)}
            start = time.process_time()
            session = Session(made(target), CPU)
            row["measured_bytes"] = session.peak_bytes(resolve(session))
            row["step_s"] = round(time.process_time() - start, 2)
            row["off_percent"] = round(100 * (row["predicted_bytes"] / row["measured_bytes"] - 1), 4)
        except Exception as error:  # a row says why
            row["message"] = f"{type(error).__name__}: {error}"[:200]
        gc.collect()
        yield row


def predicted(predictor: Predictor, placement: str, target: Sizes) -> tuple[Predicted, Callable[[Session], Placement]]:
    """Predict a step, and return with it what makes its placement."""
    if placement == "plan":
        planned = PredictedPlanner(predictor, target, CPU).plan(
            Goal(name="plan", minimise="flops", budget_share=0.6, of_step=True)
        )
        return predictor.predicted("plan", lambda _: planned.placement, target), lambda _: planned.placement
    call = parse_strategy(placement)
    resolve = lambda session: call.resolve(session.outline)  # noqa: E731
    return predictor.predicted(placement, resolve, target), resolve


def told(found: Predicted, target: Sizes) -> dict[str, Any]:
    facts = case_of(found, None, target, None).facts
    return {
        "runs": facts.runs,
        "largest": written(facts.largest),
        "checked_at": written(facts.checked_at or {}),
        "predicted_bytes": peak_bytes(found.tape),
        "low_bytes": facts.low_bytes,
        "high_bytes": facts.high_bytes,
        "message": "; ".join(found.notes),
    }


def written(sizes: Mapping[str, int]) -> str:
    return " ".join(f"{name}={size}" for name, size in sizes.items())


def summary(rows: list[dict[str, str]]) -> str:
    """Say how many came out as told."""
    known = [row for row in rows if row["measured_bytes"]]
    exact = sum(row["predicted_bytes"] == row["measured_bytes"] for row in known)
    near = sum(abs(float(row["off_percent"])) <= 1 for row in known)
    said = sum(int(row["low_bytes"]) <= int(row["measured_bytes"]) <= int(row["high_bytes"]) for row in known)
    networks = len({row["network"] for row in known})
    return (
        f"{networks} networks, {len(known)} steps: {exact} to the byte, {near} within 1 %, {said} within what their "
        f"rows said; {len(rows) - len(known)} not told or not run"
    )


def main() -> None:
    """Run what is asked for and has no rows yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", default=[])
    parser.add_argument("--out", type=Path, default=ROOT / "results" / "reference" / "predicted-cpu.csv")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    rows = list(csv.DictReader(arguments.out.open())) if arguments.out.exists() else []
    done = {row["network"] for row in rows}
    for name, made, batch in [*reference(), *zoo()]:
        if name in done or (arguments.only and not any(fnmatch(name, pattern) for pattern in arguments.only)):
            continue
        with Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
            found = [{**dict.fromkeys(FIELDS, ""), **row, "commit": commit} for row in rows_of(name, made, batch)]
        rows += [{field: str(row[field]) for field in FIELDS} for row in found]
        with arguments.out.open("w", newline="") as file:
            writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
        print(name, *(row["off_percent"] if row["measured_bytes"] else row["message"] for row in found), flush=True)
    print(summary(rows))


if __name__ == "__main__":
    main()
