"""Peaks and verdicts against independent ones: a counter of the C library's allocations, and checkpoints by hand.

All is measured in one process, beneath whose torch `counted/counter.c` is preloaded; `counted/child.py` says how.
Models of transformers and diffusers are among them when asked for:

    REMATBENCH_COUNT_LIBRARIES=1 python -m pytest -q tests/measuring/test_counted_by_hand.py
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.measuring.counted.counter import compiled, compiler

ROOT = Path(__file__).parents[2]
HAS_COUNTER = sys.platform == "linux" and compiler() is not None
REFUSED = {"WritesToItsInput", "ChangesItsShapes"}
THREADED = {"RunsInAThread"}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    preloaded = {"LD_PRELOAD": str(compiled(tmp_path_factory.mktemp("counter")))} if HAS_COUNTER else {}
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.measuring.counted.child"],
        cwd=ROOT,
        env=os.environ | preloaded | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


needs_counter = pytest.mark.skipif(not HAS_COUNTER, reason="needs a C compiler and Linux, for LD_PRELOAD")


@needs_counter
def test_peaks_of_operators_are_those_that_the_c_library_counts(found: dict[str, Any]) -> None:
    """To the byte, plain and in a region, and without what libraries below torch take for themselves."""
    assert len(found["operators"]) >= 40
    steps = {(name, key): step for name, both in found["operators"].items() for key, step in both.items()}
    assert not {key: step for key, step in steps.items() if step["tool"] != step["counted"]}
    assert all(step["counted"] > 0 for step in steps.values())


@needs_counter
def test_peaks_of_models_are_those_that_the_c_library_counts_under_checkpoints_by_hand(found: dict[str, Any]) -> None:
    models = {name: model for name, model in found["models"].items() if "tool" in model["regions"]}
    assert len(models) >= 40
    steps = {(name, key): model[key] for name, model in models.items() for key in ("plain", "regions")}
    assert not {key: step for key, step in steps.items() if step["tool"] != step["counted"]}
    assert all(step["repeatable"] for step in steps.values())


def test_what_cannot_be_counted_or_checkpointed_is_refused_by_hand_too(found: dict[str, Any]) -> None:
    models = found["models"]
    assert {name for name, model in models.items() if "refused" in model["regions"]} == REFUSED | THREADED
    assert {name for name, model in models.items() if "refused" in model["plain"]} == THREADED
    assert {name for name, model in models.items() if "refused" in model["by hand"]} == REFUSED
    assert all("in other threads" in models[name]["plain"]["refused"] for name in THREADED)


def test_verdicts_are_those_of_checkpoints_by_hand(found: dict[str, Any]) -> None:
    models = {name: model for name, model in found["models"].items() if "tool" in model["regions"]}
    assert len(models) >= 40
    wrong = {}
    for name, model in models.items():
        by_hand, by_tool = model["by hand"], model["by the tool"]
        for key, verdict in by_hand.items():
            equal = "bitwise" if key == "gradients" else "equal"
            allowed: dict[str, set[str | None]] = {
                "equal": {equal},
                "different": {"different", "close"},
                "unsteady": {equal, None, "noise"},
            }
            if by_tool[key] not in allowed[verdict]:
                wrong[name, key] = verdict, by_tool[key]
    assert not wrong
    changed = {name for name, model in models.items() if model["by hand"]["gradients"] == "different"}
    assert {
        "DrawsFromItsOwnGenerator",
        "DrawsFromPython",
        "DrawsFromNumPy",
        "RecallsItsCalls",
        "CountsInPlace",
    } <= changed
    buffers = {name for name, model in models.items() if model["by hand"]["buffers"] == "different"}
    assert {"NormalisesBatches", "residual.conv_bn", "intermediate.hooked"} <= buffers
    assert {name for name, model in models.items() if model["by hand"]["gradients"] == "unsteady"} == {
        "NeverDoesTheSame"
    }
