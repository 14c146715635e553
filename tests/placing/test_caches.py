"""Caches in a model's output are found with the bytes that they hold, each storage once."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.placing.caches import cache_remarks

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


@pytest.mark.parametrize(("output", "told"), CASES)
def test_a_cache_is_told(output: Any, told: str) -> None:
    (remark,) = cache_remarks(output)
    assert told in remark
    assert "use_cache=False" in remark


@pytest.mark.parametrize(
    "output", [KEYS, (KEYS, KEYS), None, {"logits": KEYS}, {"past_key_values": None}, SimpleNamespace(mems=[])]
)
def test_other_outputs_go_without_remark(output: Any) -> None:
    assert cache_remarks(output) == []
