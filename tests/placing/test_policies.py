"""Save policies: what is kept is not computed again, counted by a meter that knows nothing of policies."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from rematbench.errors import PlacementError
from rematbench.measuring.flops import FlopMeter
from rematbench.placing.policies import Policy, load_policy

aten = torch.ops.aten
WEIGHT = torch.randn(6, 6)
CONTRACTIONS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "linear": (lambda x: F.linear(x, WEIGHT, WEIGHT[0]), (5, 6)),
    "linear without a bias": (lambda x: F.linear(x, WEIGHT), (5, 6)),
    "linear on a sequence": (lambda x: F.linear(x, WEIGHT, WEIGHT[0]), (2, 5, 6)),
    "matmul": (lambda x: x @ x.mT, (2, 3, 5, 6)),
    "bmm": (lambda x: torch.bmm(x, x.mT), (2, 5, 6)),
    "baddbmm": (lambda x: torch.baddbmm(x, x, x), (2, 6, 6)),
    "einsum": (lambda x: torch.einsum("bij,bkj->bik", x, x), (2, 5, 6)),
    "conv1d": (lambda x: F.conv1d(x, WEIGHT.reshape(6, 6, 1)), (2, 6, 5)),
    "conv2d in groups": (lambda x: F.conv2d(x, WEIGHT.reshape(6, 1, 2, 3), groups=6), (2, 6, 5, 5)),
    "transposed conv": (lambda x: F.conv_transpose2d(x, WEIGHT.reshape(6, 1, 2, 3)), (2, 6, 5, 5)),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x), (2, 3, 5, 6)),
}


def step_flops(run: Callable[[Tensor], Tensor], shape: tuple[int, ...], policy: Policy | None) -> int:
    """FLOPs of forward and backward; with a policy, checkpointed under it.

    What follows the contraction needs its output, so that it has to be kept or computed again.
    """
    x = torch.randn(*shape, requires_grad=True)

    def region(x: Tensor) -> Tensor:
        return run(x.sin()).sigmoid()

    contexts = partial(create_selective_checkpoint_contexts, policy)
    with FlopMeter() as meter:
        y = region(x) if policy is None else checkpoint(region, x, use_reentrant=False, context_fn=contexts)
        y.sum().backward()
    return meter.read().flops


def nothing(*_: object, **__: object) -> CheckpointPolicy:
    return CheckpointPolicy.PREFER_RECOMPUTE


@pytest.mark.parametrize("name", CONTRACTIONS)
def test_no_contraction_is_computed_again_under_matmuls(name: str) -> None:
    plain = step_flops(*CONTRACTIONS[name], policy=None)
    assert step_flops(*CONTRACTIONS[name], policy=load_policy("matmuls")) == plain
    assert step_flops(*CONTRACTIONS[name], policy=nothing) > plain


@pytest.mark.parametrize(
    ("operator", "kept"),
    [
        (aten.addmm.default, True),
        (aten.convolution.default, True),
        (aten._scaled_dot_product_cudnn_attention.default, True),
        (aten.relu.default, False),
        (aten.native_batch_norm.default, False),
        (aten.mul.Tensor, False),
        (torch.ops.higher_order.cond, False),
    ],
)
def test_matmuls_keeps_contractions_and_nothing_cheap(operator: object, *, kept: bool) -> None:
    expected = CheckpointPolicy.MUST_SAVE if kept else CheckpointPolicy.PREFER_RECOMPUTE
    assert load_policy("matmuls")(None, operator) == expected


@pytest.fixture(autouse=True)
def _own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


SOURCE = """
from torch.utils.checkpoint import CheckpointPolicy

def keep_all(context, operator, *args, **kwargs):
    return CheckpointPolicy.MUST_SAVE

SHARE = 0.5
"""


@pytest.mark.parametrize("reference", ["rematbench_test_policies:keep_all", "folder/own.py:keep_all"])
def test_a_policy_of_ones_own_is_found_from_where_one_stands(reference: str) -> None:
    Path("rematbench_test_policies.py").write_text(SOURCE)
    Path("folder").mkdir()
    Path("folder/own.py").write_text(SOURCE)
    policy = load_policy(reference)
    assert policy(None, aten.relu.default) == CheckpointPolicy.MUST_SAVE
    run = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    assert step_flops(run, (5, 6), policy) == step_flops(run, (5, 6), None)


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("nowhere:policy", ["nowhere", "no module named 'nowhere'", "looked in"]),
        ("nowhere.py:policy", ["nowhere.py", "no such file"]),
        ("own.py:keep_al", ["own.py:keep_al", "unknown attribute 'keep_al'", "did you mean 'keep_all'"]),
        ("own.py:SHARE", ["own.py:SHARE is a float", "expected a policy function"]),
        ("broken.py:policy", ["broken.py cannot be imported", "ZeroDivisionError"]),
    ],
)
def test_a_policy_that_cannot_be_had_is_a_sentence(reference: str, words: list[str]) -> None:
    Path("own.py").write_text(SOURCE)
    Path("broken.py").write_text("1 / 0")
    with pytest.raises(PlacementError) as caught:
        load_policy(reference)
    assert all(word in str(caught.value) for word in words), str(caught.value)
