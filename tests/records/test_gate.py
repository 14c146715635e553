"""The gate on rows made up for it: every mark, every margin, every exit code."""

import json
import re
from dataclasses import replace
from itertools import product
from typing import Any
from xml.etree import ElementTree

import pytest
from tests.records.making import CPU, equality, measurement, memory, run_of, timing

from rematbench.errors import RematbenchError
from rematbench.records.gate import Margins, Mark, exit_code, judge
from rematbench.records.measurement import Flops, Measurement, Timing
from rematbench.records.run import Run
from rematbench.reporting.adapters import junit, smaller_is_better
from rematbench.units import parse_percent


def case(placement: str = "each", peak: int = 1000, held: int = 400, **values: Any) -> Measurement:
    usual = {
        "memory": memory(peak, held),
        "equality": equality(),
        "flops": Flops(forward=100, total=400, recompute=100, uncounted_ops=()),
        "timing": timing(1.2),
        "environment": CPU,
    }
    return measurement(placement, **usual | values)


def verdict(now: Measurement, before: Measurement, **margins: Any) -> tuple[list[Mark], str, int]:
    findings = judge(run_of(now), run_of(before), Margins(**margins))
    return [finding.mark for finding in findings], " ".join(map(str, findings)), exit_code(findings)


def flops(recompute: int) -> Flops:
    return Flops(forward=100, total=300 + recompute, recompute=recompute, uncounted_ops=())


def test_the_same_is_fine() -> None:
    assert verdict(case(), case()) == ([], "", 0)


def test_a_byte_more_is_a_regression_that_says_what_grew_and_when() -> None:
    marks, text, code = verdict(case(peak=1001, held=401), case())
    assert (marks, code) == ([Mark.REGRESSION], 1)
    assert "toy · each peaks at 1,000 → 1,001 bytes (+1 B, +0.1 %), in backward: held after forward +1 B" in text


def test_what_comes_and_goes_is_told_from_what_is_held() -> None:
    _, text, _ = verdict(case(peak=1500, held=300), case())
    assert "held after forward -100 B, transient +600 B" in text


def test_the_blocks_that_hold_more_are_named_the_worst_first() -> None:
    before = {"blocks.0": 100, "blocks.1": 100, "blocks.2": 50, "head": 10, "gone": 40}
    now = {"blocks.0": 101, "blocks.1": 400, "blocks.2": 60, "head": 10, "": 5, "blocks.3": 3}
    grown = case(peak=1500, memory=memory(1500, 700, held_by_block=now))
    _, text, _ = verdict(grown, case(memory=memory(1000, 400, held_by_block=before)))
    assert text.endswith("; more is held by blocks.1 +300 B, blocks.2 +10 B, the model itself +5 B, 2 more +4 B")


@pytest.mark.parametrize("held", [None, {}, {"blocks.0": 1}])
def test_without_blocks_on_both_sides_none_is_named(held: dict[str, int] | None) -> None:
    grown = case(memory=memory(1500, 700, held_by_block=held))
    assert "more is held by" not in verdict(grown, case())[1]


GROWN = case(peak=1100)


@pytest.mark.parametrize(
    ("before", "margins", "code"),
    [
        (run_of(case()), {"memory": 0.10}, 0),
        (run_of(case()), {"memory": 0.09}, 1),
        (run_of(case(), margin="10%"), {}, 0),
        (run_of(case(), margin="9%"), {"memory": 0.5}, 1),
        (run_of(case(), margin="1%"), {"allow": {"toy/each": 0.1}}, 0),
    ],
    ids=["at the margin", "beyond it", "the row's own", "the row's own is over the option", "allow is over both"],
)
def test_margins(before: Run, margins: dict[str, Any], code: int) -> None:
    assert exit_code(judge(run_of(GROWN), before, Margins(**margins))) == code


