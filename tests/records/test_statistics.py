"""Statistics of step times: against arithmetic by hand, against the exact bootstrap, and on data of a known ratio."""

from math import comb, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t

from rematbench.records.measurement import Timing
from rematbench.records.statistics import (
    CONFIDENCE,
    RESAMPLES,
    Interval,
    expanded_tail,
    step_iqr_s,
    step_median_s,
    step_ratio,
)

times = st.floats(1e-6, 1e3)


def ends(interval: Interval) -> tuple[float, float]:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low, interval.high


def by_rank(values: tuple[float, ...], share: float) -> float:
    """Return a quantile by hand: at rank `share * (n - 1)`, in between by a straight line."""
    ordered = sorted(values)
    below, between = divmod(share * (len(ordered) - 1), 1)
    after = min(int(below) + 1, len(ordered) - 1)
    return ordered[int(below)] + between * (ordered[after] - ordered[int(below)])


@pytest.mark.parametrize(
    ("step_s", "median", "iqr"),
    [
        ((2.0,), 2.0, 0.0),
        ((4.0, 1.0), 2.5, 1.5),
        ((3.0, 1.0, 2.0), 2.0, 1.0),
        ((1.0, 2.0, 3.0, 4.0, 100.0), 3.0, 2.0),
        ((1.0, 2.0, 3.0, 4.0), 2.5, 1.5),
    ],
)
def test_known_answers(step_s: tuple[float, ...], median: float, iqr: float) -> None:
    timing = Timing(step_s=step_s, plain_s=())
    assert (step_median_s(timing), step_iqr_s(timing)) == (median, iqr)


@settings(deadline=None)
@given(st.lists(times, min_size=1, max_size=20).map(tuple))
def test_median_and_range_by_hand(step_s: tuple[float, ...]) -> None:
    timing = Timing(step_s=step_s, plain_s=())
    assert step_median_s(timing) == pytest.approx(by_rank(step_s, 0.5))
    assert step_iqr_s(timing) == pytest.approx(by_rank(step_s, 0.75) - by_rank(step_s, 0.25), abs=1e-9)


def test_the_ratio_is_paired_within_rounds() -> None:
    """The second round ran on a machine ten times slower; the ratio of the medians would be 1.5."""
    found = step_ratio(Timing(step_s=(1.0, 30.0, 3.0), plain_s=(2.0, 10.0, 1.0)))
    assert found.median == 3.0
    assert found.low is found.high is None


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(times, times), min_size=1, max_size=12))
def test_the_ratio_stands_within_its_interval_and_the_interval_within_the_ratios(
    rounds: list[tuple[float, float]],
) -> None:
    step_s, plain_s = zip(*rounds, strict=True)
    found = step_ratio(Timing(step_s=step_s, plain_s=plain_s))
    ratios = tuple(step / reference for step, reference in rounds)
    assert found.median == pytest.approx(by_rank(ratios, 0.5))
    assert (found.low is None) == (found.high is None) == (len(ratios) < 5)
    if len(ratios) >= 5:
        low, high = ends(found)
        ordered = [min(ratios), low, found.median, high, max(ratios)]
        assert ordered == pytest.approx(sorted(ordered), rel=1e-12)


def test_the_same_samples_give_the_same_interval() -> None:
    samples = Timing(step_s=(1.0, 1.2, 0.9, 1.4, 1.1, 1.3), plain_s=(1.0,) * 6)
    again = samples.model_copy()
    step_ratio.cache_clear()
    first = step_ratio(samples)
    step_ratio.cache_clear()
    assert step_ratio(again) == first


def test_a_placement_against_itself_is_one_exactly() -> None:
    found = step_ratio(Timing(step_s=(1.0, 2.0, 3.0, 4.0, 5.0), plain_s=(1.0, 2.0, 3.0, 4.0, 5.0)))
    assert (found.median, found.low, found.high) == (1.0, 1.0, 1.0)


def exact_rank(count: int) -> int:
    """Return which ordered sample, from 1, is the low end of the exact bootstrap interval of a median of oddly many.

    A resample's median is at most the kth sample when more than half of its draws are, each with probability k/n. The
    tail is Hesterberg's: the normal one at the t quantile, times the square root of n / (n - 1).
    """
    middle = count // 2 + 1
    tail = norm.cdf(sqrt(count / (count - 1)) * t.ppf((1 - CONFIDENCE) / 2, count - 1))
    for rank in range(1, count + 1):
        below = sum(
            comb(count, drawn) * (rank / count) ** drawn * (1 - rank / count) ** (count - drawn)
            for drawn in range(middle, count + 1)
        )
        if below >= tail:
            return rank
    raise AssertionError("every resample's median is at most the greatest sample")


