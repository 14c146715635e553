"""Measure, exactly, what activation-checkpoint placements save and cost.

For training code: `Placement`, `apply`, `applied` and `plan`. They are imported when first asked for, as the command
itself needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.measuring.plans import Plan, plan
    from bench.placing.apply import Handle, applied, apply
    from bench.placing.outline import outline
    from bench.placing.placement import Placement

__version__ = "0.1.0"

__all__ = ["Handle", "Placement", "Plan", "__version__", "applied", "apply", "outline", "plan"]

_HOMES = {
    "Handle": "bench.placing.apply",
    "Plan": "bench.measuring.plans",
    "Placement": "bench.placing.placement",
    "applied": "bench.placing.apply",
    "apply": "bench.placing.apply",
    "outline": "bench.placing.outline",
    "plan": "bench.measuring.plans",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