def test_static_bytes_are_held_like_the_peak() -> None:
    """A frozen buffer is in no peak above the start of the step, and takes its room all the same."""
    grown = case(memory=memory(1000, 400, static_bytes=1100))
    before = case(memory=memory(1000, 400, static_bytes=1000))
    marks, text, code = verdict(grown, before)
    assert (marks, code) == ([Mark.REGRESSION], 1)
    assert "toy · each starts from 1,000 → 1,100 bytes (+100 B, +10 %): parameters, buffers, batch or" in text
    assert verdict(grown, before, memory=0.1) == ([], "", 0)
    assert verdict(before, grown)[0] == [Mark.WIN]


def of_cells(run: Run, **cells: Any) -> Run:
    """Return a run whose rows have other cells, as a file can have them."""
    return Run("run", [replace(row, cells={**row.cells, **cells}) for row in run.rows.values()])


SOUND = run_of(case())
VERDICTS = ("gradients", "loss", "buffers", "rng_state")


@pytest.mark.parametrize("found", [None, "", "maybe"])
@pytest.mark.parametrize("column", VERDICTS)
def test_a_verdict_that_is_none_cannot_be_judged(column: str, found: str | None) -> None:
    for now, before in ((of_cells(SOUND, **{column: found}), SOUND), (SOUND, of_cells(SOUND, **{column: found}))):
        findings = judge(now, before, Margins())
        assert [finding.mark for finding in findings] == [Mark.UNJUDGED]
        assert column in findings[0].text
        assert exit_code(findings) == 3


FIGURES = ("static_bytes", "peak_bytes", "held_bytes", "forward_flops", "recompute_flops", "step_ratio_low")
NO_FIGURES = (-1, float("inf"), float("-inf"), float("nan"), 10**400)


@pytest.mark.parametrize(
    ("column", "figure"), [pair for pair in product(FIGURES, NO_FIGURES) if pair != ("held_bytes", -1)]
)
def test_a_figure_that_is_none_cannot_be_judged(column: str, figure: float) -> None:
    timed = Margins(memory=0.5, flops=0.5, time=0.5)
    for now, before in ((of_cells(SOUND, **{column: figure}), SOUND), (SOUND, of_cells(SOUND, **{column: figure}))):
        findings = judge(now, before, timed)
        assert [finding.mark for finding in findings] == [Mark.UNJUDGED]
        assert f"has {column} {figure if figure != 10**400 else 'of 2**1328 and more'}" in findings[0].text
        assert exit_code(findings) == 3


def test_held_bytes_may_be_below_zero() -> None:
    """Forward may free more of what was there before the step than it keeps."""
    below = of_cells(SOUND, held_bytes=-1)
    assert judge(below, below, Margins()) == []


@pytest.mark.parametrize("column", ["static_bytes", "peak_bytes"])
def test_bytes_that_are_absent_cannot_be_judged(column: str) -> None:
    assert exit_code(judge(of_cells(SOUND, **{column: None}), SOUND, Margins())) == 3
    assert exit_code(judge(SOUND, of_cells(SOUND, **{column: None}), Margins())) == 3


@pytest.mark.parametrize("margin", ["9" * 400 + "%", "much", "-5%", "nan%", "1e9%", "5", "1000001%"])
def test_a_margin_that_is_none_cannot_be_judged(margin: str) -> None:
    findings = judge(run_of(GROWN), run_of(case(), margin=margin), Margins())
    assert [finding.mark for finding in findings] == [Mark.UNJUDGED]
    assert len(findings[0].text) < 200
    with pytest.raises(RematbenchError, match="percentage"):
        parse_percent(margin)


def test_a_margin_for_a_row_that_is_not_there_is_refused() -> None:
    with pytest.raises(RematbenchError, match="--allow toy/eech: the baseline has no such row"):
        judge(run_of(case()), run_of(case()), Margins(allow={"toy/eech": 0.1}))


