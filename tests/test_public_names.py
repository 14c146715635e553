"""What `from rematbench import …` offers to training code."""

from pathlib import Path

import pytest
import torch
from torch import nn

import rematbench
from rematbench import Handle, Placement, applied, apply, outline


def test_training_code_in_full(tmp_path: Path) -> None:
    model = nn.Sequential(*(nn.Sequential(nn.Linear(2, 2), nn.Tanh()) for _ in range(3)))
    made = Placement.model_validate({"name": "plan", "regions": [{"path": "[0:2]"}]})
    made.model_copy(update={"fingerprint": outline(model).fingerprint}).save(tmp_path / "plan.json")
    with applied(model, Placement.load(tmp_path / "plan.json")) as handle:
        assert handle.blocks == ("0", "1")
        model(torch.ones(1, 2)).sum().backward()
    handle = apply(model, "each")
    assert isinstance(handle, Handle)
    assert handle.blocks == ("0", "1", "2")
    handle.remove()
    assert not any("forward" in vars(block) for block in model)


def test_every_name_is_found_and_no_other() -> None:
    assert all(getattr(rematbench, name) for name in rematbench.__all__)
    with pytest.raises(AttributeError, match="no attribute 'apples'"):
        rematbench.apples  # noqa: B018
