"""Predictions of steps that are written by hand: what is run, when it is believed, and what is said where it is not."""

from collections.abc import Callable, Mapping

import pytest

from rematbench.predicting.search import Limits, PredictionError, Refused, Take, peak_bytes, predict, static_bytes
from rematbench.traces.tape import NEVER, Label, Tape

ROOMY = Limits(bytes=2**40, flops=2**60)


def step(lives: Mapping[str, int], static: int = 4, flops: int = 0) -> Tape:
    """A step that allocates some pieces, one after the other, and frees them at its end."""
    labels = [Label("static", "weight"), *(Label("allocate", name, "forward") for name in lives)]
    labels += [Label("free", name, "backward") for name in lives] + [Label("flops", "mm", "forward")]
    values = [static, *lives.values(), *(-size for size in lives.values()), flops]
    ends = [NEVER] * (1 + len(lives)) + list(range(1, 1 + len(lives))) + [NEVER]
    return Tape(labels=tuple(labels), values=tuple(values), ends=tuple(ends), times=(0,) * len(labels))


def taking(
    make: Callable[[Mapping[str, int]], Tape],
) -> tuple[Take, list[dict[str, int]]]:
    runs: list[dict[str, int]] = []

    def take(sizes: Mapping[str, int]) -> Tape:
        tape = make(sizes)
        runs.append(dict(sizes))
        return tape

    return take, runs


def test_one_size_takes_four_small_runs() -> None:
    take, runs = taking(lambda sizes: step({"a": 12 * sizes["batch"], "b": sizes["batch"] ** 2 + 5}))
    found = predict(take, {"batch": 4096}, ROOMY)
    assert found.is_exact
    assert peak_bytes(found.tape) == 12 * 4096 + 4096**2 + 5
    assert static_bytes(found.tape) == 4
    assert [run["batch"] for run in runs[:3]] == [32, 48, 64]
    assert runs[3:] == [found.checked_at] == [{"batch": 2048}]


def test_products_of_sizes_need_no_grid() -> None:
    take, runs = taking(lambda sizes: step({"a": 4 * sizes["batch"] * sizes["length"] ** 2, "b": sizes["width"] ** 2}))
    found = predict(take, {"batch": 64, "length": 512, "width": 768}, ROOMY)
    assert found.is_exact
    assert peak_bytes(found.tape) == 4 * 64 * 512**2 + 768**2
    assert len(runs) == 1 + 3 * 2 + 2


def test_what_is_no_product_is_interpolated_on_a_grid() -> None:
    take, runs = taking(lambda sizes: step({"a": 4 * sizes["batch"] * sizes["length"] + 7 * sizes["length"] ** 2}))
    found = predict(take, {"batch": 64, "length": 512}, ROOMY)
    assert found.is_exact
    assert peak_bytes(found.tape) == 4 * 64 * 512 + 7 * 512**2
    assert len(runs) == 1 + 2 * 2 + 2 + 1  # lines, both checks, and (1, 2) of the grid


def test_a_size_that_the_model_refuses_leads_to_larger_ones() -> None:
    def make(sizes: Mapping[str, int]) -> Tape:
        if sizes["width"] % 12:
            raise Refused("12 heads")
        return step({"a": sizes["width"] ** 2})

    take, runs = taking(make)
    found = predict(take, {"width": 768}, ROOMY)
    assert peak_bytes(found.tape) == 768**2
    assert found.is_exact
    assert all(run["width"] % 12 == 0 for run in runs)


def test_a_model_that_refuses_every_size_says_so_in_its_words() -> None:
    def take(sizes: Mapping[str, int]) -> Tape:
        raise Refused(f"no such thing as {sizes}")

    with pytest.raises(PredictionError, match="no such thing"):
        predict(take, {"width": 768}, ROOMY)


def test_a_kernel_that_takes_more_from_some_size_on_is_found_by_the_check_and_told_from_beyond() -> None:
    take, _ = taking(lambda sizes: step({"a": 8 * sizes["batch"], "scratch": 1000 if sizes["batch"] >= 100 else 10}))
    found = predict(take, {"batch": 4096}, ROOMY)
    assert found.is_exact
    assert peak_bytes(found.tape) == 8 * 4096 + 1000


def test_what_nothing_small_tells_is_a_range_that_names_the_module() -> None:
    take, runs = taking(lambda sizes: step({"a": 800 * sizes["batch"], "odd": pow(sizes["batch"], 3, 1009)}))
    limits = Limits(bytes=800 * 600, flops=2**60)
    found = predict(take, {"batch": 4099}, limits)
    assert not found.is_exact
    assert found.broken == ("odd",)
    assert abs(peak_bytes(found.tape) - (800 * 4099 + pow(4099, 3, 1009))) <= found.reach * peak_bytes(found.tape)
    assert all(800 * run["batch"] <= limits.bytes for run in runs)


def test_a_small_step_that_nothing_smaller_tells_is_run_after_all() -> None:
    take, runs = taking(lambda sizes: step({"odd": 1 + pow(sizes["batch"], 3, 1009)}))
    found = predict(take, {"batch": 4099}, ROOMY)
    assert peak_bytes(found.tape) == 1 + pow(4099, 3, 1009)
    assert found.checked_at == runs[-1] == {"batch": 4099}
    assert found.notes


def test_no_run_is_larger_than_the_limits() -> None:
    take, runs = taking(lambda sizes: step({"a": 100 * sizes["batch"]}, flops=sizes["batch"] ** 2))
    found = predict(take, {"batch": 2**20}, Limits(bytes=10**6, flops=10**7))
    assert found.is_exact
    assert max(run["batch"] for run in runs) <= 3200
    assert peak_bytes(found.tape) == 100 * 2**20


def test_a_size_that_changes_nothing_is_said() -> None:
    take, _ = taking(lambda sizes: step({"a": 100 * sizes["batch"]}))
    found = predict(take, {"batch": 64, "length": 64}, ROOMY)
    assert any("length" in note for note in found.notes)


def test_a_small_target_is_run_itself() -> None:
    take, runs = taking(lambda sizes: step({"a": 100 * sizes["batch"]}))
    found = predict(take, {"batch": 4}, ROOMY)
    assert (peak_bytes(found.tape), runs) == (400, [{"batch": 4}])


def test_blocks_that_repeat_are_told_from_three_depths() -> None:
    def make(sizes: Mapping[str, int]) -> Tape:
        return step({f"blocks.{block}": 8 * sizes["batch"] for block in range(sizes["depth"])})

    take, runs = taking(make)
    found = predict(take, {"batch": 64, "depth": 100}, ROOMY)
    assert found.is_exact
    assert found.depths == ("depth",)
    assert peak_bytes(found.tape) == 100 * 8 * 64
    assert max(run["depth"] for run in runs) == 4 * min(run["depth"] for run in runs) // 2


def test_a_depth_that_does_not_repeat_is_run_as_it_is_with_the_rest_small() -> None:
    def make(sizes: Mapping[str, int]) -> Tape:
        blocks = range(sizes["depth"])
        return step({f"blocks.{block}": (1 + block * block % 7) * sizes["batch"] for block in blocks})

    take, runs = taking(make)
    found = predict(take, {"batch": 64, "depth": 30}, ROOMY)
    assert found.is_exact
    assert peak_bytes(found.tape) == sum((1 + block * block % 7) * 64 for block in range(30))
    assert not found.depths
    assert [run for run in runs if run["depth"] == 30 and run["batch"] < 64]