def test_wins_are_told_and_fail_only_when_strict() -> None:
    findings = judge(run_of(case(peak=900)), run_of(case()), Margins())
    assert [finding.mark for finding in findings] == [Mark.WIN]
    assert (exit_code(findings), exit_code(findings, strict_wins=True)) == (0, 1)


def test_more_recomputation_is_a_regression_within_its_own_margin() -> None:
    grown = case(flops=flops(150))
    assert verdict(grown, case())[0] == [Mark.REGRESSION]
    assert verdict(grown, case(), flops=0.5) == ([], "", 0)
    assert verdict(case(flops=flops(50)), case())[0] == [Mark.WIN]


@pytest.mark.parametrize(
    ("now", "before"),
    [
        (equality("close", gradients_max_abs_diff=0.1, gradients_worst="w"), equality()),
        (equality("different", gradients_max_abs_diff=0.1, gradients_worst="w"), equality("noise")),
        (equality(buffers="different", buffer="mean"), equality()),
        (equality(loss="different"), equality()),
        (equality(rng_state="different"), equality()),
    ],
)
def test_training_that_changed_is_worst_of_all(now: Any, before: Any) -> None:
    marks, _, code = verdict(case(equality=now, peak=2000), case(equality=before))
    assert (marks, code) == ([Mark.TRAINING, Mark.REGRESSION], 4)
    assert verdict(case(equality=before), case(equality=now))[2] == 0


def test_time_is_judged_on_request_and_by_its_whole_interval() -> None:
    slow = case(timing=timing(1.5))
    assert verdict(slow, case())[2] == 0
    assert verdict(slow, case(), time=0.2)[2] == 1
    assert verdict(slow, case(), time=0.3)[2] == 0
    assert verdict(case(timing=timing(1.5, rounds=3)), case(), time=0.1)[0] == [Mark.UNJUDGED]


@pytest.mark.parametrize(
    ("now", "mark", "says"),
    [
        (run_of(case("none")), Mark.UNJUDGED, "toy · each is in the baseline but was not measured"),
        (run_of(case(status="out_of_memory", message="gone")), Mark.REGRESSION, "runs out of memory: gone"),
        (run_of(case(status="killed", message="by me")), Mark.UNJUDGED, "is killed: by me"),
        (
            run_of(case(environment=CPU.model_copy(update={"torch": "2.12.0+cpu"}))),
            Mark.UNJUDGED,
            "another environment than the baseline (torch 2.13.0, now 2.12.0)",
        ),
    ],
)
def test_what_cannot_be_compared_is_said(now: Run, mark: Mark, says: str) -> None:
    findings = [finding for finding in judge(now, run_of(case()), Margins()) if finding.mark is not Mark.NEW]
    assert [finding.mark for finding in findings] == [mark]
    assert says in str(findings[0])
    assert exit_code(findings) == (1 if mark is Mark.REGRESSION else 3)


def test_neither_threads_nor_host_nor_build_make_another_environment() -> None:
    other = CPU.model_copy(update={"threads": 64, "device_name": "Another", "torch": "2.13.0+cu130"})
    assert verdict(case(environment=other), case()) == ([], "", 0)


def test_a_new_row_is_named_and_fails_nothing() -> None:
    findings = judge(run_of(case(), case("sqrt")), run_of(case()), Margins())
    assert [finding.mark for finding in findings] == [Mark.NEW]
    assert "toy · sqrt is not in the baseline" in str(findings[0])
    assert exit_code(findings) == 0


def test_junit_counts_what_it_holds() -> None:
    run = run_of(case("none"), case(peak=2000), case("sqrt"))
    findings = judge(run, run_of(case("none"), case(), case("all")), Margins())
    suite = ElementTree.fromstring(junit(run, findings))
    assert {name: suite.get(name) for name in ("tests", "failures", "errors")} == {
        "tests": "4",
        "failures": "1",
        "errors": "1",
    }
    failed = [test.get("name") for test in suite.iter("testcase") if test.find("failure") is not None]
    assert failed == ["each"]


