"""Interpolation against the polynomials that the values are of."""

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rematbench.traces.polynomial import box_union, combined, degrees, weights_at


def values_of(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=object)


@given(
    coefficients=st.dictionaries(
        st.tuples(st.integers(0, 2), st.integers(0, 2)), st.integers(-(10**12), 10**12), min_size=1, max_size=5
    ),
    place=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
)
def test_a_polynomial_is_told_from_the_lower_set_of_its_exponents(
    coefficients: dict[tuple[int, int], int], place: tuple[int, int]
) -> None:
    def polynomial(x: int, y: int) -> int:
        return sum(factor * x**i * y**j for (i, j), factor in coefficients.items())

    lower = box_union(coefficients)
    nodes = ((2, 3, 5), (8, 16, 40))
    sampled = [values_of(polynomial(nodes[0][i], nodes[1][j])) for i, j in lower]
    total, below = combined(weights_at(lower, nodes, place), sampled)
    assert Fraction(int(total[0]), below) == polynomial(*place)


@given(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1))
def test_a_lower_set_has_with_an_index_all_smaller_ones_and_no_more_than_the_boxes(
    exponents: set[tuple[int, int]],
) -> None:
    found = box_union(exponents)
    assert set(found) == {low for i, j in exponents for low in product(range(i + 1), range(j + 1))}
    assert len(found) == len(set(found))
    assert [sum(index) for index in found] == sorted(sum(index) for index in found)


def test_degrees_are_of_each_entry_by_itself() -> None:
    nodes = (2, 3, 4)
    line = [values_of(7, 4 * x, x * x + 1, 0) for x in nodes]
    assert degrees(nodes, line).tolist() == [0, 1, 2, 0]


@pytest.mark.parametrize("place", [2, 3, 4])
def test_at_a_node_the_value_is_the_node_s(place: int) -> None:
    weights = weights_at([(0,), (1,), (2,)], ((2, 3, 4),), (place,))
    assert [weight == 1 for weight in weights] == [place == 2, place == 3, place == 4]
