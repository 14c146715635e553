"""Verdicts on steps whose difference is known, because it was put there."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from rematbench.measuring.equality import TOLERANCES, Outcome, compare, outcome_of, sharing, unsteadiness
from rematbench.measuring.session import Session
from rematbench.workload.step import Workload, training_step

WEIGHT = torch.tensor([1.0, -2.0, 4.0])
PLAIN = Outcome(
    loss=torch.tensor(3.0),
    gradients={"weight": WEIGHT, "bias": torch.tensor([0.5]), "frozen": None},
    buffers={"mean": torch.tensor([0.25]), "count": torch.tensor(1)},
    random={"cpu": torch.tensor([1, 2], dtype=torch.uint8)},
)


def with_weight(weight: torch.Tensor | None) -> Outcome:
    return replace(PLAIN, gradients={**PLAIN.gradients, "weight": weight})


def test_the_same_is_bitwise_and_names_nothing() -> None:
    equality = compare(PLAIN, PLAIN, with_weight(WEIGHT.clone()))
    assert equality.gradients == "bitwise"
    assert (equality.gradients_max_abs_diff, equality.gradients_worst, equality.buffer) == (0.0, "", "")
    assert (equality.loss, equality.buffers, equality.rng_state) == ("equal", "equal", "equal")


@pytest.mark.parametrize(
    ("noise", "difference", "verdict"),
    [(1e-3, 1e-3, "noise"), (1e-3, 2e-3, "different"), (0.0, 2e-6, "close"), (0.0, 1e-3, "different")],
)
def test_a_difference_is_judged_by_the_noise_then_by_the_tolerance(
    noise: float, difference: float, verdict: str
) -> None:
    equality = compare(PLAIN, with_weight(WEIGHT + noise), with_weight(WEIGHT + difference))
    assert equality.gradients == verdict
    assert equality.gradients_worst == "weight"
    assert equality.gradients_max_abs_diff == pytest.approx(difference, rel=0.1)


def test_a_plain_pair_that_differs_by_a_hundred_is_not_noise_to_judge_by() -> None:
    again = with_weight(WEIGHT + 100)
    assert compare(PLAIN, again, with_weight(WEIGHT + 50)).gradients is None
    assert compare(PLAIN, again, with_weight(WEIGHT)).gradients == "bitwise"
    sentence = unsteadiness(PLAIN, again)
    assert sentence == (
        "two plain steps from the same state differ in the gradient of weight by up to 100; "
        "too far to judge gradients by"
    )
    assert unsteadiness(PLAIN, PLAIN) == ""


def test_noise_that_is_small_is_named_and_judged_by() -> None:
    assert unsteadiness(PLAIN, with_weight(WEIGHT + 1e-3)).endswith("the gradient of weight by up to 0.001")


def test_what_plain_steps_do_not_agree_in_no_placement_is_accused_of() -> None:
    again = replace(
        PLAIN,
        loss=torch.tensor(4.0),
        buffers={"mean": torch.tensor([9.0]), "count": torch.tensor(1)},
        random={"cpu": torch.tensor([9, 9], dtype=torch.uint8)},
    )
    equality = compare(PLAIN, again, again)
    assert (equality.loss, equality.buffers, equality.rng_state, equality.buffer) == (None, None, None, "")
    assert "the loss by 1, buffer mean by up to 8.75, the random state" in unsteadiness(PLAIN, again)
    other = replace(again, buffers={"mean": torch.tensor([8.0]), "count": torch.tensor(2)})
    assert (compare(PLAIN, again, other).buffers, compare(PLAIN, again, other).buffer) == ("different", "count")


def test_noise_in_one_parameter_excuses_no_other() -> None:
    again = replace(PLAIN, gradients={**PLAIN.gradients, "bias": torch.tensor([5.0])})
    assert compare(PLAIN, again, with_weight(WEIGHT + 1e-3)).gradients == "different"


def test_plain_steps_that_are_near_each_other_by_chance_accuse_nobody() -> None:
    """They differ by a hundred in one gradient and by little in the other, which may be chance."""
    again = replace(PLAIN, gradients={**PLAIN.gradients, "weight": WEIGHT + 100, "bias": torch.tensor([0.51])})
    other = replace(PLAIN, gradients={**PLAIN.gradients, "weight": WEIGHT + 50, "bias": torch.tensor([0.7])})
    assert compare(PLAIN, again, other).gradients is None


def test_a_model_that_draws_for_itself_is_not_accused_by_the_luck_of_one_pair() -> None:
    """Two steps in a few come out near each other, and a third further off."""
    draws = iter([0.0, 1.0, 1.01, 3.0, 3.0, 3.0, 2.0])

    class Drawing(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * next(draws)

    module = torch.nn.Sequential(Drawing(4, 4))
    session = Session(Workload(module=module, batch=(torch.ones(2, 4),), loss_fn=torch.sum), torch.device("cpu"))
    session._flops = lambda: None  # type: ignore[method-assign]
    session.keep_plain()
    equality = session._compared(session._outcome())
    assert equality is not None
    assert equality.gradients is None


@pytest.mark.parametrize("dtype", TOLERANCES)
def test_close_is_what_torch_testing_calls_close(dtype: torch.dtype) -> None:
    left = torch.linspace(-3, 3, 50).to(dtype)
    if dtype.is_complex:
        left = (left.to(torch.complex128) * (0.6 + 0.8j)).to(dtype)
    exact = torch.complex128 if dtype.is_complex else torch.float64
    plain = Outcome(loss=left[0], gradients={"w": left}, buffers={}, random={})
    for factor in (0.5, 2.0):
        relative, absolute = TOLERANCES[dtype]
        right = (left.to(exact) + factor * (absolute + relative * left.to(exact).abs())).to(dtype)
        try:
            torch.testing.assert_close(right, left)
            close = True
        except AssertionError:
            close = False
        verdict = compare(plain, plain, replace(plain, gradients={"w": right})).gradients
        assert (verdict in ("close", "bitwise")) == close


def test_complex_gradients_differ_by_their_imaginary_part_too() -> None:
    plain = with_weight(torch.tensor([1 + 2j, 3.0]))
    equality = compare(plain, plain, with_weight(torch.tensor([1 - 2j, 3.0])))
    assert (equality.gradients, equality.gradients_max_abs_diff) == ("different", 4.0)


@pytest.mark.parametrize("lazy", [torch.Tensor.conj, lambda tensor: tensor.conj().imag])
def test_a_conjugate_that_is_not_worked_out_yet_is_compared_as_if_it_were(
    lazy: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    weight = lazy(torch.tensor([1 + 2j, 3.0]))
    equality = compare(with_weight(weight), with_weight(weight), with_weight(weight.resolve_conj().resolve_neg()))
    assert equality.gradients == "bitwise"


def test_a_missing_gradient_is_different_by_all_of_the_other() -> None:
    equality = compare(PLAIN, PLAIN, with_weight(None))
    assert (equality.gradients, equality.gradients_worst, equality.gradients_max_abs_diff) == (
        "different",
        "weight",
        4.0,
    )


def test_nan_equals_the_same_nan_and_is_infinitely_far_from_a_number() -> None:
    nan = with_weight(torch.tensor([1.0, torch.nan, 4.0]))
    assert compare(nan, nan, nan).gradients == "bitwise"
    equality = compare(PLAIN, PLAIN, nan)
    assert (equality.gradients, equality.gradients_max_abs_diff) == ("different", torch.inf)


def test_negative_zero_is_not_bitwise_zero() -> None:
    zero, negative = with_weight(torch.zeros(3)), with_weight(-torch.zeros(3))
    assert compare(zero, zero, negative).gradients == "noise"  # no further than 0.0, but not the same bits


def test_the_first_buffer_that_differs_is_named() -> None:
    other = replace(PLAIN, buffers={"mean": torch.tensor([0.25]), "count": torch.tensor(2)})
    equality = compare(PLAIN, PLAIN, other)
    assert (equality.buffers, equality.buffer, equality.gradients) == ("different", "count", "bitwise")


def test_loss_and_random_state_are_compared_bit_for_bit() -> None:
    other = replace(PLAIN, loss=PLAIN.loss + 1e-6, random={"cpu": torch.tensor([1, 3], dtype=torch.uint8)})
    equality = compare(PLAIN, PLAIN, other)
    assert (equality.loss, equality.rng_state) == ("different", "different")


class Normed(torch.nn.Module):
    """Takes a batch of two, of which only the first wants a gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 2)
        self.norm = torch.nn.BatchNorm1d(2)
        self.mean: torch.Tensor = self.norm.get_buffer("running_mean")

    def forward(self, x: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
        shifted: torch.Tensor = self.norm(self.linear(x)) + shift
        return shifted


def test_an_outcome_is_a_copy_with_the_batch_s_gradient() -> None:
    torch.manual_seed(0)
    module = Normed()
    workload = Workload(module=module, batch=(torch.randn(4, 3, requires_grad=True), torch.randn(1)))
    outcome = outcome_of(workload, training_step(workload), torch.device("cpu"))
    assert set(outcome.gradients) == {"linear.weight", "linear.bias", "norm.weight", "norm.bias", "batch[0]"}
    assert {"norm.running_mean", "norm.running_var", "norm.num_batches_tracked"} <= set(outcome.buffers)
    kept = outcome.buffers["norm.running_mean"].clone()
    training_step(workload)
    assert torch.equal(outcome.buffers["norm.running_mean"], kept)
    assert not torch.equal(module.mean, kept)


@pytest.mark.parametrize("noisy", [1, 2, 4, 12])
def test_noise_from_five_plain_steps_is_known_as_noise(noisy: int) -> None:
    """Gradients that are off by a normal deviate in every step, as where kernels add in no fixed order."""
    generator = torch.Generator().manual_seed(noisy)

    def step() -> Outcome:
        gradients = {f"w{n}": WEIGHT + 1e-4 * torch.randn(3, generator=generator) for n in range(noisy)}
        return replace(PLAIN, gradients={**gradients, "steady": WEIGHT})

    verdicts = []
    for _ in range(100):
        plain, again, *further = (step() for _ in range(5))
        verdicts.append(compare(plain, again, step(), further=further).gradients)
    assert verdicts.count("noise") >= 99 - noisy // 4
    moved = replace(plain, gradients={**plain.gradients, "w0": WEIGHT + 1e-2})
    assert compare(plain, again, moved, further=further).gradients == "different"
    steady = replace(plain, gradients={**plain.gradients, "steady": WEIGHT + 1e-3})
    assert compare(plain, again, steady, further=further).gradients == "different"


def test_what_one_of_five_plain_steps_does_otherwise_no_placement_is_accused_of() -> None:
    odd = replace(
        PLAIN,
        loss=torch.tensor(4.0),
        buffers={"mean": torch.tensor([9.0]), "count": torch.tensor(1)},
        random={"cpu": torch.tensor([9, 9], dtype=torch.uint8)},
    )
    equality = compare(PLAIN, PLAIN, odd, further=[PLAIN, odd, PLAIN])
    assert (equality.loss, equality.buffers, equality.rng_state) == (None, None, None)
    assert "the loss by 1, buffer mean by up to 8.75" in unsteadiness(PLAIN, PLAIN, PLAIN, odd)
    assert unsteadiness(PLAIN, PLAIN, PLAIN, PLAIN) == ""
    far = with_weight(WEIGHT + 100)
    assert compare(PLAIN, PLAIN, with_weight(WEIGHT + 50), further=[far]).gradients is None


def test_what_is_the_same_in_several_steps_is_kept_once() -> None:
    other = replace(with_weight(WEIGHT + 1), buffers={"mean": torch.tensor([0.25]), "count": torch.tensor(2)})
    kept = sharing(PLAIN, other)
    assert kept.gradients["weight"] is other.gradients["weight"]
    assert kept.gradients["bias"] is PLAIN.gradients["bias"]
    assert kept.gradients["frozen"] is None
    assert kept.buffers["mean"] is PLAIN.buffers["mean"]
    assert kept.buffers["count"] is other.buffers["count"]
