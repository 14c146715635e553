"""What a worker does with an order, in this process; `test_failures` has the real ones."""

import gc
import io
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from rematbench.errors import DeviceError, ModelError
from rematbench.record import Record
from rematbench.records.measurement import Status
from rematbench.running import worker
from rematbench.running.protocol import (
    MESSAGE,
    Began,
    Failed,
    JobOrder,
    Measured,
    Probed,
    ProbeOrder,
    Resident,
    ResidentOrder,
    Timed,
)
from rematbench.running.staging import Stopped
from rematbench.running.worker import carry_out
from rematbench.suite.suite import Device, Suite

SOURCE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, raised):
        super().__init__()
        self.linear, self.raised, self.steps = nn.Linear(8, 8), raised, 0

    def forward(self, x):
        self.steps += 1
        if self.raised is not None and self.steps > 1:
            raise self.raised
        return torch.tanh(self.linear(x))

def build(depth=3, raised=None):
    return nn.Sequential(*(Block(raised) for _ in range(depth))), (torch.randn(2, 8),)

KINDS = {"oom": torch.OutOfMemoryError, "memory": MemoryError, "os": OSError, "rt": RuntimeError}

def raising(kind, message):
    return build(raised=KINDS[kind](message))

def not_a_number():
    module, batch = build()
    return module, batch, lambda output: output.square().sum() / 0.0

def broken():
    raise ValueError("no model today")

def takes_the_path_away():
    import sys
    sys.path.clear()
    return build()

def wordless():
    return build(raised=MemoryError())
"""
NAMES = ("none", "each", "all")


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    """A worker tells the garbage collector to leave alone what is there; these tests are not over then."""
    path = list(sys.path)
    yield
    gc.unfreeze()
    assert sys.path == path


@pytest.fixture
def job_order(tmp_path: Path) -> Callable[..., JobOrder]:
    (tmp_path / "net.py").write_text(SOURCE)

    def make(
        reference: str = "build",
        measure: tuple[str, ...] = NAMES,
        time: tuple[str, ...] = NAMES,
        plain: bool = True,
        placements: tuple[str, ...] = NAMES,
        **settings: Any,
    ) -> JobOrder:
        suite = Suite.model_validate(
            {
                "name": "s",
                "models": [{"model": f"net.py:{reference}", "name": "m"}],
                "placements": placements,
                "settings": {"rounds": 2, **settings},
            }
        )
        (job,) = suite.jobs(tmp_path, [Device(name="cpu")])
        return JobOrder(job=job, measure=measure, time=time, plain=plain)

    return make


def said(order: Any) -> list[Any]:
    """Carry out an order and return what was said, as the runner reads it, up to a failure."""
    messages: list[Any] = []

    def say(message: Record) -> None:
        messages.append(MESSAGE.validate_json(message.model_dump_json()))

    try:
        carry_out(order, say)
    except Stopped:
        assert isinstance(messages[-1], Failed)
    return messages


def only(kind: type, messages: list[Any]) -> list[Any]:
    return [message for message in messages if isinstance(message, kind)]


def test_a_probe_says_what_the_device_is_and_that_its_meter_works() -> None:
    (probed,) = said(ProbeOrder(device="cpu", threads=None))
    assert isinstance(probed, Probed)
    assert probed.device == Device(name="cpu", capacity_bytes=None)
    assert probed.environment.torch == torch.__version__
    assert probed.environment.threads == torch.get_num_threads()
    assert probed.meter == "meter: 64 MiB asked, 64 MiB seen"


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(DeviceError, match="cuda:99"):
        said(ProbeOrder(device="cuda:99", threads=None))


def test_a_job_is_built_once_and_its_placements_measured_in_turn_and_then_timed(
    job_order: Callable[..., JobOrder],
) -> None:
    messages = said(job_order())
    stages = [(message.placement, message.stage) for message in only(Began, messages)]
    assert stages[:5] == [("", "building"), ("none", "plain step"), *((name, "measuring") for name in NAMES)]
    assert Counter(stages[5:]) == {(name, "timing"): 2 for name in NAMES}
    rows = [message.measurement for message in only(Measured, messages)]
    assert [(row.suite, row.model, row.placement, row.status, row.message) for row in rows] == [
        ("s", "m", name, Status.OK, "") for name in NAMES
    ]
    assert all(row.memory and row.flops and row.equality and row.equality.gradients == "bitwise" for row in rows)
    assert [row.checkpointed_blocks for row in rows] == [0, 3, 3]
    times = {message.placement: message.timing for message in only(Timed, messages)}
    assert list(times) == [*NAMES]
    assert all(len(timing.step_s) == 2 and timing.plain_s == times["none"].step_s for timing in times.values())


def test_what_an_earlier_worker_measured_is_timed_after_a_step_that_is_not_counted(
    job_order: Callable[..., JobOrder],
) -> None:
    messages = said(job_order(measure=("all",), time=("each", "all")))
    stages = Counter(message.placement for message in only(Began, messages) if message.stage == "timing")
    assert stages == {"none": 2, "each": 3, "all": 2}
    times = {message.placement: message.timing for message in only(Timed, messages)}
    assert {name: (len(timing.step_s), len(timing.plain_s)) for name, timing in times.items()} == {
        "each": (2, 2),
        "all": (2, 2),
    }


def test_without_a_plain_step_there_is_nothing_to_compare_with(job_order: Callable[..., JobOrder]) -> None:
    messages = said(job_order(measure=("each",), time=("each",), plain=False))
    assert {message.placement for message in only(Began, messages)} == {"", "each"}
    ((row,), (timed,)) = only(Measured, messages), only(Timed, messages)
    assert row.measurement.equality is None
    assert row.measurement.flops.recompute is None
    assert timed.timing.plain_s == ()


def test_on_an_accelerator_every_placement_takes_a_step_that_is_not_counted(
    job_order: Callable[..., JobOrder], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The memory passes have emptied the cache: the first step would be timed with the driver's allocations in it."""
    monkeypatch.setattr(worker, "is_accelerator", lambda _device: True)
    messages = said(job_order())
    stages = [message.placement for message in only(Began, messages) if message.stage == "timing"]
    assert sorted(stages[: len(NAMES)]) == sorted(NAMES)
    assert Counter(stages) == dict.fromkeys(NAMES, 3)


