"""Caches in a model's output are found with the bytes that they hold, each storage once."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from rematbench.inspecting.caches import cache_warnings, warnings_about
from rematbench.measuring.session import Session
from rematbench.workload.step import Workload

KEYS = torch.zeros(1024)  # 4 KiB


class Layer:
    def __init__(self) -> None:
        self.keys, self.values = KEYS, torch.zeros(1024)
        self.cache = self


CASES: list[tuple[Any, str]] = [
    ({"loss": KEYS, "past_key_values": ((KEYS, torch.zeros(1024)),)}, "past_key_values, which keeps 8 KiB alive"),
    (
        SimpleNamespace(past_key_values=SimpleNamespace(layers=[Layer(), Layer()])),
        "past_key_values, which keeps 12 KiB",
    ),
    (SimpleNamespace(mems=[KEYS[:2], KEYS[2:].view(2, 511)]), "mems, which keeps 4 KiB alive"),
    ({"cache_params": {"states": {0: KEYS}}}, "cache_params, which keeps 4 KiB alive"),
]


@pytest.mark.parametrize(("output", "sentence"), CASES)
def test_there_is_a_sentence_for_a_cache(output: Any, sentence: str) -> None:
    (warning,) = warnings_about(output)
    assert sentence in warning
    assert "use_cache=False" in warning


@pytest.mark.parametrize(
    "output", [KEYS, (KEYS, KEYS), None, {"logits": KEYS}, {"past_key_values": None}, SimpleNamespace(mems=[])]
)
def test_other_outputs_go_without_one(output: Any) -> None:
    assert warnings_about(output) == []


class Caching(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        y = self.layer(x)
        return {"logits": y, "past_key_values": ((y, y + 1),)}


def test_a_cache_in_the_output_is_warned_of() -> None:
    plain = Workload(module=nn.Linear(4, 4), batch=(torch.ones(2, 4),))
    session = Session(Workload(module=Caching(), batch=(torch.ones(2, 4),)), torch.device("cpu"))
    (warning,) = cache_warnings(session)
    assert "past_key_values, which keeps 64 B alive" in warning
    assert cache_warnings(Session(plain, torch.device("cpu"))) == []
