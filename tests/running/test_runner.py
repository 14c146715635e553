"""What the runner makes of what its workers say. The workers are stand-ins, each placement with a fate of its own."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.running.machine import ENVIRONMENT, NAMES, Fate, Machine, row, run, suite

from rematbench.errors import DeviceError, RematbenchError
from rematbench.placement.placement import PLAIN
from rematbench.records.measurement import Status, Timing
from rematbench.records.store import Store
from rematbench.running.malloc import GIVING_BACK, keeping
from rematbench.running.protocol import JobOrder, ProbeOrder, ResidentOrder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.begin(tmp_path / "run", "")


def test_where_nothing_fails_one_worker_does_a_model(store: Store) -> None:
    machine = Machine()
    rows = run(machine, suite("m", "n"), store)
    assert list(rows) == [(model, name) for model in ("m", "n") for name in (PLAIN, *NAMES)]
    assert all(row.status is Status.OK and row.timing for row in rows.values())
    assert [type(order) for order in machine.orders] == [ProbeOrder, JobOrder, JobOrder]
    for order in machine.jobs:
        assert order.measure == order.time == (PLAIN, *NAMES)
        assert order.plain


def test_a_failure_takes_one_placement_out_and_a_fresh_worker_does_the_rest(store: Store) -> None:
    machine = Machine(fates={"each-but-last": "measuring"})
    rows = run(machine, suite(), store)
    assert rows["m", "each-but-last"].status is Status.ERROR
    assert rows["m", "each-but-last"].message == "measuring: went wrong"
    second = machine.jobs[1]
    assert second.measure == ("all", "sqrt")
    assert second.time == (PLAIN, "each", "all", "sqrt")
    assert second.plain


def test_without_a_plain_step_the_others_are_measured_all_the_same(store: Store) -> None:
    machine = Machine(fates={PLAIN: "measuring"})
    rows = run(machine, suite(), store)
    assert rows["m", PLAIN].status is Status.OUT_OF_MEMORY
    assert [order.plain for order in machine.jobs] == [True, False]
    assert machine.jobs[1].measure == NAMES
    assert all(rows["m", name].timing == Timing(step_s=(1.0,), plain_s=()) for name in NAMES)


def test_what_fails_when_timed_keeps_what_was_measured(store: Store) -> None:
    machine = Machine(fates={"sqrt": "timing"})
    rows = run(machine, suite(), store)
    failed = rows["m", "sqrt"]
    assert (failed.status, failed.message, failed.timing) == (Status.TIMEOUT, "timing: too long", None)
    assert failed.memory is not None
    assert machine.jobs[1].measure == ()
    assert machine.jobs[1].time == (PLAIN, *NAMES[:3])


def test_a_plain_step_that_fails_when_timed_leaves_the_others_their_times(store: Store) -> None:
    rows = run(Machine(fates={PLAIN: "timing"}), suite(), store)
    assert rows["m", PLAIN].status is Status.TIMEOUT
    assert all(rows["m", name].timing == Timing(step_s=(1.0,), plain_s=()) for name in NAMES)


def test_a_model_that_cannot_be_built_fails_as_a_whole_and_the_next_is_run(store: Store) -> None:
    machine = Machine(unbuildable=("m",))
    rows = run(machine, suite("m", "n"), store)
    assert {rows["m", name].message for name in (PLAIN, *NAMES)} == {"building: killed"}
    assert all(rows["n", name].status is Status.OK for name in (PLAIN, *NAMES))
    assert len(machine.jobs) == 2


def test_no_rounds_no_times(store: Store) -> None:
    machine = Machine()
    rows = run(machine, suite(rounds=0), store)
    assert machine.jobs[0].time == ()
    assert all(row.status is Status.OK and row.timing is None for row in rows.values())


def test_a_failed_row_says_where_it_was_run(store: Store) -> None:
    rows = run(Machine(unbuildable=("m",)), suite(dtype="bfloat16"), store)
    failed = rows["m", "each"]
    assert (failed.suite, failed.device, failed.dtype, failed.environment) == ("s", "cpu", "bfloat16", ENVIRONMENT)


def test_a_failed_row_is_in_the_dtype_that_its_model_turned_out_to_be_in(store: Store) -> None:
    machine = Machine({"each": "measuring"}, dtype="bfloat16")
    assert {row.dtype for row in run(machine, suite(), store).values()} == {"bfloat16"}


def test_the_row_of_a_model_never_built_gives_way_once_it_is_built(store: Store) -> None:
    rows = run(Machine(unbuildable=("m",)), suite(), store)
    assert {row.dtype for (model, _), row in rows.items() if model == "m"} == {"float32"}
    run(Machine(dtype="bfloat16"), suite(), store)
    assert {(row.dtype, row.status) for row in store.measurements if row.model == "m"} == {("bfloat16", Status.OK)}
    assert Store(store.folder).measurements == store.measurements


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    fates=st.fixed_dictionaries(
        {name: st.sampled_from(["ok", "measuring", "timing", "not a number"]) for name in (PLAIN, *NAMES)}
    )
)
def test_whatever_fails_every_case_is_a_row_with_its_fate(
    tmp_path_factory: pytest.TempPathFactory, fates: dict[str, Fate]
) -> None:
    machine = Machine(fates=fates)
    rows = run(machine, suite(), Store.begin(tmp_path_factory.mktemp("run"), ""))
    assert len(rows) == 1 + len(NAMES)
    for name, fate in fates.items():
        assert (rows["m", name].status is Status.OK) == (fate == "ok")
        assert (rows["m", name].timing is not None) == (fate == "ok")
    failures = sum(fate in ("measuring", "timing") for fate in fates.values())
    assert len(machine.jobs) <= failures + 1


@pytest.mark.parametrize("fate", ["ok", "resident"])
def test_the_resident_set_is_measured_in_a_process_of_its_own(store: Store, fate: Fate) -> None:
    machine = Machine(fates={"each": fate, "all": "measuring"})
    rows = run(machine, suite(resident=True), store)
    orders = [order for order in machine.orders if isinstance(order, ResidentOrder)]
    assert [order.placement for order in orders] == [PLAIN, "each", "each-but-last", "sqrt"]
    for order, variables in zip(machine.orders, machine.variables, strict=True):
        assert variables == (GIVING_BACK if isinstance(order, ResidentOrder) else keeping())
    assert rows["m", "sqrt"].resident_bytes == 7
    assert rows["m", "each"].resident_bytes == (7 if fate == "ok" else None)
    assert rows["m", "each"].status is (Status.OK if fate == "ok" else Status.KILLED)
    assert rows["m", "each"].timing is not None


def test_going_on_does_only_what_is_missing_or_failed(store: Store) -> None:
    run(Machine(fates={"each": "measuring", "all": "timing"}, unbuildable=("n",)), suite("m", "n"), store)
    store.add(row("m", "sqrt"))
    machine = Machine()
    rows = run(machine, suite("m", "n"), Store.resume(store.folder, ""))
    first, second = machine.jobs
    assert first.measure == ("each", "all")
    assert first.time == ("each", "all", "sqrt")
    assert second.measure == second.time == (PLAIN, *NAMES)
    assert all(row.status is Status.OK and row.message == "" and row.timing for row in rows.values())


def test_where_nothing_is_missing_no_worker_is_started_for_a_model(store: Store) -> None:
    run(Machine(), suite(resident=True), store)
    before = (store.folder / "results.csv").read_text()
    machine = Machine()
    run(machine, suite(resident=True), Store.resume(store.folder, ""))
    assert [type(order) for order in machine.orders] == [ProbeOrder]
    assert (store.folder / "results.csv").read_text() == before


def test_environments_are_never_mixed(store: Store) -> None:
    run(Machine(), suite(), store)
    kept = json.loads((store.folder / "environment.json").read_text())
    kept["cpu"]["torch"] = "2.12"
    (store.folder / "environment.json").write_text(json.dumps(kept))
    with pytest.raises(RematbenchError, match=r"another environment \(torch '2.12', now '2.13'\)"):
        run(Machine(), suite(), Store.resume(store.folder, ""))


def test_every_device_is_asked_first_and_has_rows_of_its_own(store: Store) -> None:
    machine = Machine()
    run(machine, suite(devices=["cpu", "cuda:0"]), store)
    assert [type(order) for order in machine.orders] == [ProbeOrder, ProbeOrder, JobOrder, JobOrder]
    assert [(row.device, row.placement) for row in store.measurements] == [
        (device, name) for device in ("cpu", "cuda:0") for name in (PLAIN, *NAMES)
    ]


def test_a_device_whose_worker_dies_is_an_error_of_that_device(store: Store) -> None:
    with pytest.raises(DeviceError, match="device cpu: starting: killed"):
        run(Machine(probe_fails=True), suite(), store)