@pytest.mark.parametrize("count", [5, 7, 9, 11, 13, 17, 25])
def test_the_interval_is_the_exact_bootstraps(count: int) -> None:
    """Counts for which resampling is in no doubt about the rank."""
    ratios = tuple(1.0 + place / 100 for place in np.random.default_rng(0).permutation(count))
    found = step_ratio(Timing(step_s=ratios, plain_s=(1.0,) * count))
    rank = exact_rank(count)
    assert (found.low, found.high) == (sorted(ratios)[rank - 1], sorted(ratios)[-rank])


TRIALS, RATIO = 300, 1.3


def trial(random: np.random.Generator, rounds: int) -> Timing:
    """Time two steps of a known ratio on a machine that drifts by 10 % a round, under skewed noise of 5 %."""
    machine = 0.01 * np.exp(np.cumsum(random.normal(0, 0.1, rounds)))
    plain, step = machine * random.lognormal(0, 0.05, (2, rounds))
    return Timing(step_s=tuple(RATIO * step), plain_s=tuple(plain))


@pytest.mark.parametrize("rounds", [5, 6, 7, 8, 15, 30])
def test_the_interval_holds_the_true_ratio_nine_times_in_ten(rounds: int) -> None:
    random = np.random.default_rng(rounds)
    found = [step_ratio.__wrapped__(trial(random, rounds)) for _ in range(TRIALS)]
    covered = sum(low <= RATIO <= high for low, high in map(ends, found))
    assert covered >= 0.9 * TRIALS
    assert np.median([interval.median for interval in found]) == pytest.approx(RATIO, rel=0.01)


def test_more_rounds_tell_more() -> None:
    random = np.random.default_rng(0)

    def usual_width(rounds: int) -> float:
        intervals = [ends(step_ratio.__wrapped__(trial(random, rounds))) for _ in range(40)]
        return float(np.median([high - low for low, high in intervals]))

    assert usual_width(30) < 0.7 * usual_width(8)


def test_an_interval_is_as_wide_as_its_ends_are_apart() -> None:
    interval = Interval(median=2.0, low=1.9, high=2.1)
    assert interval.is_within(0.1001)
    assert not interval.is_within(0.0999)
    assert not Interval(median=2.0, low=None, high=None).is_within(9.0)


@pytest.mark.parametrize("sigma", [0.01, 0.05])
def test_an_interval_that_ends_the_rounds_covers_as_it_says(sigma: float) -> None:
    """Rounds that end once the interval is narrow: a narrow one by chance must not be believed more than 95 %."""
    noise = np.random.default_rng(7)
    trials, covered = 250, 0
    for _ in range(trials):
        ratios = [float(ratio) for ratio in np.exp(noise.normal(0.0, sigma, 33))]
        for count in (5, 7, 10, 14, 19, 26, 33):  # when `schedule` asks
            found = step_ratio(Timing(step_s=tuple(ratios[:count]), plain_s=(1.0,) * count))
            if found.is_within(0.05):
                break
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 1.0 <= found.high
    assert covered / trials >= 0.90  # 95 % but for chance: 250 trials of it fall below 90 % once in 3,000 times


@given(st.lists(st.tuples(times, times), min_size=1, max_size=24))
@settings(deadline=None, max_examples=50)
def test_the_figures_are_numpy_s_to_the_bit(pairs: list[tuple[float, float]]) -> None:
    """The quick way to the medians of the resamples and to quantiles, held to the plain one."""
    timing = Timing(step_s=tuple(step for step, _ in pairs), plain_s=tuple(plain for _, plain in pairs))
    low, high = np.quantile(timing.step_s, [0.25, 0.75])
    assert step_iqr_s(timing) == high - low
    if len(pairs) >= 5:
        ratios = np.divide(timing.step_s, timing.plain_s)
        picks = np.random.default_rng(0).integers(len(ratios), size=(RESAMPLES, len(ratios)))
        tail = expanded_tail(len(ratios))
        low, high = np.quantile(np.median(ratios[picks], axis=1), [tail, 1 - tail])
        assert ends(step_ratio(timing)) == (low, high)
