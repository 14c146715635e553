"""Measure, exactly, what activation-checkpoint placements save and cost.

For training code: `Placement`, `apply`, `applied`, `plan`, `why`, `outline`; for sizes that are not run: `predict`,
`fit`; for strategies of one's own: `strategy`; for notebooks: `Run("results/latest").dataframe()`. They are imported
when first asked for, as the command itself needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rematbench.inspecting.why import why
    from rematbench.placement.placement import Placement
    from rematbench.placement.registry import strategy
    from rematbench.placing.apply import Handle, applied, apply
    from rematbench.placing.outline import outline
    from rematbench.planner.plan import Plan, plan
    from rematbench.predicting.api import Prediction, fit, predict
    from rematbench.records.diagnosis import Diagnosis
    from rematbench.records.run import Run

__version__ = "0.1.0"

__all__ = [
    "Diagnosis",
    "Handle",
    "Placement",
    "Plan",
    "Prediction",
    "Run",
    "__version__",
    "applied",
    "apply",
    "fit",
    "outline",
    "plan",
    "predict",
    "strategy",
    "why",
]

_HOMES = {
    "Diagnosis": "rematbench.records.diagnosis",
    "Handle": "rematbench.placing.apply",
    "Placement": "rematbench.placement.placement",
    "Plan": "rematbench.planner.plan",
    "Prediction": "rematbench.predicting.api",
    "Run": "rematbench.records.run",
    "applied": "rematbench.placing.apply",
    "apply": "rematbench.placing.apply",
    "fit": "rematbench.predicting.api",
    "outline": "rematbench.placing.outline",
    "plan": "rematbench.planner.plan",
    "predict": "rematbench.predicting.api",
    "strategy": "rematbench.placement.registry",
    "why": "rematbench.inspecting.why",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