def test_an_auto_that_finds_no_gpu_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    (probed,) = only(Probed, said(ProbeOrder(device="auto", threads=None)))
    assert probed.device.name == "cpu"
    assert "64 MiB seen; no GPU is used, though torch" in probed.meter
    (probed,) = only(Probed, said(ProbeOrder(device="cpu", threads=None)))
    assert probed.meter == "meter: 64 MiB asked, 64 MiB seen"


def test_a_loss_that_is_no_number_is_said_and_not_timed(job_order: Callable[..., JobOrder]) -> None:
    messages = said(job_order("not_a_number"))
    for message in only(Measured, messages):
        assert message.measurement.status is Status.ERROR
        assert message.measurement.message.startswith("the loss is inf")
        assert message.measurement.equality is None
    assert only(Timed, messages) == []


def test_the_resident_set_is_measured_alone(job_order: Callable[..., JobOrder]) -> None:
    messages = said(ResidentOrder(job=job_order().job, placement="each"))
    assert [(message.placement, message.stage) for message in only(Began, messages)] == [
        ("", "building"),
        ("each", "resident"),
    ]
    assert [message.placement for message in only(Resident, messages)] == ["each"]


@pytest.mark.parametrize(
    ("reference", "status", "message"),
    [
        ("raising?kind=oom&message=gpu", Status.OUT_OF_MEMORY, "OutOfMemoryError: gpu"),
        ("raising?kind=memory&message=host", Status.OUT_OF_MEMORY, "MemoryError: host"),
        ("raising?kind=os&message='[Errno 12] Cannot allocate memory'", Status.OUT_OF_MEMORY, "OSError: [Errno 12]"),
        ("raising?kind=rt&message='CUDA error: out of memory'", Status.OUT_OF_MEMORY, "RuntimeError: CUDA error"),
        ("raising?kind=rt&message='DefaultCPUAllocator: not enough memory'", Status.OUT_OF_MEMORY, "RuntimeError"),
        ("raising?kind=rt&message='a memory of summer'", Status.ERROR, "RuntimeError: a memory of summer"),
        ("raising?kind=os&message='No such file'", Status.ERROR, "OSError: No such file"),
        ('raising?kind=rt&message="two\\nlines, \\u2028 three"', Status.ERROR, "RuntimeError: two lines, three"),
        ("wordless", Status.OUT_OF_MEMORY, "MemoryError"),
    ],
)
def test_what_a_step_raises_is_its_status_and_one_line(
    job_order: Callable[..., JobOrder], reference: str, status: Status, message: str
) -> None:
    *_, failed = said(job_order(reference))
    assert (failed.placement, failed.status) == ("none", status)
    assert failed.message.startswith(f"plain step: {message}")
    assert len(failed.message.splitlines()) == 1


