"""The zoo is whole, and the networks that need nothing but what is installed anyway build and step alike twice."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.zoo import __main__ as command
from tests.zoo import results
from tests.zoo.catalogue import NETWORKS
from tests.zoo.measuring import BY_HAND, PLANS, ROOT, Found, measure
from tests.zoo.network import KINDS, Network
from tests.zoo.table import best_by_hand, causes, is_too_small, markdown, prediction_error, summary

from rematbench.suite.model_ref import ModelRef
from rematbench.workload.building import build
from rematbench.workload.step import clear_gradients, training_step

CPU = torch.device("cpu")
ALWAYS = [name for name, each in NETWORKS.items() if each.library == "torch" and name != "torch.compiled_blocks"]
"""`compiled_blocks` imports the compiler, which takes longer than all the others."""

SMALL = ["transformers.llama", "transformers.albert", "transformers.t5", "diffusers.dit"]


def losses(network: Network, **arguments: Any) -> list[torch.Tensor]:
    """Of the first step of two networks built alike, by the reference that the command line takes."""
    if network.missing:
        pytest.skip(f"{network.missing} is not installed (the extra `zoo`)")
    found = []
    for _ in range(2):
        workload = build(ModelRef.parse(network.reference, ROOT, network.name, **arguments), CPU, seed=0)
        torch.manual_seed(1)
        found.append(training_step(workload))
        assert any(weight.grad is not None and weight.grad.any() for weight in workload.module.parameters())
        clear_gradients(workload)
    return found


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:DeprecationWarning")  # torch.func imports it
@pytest.mark.parametrize("name", [*ALWAYS, *SMALL])
def test_a_network_steps_alike_twice(name: str) -> None:
    first, second = losses(NETWORKS[name])
    assert first.isfinite()
    assert torch.equal(first, second)


@pytest.mark.parametrize("name", [name for name in SMALL if NETWORKS[name].own_call])
def test_a_librarys_own_checkpoints_leave_the_loss(name: str) -> None:
    assert torch.equal(losses(NETWORKS[name], own_checkpoints=True)[0], losses(NETWORKS[name])[0])


def test_there_are_as_many_of_each_as_the_table_needs() -> None:
    libraries = Counter(each.library for each in NETWORKS.values())
    assert len(NETWORKS) >= 80
    assert min(libraries[name] for name in ("torchvision", "timm", "transformers")) >= 15
    assert libraries["diffusers"] + libraries["peft"] >= 8
    assert libraries["torch"] + libraries["torch_geometric"] >= 10


def test_every_kind_has_a_network() -> None:
    assert {kind for each in NETWORKS.values() for kind in each.kinds} == set(KINDS)


def row(network: str, cells: dict[str, Any]) -> dict[str, Any]:
    return (
        dict.fromkeys(results.COLUMNS)
        | {"network": network, "library": "torch", "kinds": "tuples", "status": "ok"}
        | cells
    )


PLAIN = {"plain_peak_bytes": 1000, "plain_step_s": 0.1}
BY_HAND_TWO = {"each_peak_bytes": 500, "each_verdict": "different", "sqrt_peak_bytes": 600, "sqrt_verdict": "bitwise"}
LEAST = {"least_peak_bytes": 450, "least_predicted_bytes": 450, "least_verdict": "bitwise", "least_regions": "=x"}
AT_60 = {"plan60_peak_bytes": 500, "plan60_predicted_bytes": 520, "plan60_verdict": "bitwise, buffers differ"}
PLANNED = row("torch.flow", PLAIN | BY_HAND_TWO | LEAST | AT_60 | {"plan_s": 2.0})
REFUSED = row("torch.a", PLAIN | {"least_message": "ValueError: blocks.3 has 2 of 5"})
TOO_SMALL = PLANNED | {"network": "torch.b", "least_peak_bytes": 700, "sqrt_peak_bytes": 800}
TOO_SMALL |= {"plan60_message": "plan:60%/step: no placement fits", "plan60_peak_bytes": None}


def test_rows_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    results.write(tmp_path / "zoo.csv", [PLANNED, REFUSED])
    assert results.read(tmp_path / "zoo.csv") == {"torch.flow": PLANNED, "torch.a": REFUSED}
    with (tmp_path / "zoo.csv").open() as lines:
        assert next(csv.reader(lines)) == list(results.COLUMNS)


def test_a_placement_that_changes_gradients_is_not_the_best() -> None:
    assert best_by_hand(PLANNED) == ("sqrt", 600)
    assert best_by_hand(REFUSED) is None


def test_the_summary_counts_what_the_rows_say() -> None:
    told = {what: found for what, found, _ in summary([PLANNED, REFUSED, TOO_SMALL])}
    assert told["with a plan"] == "2 of 3 (67 %)"
    assert told["with a plan at 60 %, or rightly told that nothing fits"] == "2 of 3 (67 %)"
    assert told["least peak of a plan over the best by hand, median"] == f"{(450 / 600 + 700 / 800) / 2:.3f}"
    assert told["worst prediction"] == "35.7 %"
    assert told["`sqrt` applies"] == "2 of 3 (67 %)"
    assert prediction_error(PLANNED, "plan60") == pytest.approx(0.04)


def test_a_refusal_is_right_only_where_nothing_by_hand_fits_either() -> None:
    assert is_too_small(TOO_SMALL, "plan60")
    assert not is_too_small(TOO_SMALL | {"each_peak_bytes": 550, "each_verdict": "bitwise"}, "plan60")


def test_failures_of_one_cause_stand_together_whatever_they_name() -> None:
    other = REFUSED | {"network": "torch.c", "least_message": "ValueError: layers[7] has 12 of 13"}
    [(_, failed), *_] = causes([REFUSED, other])
    assert [network for network, _, _ in failed] == ["torch.a", "torch.c"]


def test_the_page_names_every_network_and_what_refused_it() -> None:
    page = markdown([PLANNED, REFUSED, TOO_SMALL])
    assert "| `torch.flow` | 0.0 |" in page
    assert "ValueError: blocks.3 has 2 of 5" in page
    assert "**refused**" in page
    assert "too little" in page


def test_what_is_measured_of_a_network_is_what_the_columns_say(tmp_path: Path) -> None:
    """But for the plans; what is known so far is in a file the moment it is known."""
    found = Found(tmp_path / "found.json")
    measure(NETWORKS["torch.conv_silu"], found, quick=True)
    assert found.cells == json.loads((tmp_path / "found.json").read_text())
    assert found.cells["plain_peak_bytes"] > 2**20
    assert all(found.cells.get(f"{name}_peak_bytes") or found.cells[f"{name}_message"] for name in BY_HAND)
    assert not any(f"{prefix}_peak_bytes" in found.cells for prefix in PLANS)
    assert set(found.cells) <= set(results.COLUMNS)


def test_a_network_is_known_at_the_commit_that_it_was_measured_at() -> None:
    known = row("torch.flow", {"commit": "0123", "plain_peak_bytes": 1})
    assert command.is_known(known, "0123", quick=True)
    assert not command.is_known(known, "0123", quick=False)
    assert command.is_known(known | {"plan_s": 1.0}, "0123", quick=False)
    assert not command.is_known(known, "4567", quick=True)
    assert not command.is_known(known | {"commit": "0123+"}, "0123+", quick=True)


def test_a_process_that_does_not_end_is_a_row_that_says_so(tmp_path: Path) -> None:
    limits = command.Limits(seconds=0.05, memory_gib=8.0)
    found = command.in_a_process(NETWORKS["torch.flow"], tmp_path, limits, quick=True)
    assert found == {"status": "timeout", "message": "not done after 0.05 s"}
