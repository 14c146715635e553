"""`rematbench models`, `placements` and `suites`: what there is to measure, one line each."""

from __future__ import annotations

from collections.abc import Iterable

from rematbench.commands.console import out
from rematbench.loading import reference_models
from rematbench.placement.placement import Options
from rematbench.placement.registry import STRATEGIES
from rematbench.suite.suite import load_suite, shipped_suites


def models() -> None:
    """List the reference models."""
    _print_pairs(reference_models().items())


def placements() -> None:
    """List the placement strategies and their options."""
    _print_pairs((known.form, known.meaning) for known in STRATEGIES.values())
    form = "strategy[:argument][@path][+option=value]…"
    out.print(f"\nwritten {form}, or the path of a placement file; options:", markup=False)
    _print_pairs((name, f"default {str(field.default).lower()}") for name, field in Options.model_fields.items())


def suites() -> None:
    """List the suites that come with rematbench."""
    _print_pairs((name, load_suite(name).description) for name in shipped_suites())


def _print_pairs(entries: Iterable[tuple[str, str]]) -> None:
    pairs = list(entries)
    width = max(len(name) for name, _ in pairs)
    for name, meaning in pairs:
        out.print(f"{name:<{width}}  {meaning}", markup=False)
