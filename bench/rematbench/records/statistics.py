"""Statistics of step times. Times are noisy and skewed, so everything here is a median."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from rematbench.records.measurement import Timing

Array = npt.NDArray[Any]

RESAMPLES = 4000
CONFIDENCE = 0.95


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A median with an interval about it; where nothing is known of the spread, low and high are None."""

    median: float
    low: float | None
    high: float | None

    def is_within(self, width: float) -> bool:
        """Tell whether its ends are known and lie no further apart than this share of the median."""
        return self.low is not None and self.high is not None and self.high - self.low <= width * self.median


def step_median_s(timing: Timing) -> float:
    """Median seconds a step."""
    return float(np.median(timing.step_s))


def step_iqr_s(timing: Timing) -> float:
    """Interquartile range of the seconds a step."""
    ordered = sorted(timing.step_s)
    return _quantile(ordered, 0.75) - _quantile(ordered, 0.25)


@cache
def step_ratio(timing: Timing) -> Interval:
    """Step time over the plain step's, as the median of the ratios within each round, with a 95 % interval.

    Pairing within a round cancels what slows the whole machine. The interval is the percentile bootstrap of the median
    with its tails expanded for few samples (Hesterberg, "What Teachers Should Know About the Bootstrap", 2015, 4.3;
    plain percentiles cover 88 % at seven rounds). It is seeded, so the same samples always give the same interval.
    Fewer than five rounds give none: not even their whole range would reach 93 %.
    """
    ratios = np.divide(timing.step_s, timing.plain_s)
    median = float(np.median(ratios))
    if len(ratios) < 5:
        return Interval(median=median, low=None, high=None)
    medians = np.sort(_resampled_medians(ratios)).tolist()
    tail = expanded_tail(len(ratios))
    return Interval(median=median, low=_quantile(medians, tail), high=_quantile(medians, 1 - tail))


def _resampled_medians(values: Array) -> Array:
    """Return the median of every resample, as `np.median` of the picked values would, without sorting each of them.

    With the values in order, a resample's median is the value up to which it has drawn half of its picks.
    """
    count, order = len(values), np.argsort(values, kind="stable")
    drawn, lower, upper = (np.zeros(RESAMPLES, np.int32) for _ in range(3))
    for value in order:
        drawn += _draws(count)[value]
        lower += drawn < (count + 1) // 2
        upper += drawn <= count // 2
    ordered = values[order]
    return ordered[upper] if count % 2 else (ordered[lower] + ordered[upper]) / 2


@cache
def _draws(count: int) -> Array:
    """Return how often each of so many values is drawn, a value a row, a resample a column; always the same."""
    picks = np.random.default_rng(0).integers(count, size=(RESAMPLES, count))
    return np.stack([np.count_nonzero(picks == value, axis=1) for value in range(count)]).astype(np.int32)


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Return what `np.quantile` does, to the bit; on a few values that takes a hundred times as long."""
    place = share * (len(ordered) - 1)
    at = int(place)
    part, low, high = place - at, ordered[at], ordered[min(at + 1, len(ordered) - 1)]
    return high - (high - low) * (1 - part) if part >= 0.5 else low + (high - low) * part


@cache
def expanded_tail(count: int) -> float:
    """Return the share of resamples to leave out at each end for so many samples, under `CONFIDENCE`'s own."""
    from scipy.special import ndtr, stdtrit  # late: it takes a fifth of a second, which `rematbench --help` should not

    quantile = stdtrit(count - 1, (1 - CONFIDENCE) / 2)
    return float(ndtr(np.sqrt(count / (count - 1)) * quantile))