def test_the_benchmark_action_gets_bytes_and_flops() -> None:
    entries = json.loads(smaller_is_better(run_of(case())))
    assert [(entry["unit"], entry["value"]) for entry in entries] == [("bytes", 1000), ("FLOP", 100)]
    assert all(re.match("toy/each", entry["name"]) for entry in entries)


def test_a_message_with_colours_is_still_xml() -> None:
    run = run_of(case(status="out_of_memory", message="\x1b[31mgone\x1b[0m"))
    (test,) = ElementTree.fromstring(junit(run, judge(run, run_of(case()), Margins()))).iter("failure")
    assert "gone" in str(test.get("message"))


@pytest.mark.parametrize("character", ["\x00", "\x1b", "\ud800", "\ufffe", "\uffff", "\x0b"])
def test_what_xml_forbids_is_not_in_junit(character: str) -> None:
    run = run_of(case(status="out_of_memory", message=f"a{character}b<&>"), case(f"p{character}"))
    text = junit(run, judge(run, run_of(case()), Margins()))
    suite = ElementTree.fromstring(text.encode())  # half a surrogate pair could not even be encoded
    (failure,) = suite.iter("failure")
    assert "a\ufffdb<&>" in str(failure.get("message"))
    assert [test.get("name") for test in suite.iter("testcase")] == ["each", "p\ufffd"]


def test_a_baseline_is_as_uncertain_as_its_own_interval() -> None:
    wide = Timing(step_s=(1.0, 1.1, 1.2, 1.3, 1.4), plain_s=(1.0,) * 5)  # median 1.2, interval [1.0, 1.4]
    assert verdict(case(timing=timing(1.39)), case(timing=wide), time=0.0)[2] == 0
    assert verdict(case(timing=timing(1.41)), case(timing=wide), time=0.0)[2] == 1


GPU = CPU.model_copy(
    update={
        "torch": "2.11.0+cu130",
        "device_name": "A Card",
        "software": "CUDA 13.0, cuDNN 91002, driver 580.65",
        "allocator": "PYTORCH_ALLOC_CONF=expandable_segments:True",
    }
)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"torch": "2.11.0+cu126"}, "torch 2.11.0+cu126, now 2.11.0+cu130"),
        ({"device_name": "Another"}, "device Another, now A Card"),
        (
            {"software": "CUDA 13.0, cuDNN 91003, driver 580.65"},
            "cuDNN 91003, driver 580.65, now CUDA 13.0, cuDNN 91002",
        ),
        ({"allocator": ""}, "device_allocator , now PYTORCH_ALLOC_CONF=expandable_segments:True"),
    ],
)
def test_on_a_gpu_bytes_of_other_kernels_and_another_allocator_are_not_compared(
    changed: dict[str, str], words: str
) -> None:
    for device in ("cuda:0", "xpu:0"):
        now, before = (
            case(device=device, environment=environment) for environment in (GPU, GPU.model_copy(update=changed))
        )
        marks, text, code = verdict(now, before)
        assert (marks, code) == ([Mark.UNJUDGED], 3)
        assert words in text
        assert verdict(now, now) == ([], "", 0)


def test_a_gpu_s_baseline_from_before_software_was_recorded_is_held_to_what_it_has() -> None:
    before = case(device="cuda:0", environment=GPU.model_copy(update={"software": "", "allocator": ""}))
    assert verdict(case(device="cuda:0", environment=GPU), before) == ([], "", 0)


def test_a_processor_s_allocator_and_build_are_no_part_of_its_bytes() -> None:
    other = CPU.model_copy(update={"torch": f"{CPU.torch}+cu130", "allocator": "MALLOC_ARENA_MAX=1"})
    assert verdict(case(environment=other), case()) == ([], "", 0)
