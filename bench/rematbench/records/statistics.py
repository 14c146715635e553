"""Statistics of step times. Times are noisy and skewed, so everything here is a median."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np

from rematbench.records.measurement import Timing

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
    low, high = np.quantile(timing.step_s, [0.25, 0.75])
    return float(high - low)


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
    picks = np.random.default_rng(0).integers(len(ratios), size=(RESAMPLES, len(ratios)))
    tail = expanded_tail(len(ratios))
    low, high = np.quantile(np.median(ratios[picks], axis=1), [tail, 1 - tail])
    return Interval(median=median, low=float(low), high=float(high))


def expanded_tail(count: int) -> float:
    """Return the share of resamples to leave out at each end for so many samples, under `CONFIDENCE`'s own."""
    from scipy.special import ndtr, stdtrit  # late: it takes a fifth of a second, which `rematbench --help` should not

    quantile = stdtrit(count - 1, (1 - CONFIDENCE) / 2)
    return float(ndtr(np.sqrt(count / (count - 1)) * quantile))