def test_a_message_is_cut_and_can_be_told_in_any_encoding(job_order: Callable[..., JobOrder]) -> None:
    order = job_order()
    arguments = {"kind": "rt", "message": "\udcff" + "é" * 10_000}
    model = order.job.model.model_copy(update={"reference": "net.py:raising", "arguments": arguments})
    *_, failed = said(order.model_copy(update={"job": order.job.model_copy(update={"model": model})}))
    assert failed.message.startswith("plain step: RuntimeError: ?éé")
    assert len(failed.message) < 600


def test_what_building_raises_fails_the_model(job_order: Callable[..., JobOrder]) -> None:
    *_, failed = said(job_order("broken"))
    assert failed == Failed(placement="", status=Status.ERROR, message="building: ValueError: no model today")


def test_a_placement_that_does_not_fit_the_model_fails_alone(job_order: Callable[..., JobOrder]) -> None:
    *_, failed = said(job_order(placements=("each@deep",), measure=("none", "each@deep"), time=()))
    assert (failed.placement, failed.status) == ("each@deep", Status.ERROR)
    assert failed.message.startswith("measuring: each@deep: unknown chain 'deep'")


def test_what_a_strategy_leaves_out_is_said_in_the_row(job_order: Callable[..., JobOrder]) -> None:
    measured = said(job_order(placements=("every:7",), measure=("none", "every:7"), time=()))
    (row,) = [
        each.measurement for each in measured if isinstance(each, Measured) and each.measurement.placement != "none"
    ]
    assert row.message == "the model has only 3 blocks: cut as far as it goes"
    assert row.regions
    assert [region.path for region in row.regions.regions] == ["[0]"]


@pytest.mark.parametrize(
    ("reference", "sentence"),
    [
        ("bild", "unknown attribute 'bild': did you mean 'build'"),
        ("build?dept=3", "build.*: got an unexpected keyword argument 'dept'"),
        ("Block?raised=1", "expected .module, batch"),
    ],
)
def test_a_model_that_cannot_be_made_is_a_usage_error(
    job_order: Callable[..., JobOrder], reference: str, sentence: str
) -> None:
    with pytest.raises(ModelError, match=sentence):
        said(job_order(reference))


def test_a_model_may_do_what_it_likes_to_the_import_path(job_order: Callable[..., JobOrder]) -> None:
    path = list(sys.path)
    messages = said(job_order("takes_the_path_away", rounds=0, time=()))
    sys.path[:] = path
    assert len(only(Measured, messages)) == len(NAMES)


def test_threads_are_those_ordered(job_order: Callable[..., JobOrder]) -> None:
    before = torch.get_num_threads()
    try:
        messages = said(job_order(measure=("none",), time=(), threads=2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    (row,) = only(Measured, messages)
    assert row.measurement.environment.threads == 2


def test_a_failure_leaves_its_traceback_in_the_log(
    job_order: Callable[..., JobOrder], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", log := io.StringIO())
    said(job_order("broken"))
    assert 'raise ValueError("no model today")' in log.getvalue()
