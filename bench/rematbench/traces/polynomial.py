"""Exact interpolation: what polynomials with rational coefficients are at other places, from what they are at a few.

Weights are fractions and values are whole numbers of any size, so that nothing is rounded. Places are those of a grid
that belong to a *lower set* of its indices (with an index, all that are smaller in some axis belong to it): on them the
polynomials whose exponents are in the set are determined, and by no fewer (Newton's interpolation in several variables;
de Boor and Ron, 1990).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from itertools import product
from math import lcm, prod

import numpy as np
import numpy.typing as npt

Index = tuple[int, ...]
"""Of a place: for each axis, which of its nodes."""

Values = npt.NDArray[np.object_]
"""Whole numbers of Python, which do not overflow."""


def degrees(nodes: Sequence[int], values: Sequence[Values]) -> npt.NDArray[np.int64]:
    """Return for each entry the degree of the polynomial through its values at the nodes of one axis."""
    found = np.zeros(len(values[0]), dtype=np.int64)
    for order in range(1, len(nodes)):
        weights = [
            Fraction(1, prod(nodes[at] - other for other in nodes[: order + 1] if other != nodes[at]))
            for at in range(order + 1)
        ]
        difference = combined(weights, values[: order + 1])[0]
        found[difference != 0] = order
    return found


def box_union(exponents: Iterable[Index]) -> list[Index]:
    """Return the lower set that some exponents need, in an order in which what is smaller comes first."""
    boxes = {tuple(index) for index in exponents}
    found = {index for box in boxes for index in product(*(range(top + 1) for top in box))}
    return sorted(found, key=lambda index: (sum(index), index))


def weights_at(lower: Sequence[Index], nodes: Sequence[Sequence[int]], place: Sequence[int]) -> list[Fraction]:
    """Return by how much the value at each index of a lower set goes into that at a place.

    Solves the triangular system of Newton's basis, transposed: index `a` has the basis function that is the product of
    `x - node` over the nodes below it, which is zero at every index that is smaller in some axis.
    """

    def basis(index: Index, at: Sequence[int]) -> int:
        return prod(at[axis] - nodes[axis][below] for axis, top in enumerate(index) for below in range(top))

    places = [tuple(nodes[axis][step] for axis, step in enumerate(index)) for index in lower]
    weights = [Fraction(0)] * len(lower)
    for row in reversed(range(len(lower))):
        rest = Fraction(basis(lower[row], place))
        for later in range(row + 1, len(lower)):
            if weights[later]:
                rest -= weights[later] * basis(lower[row], places[later])
        weights[row] = rest / basis(lower[row], places[row])
    return weights


def combined(weights: Sequence[Fraction], values: Sequence[Values]) -> tuple[Values, int]:
    """Return the weighted sum of values as whole numbers over one denominator."""
    denominator = lcm(*(weight.denominator for weight in weights))
    total = sum(
        (int(weight * denominator) * value for weight, value in zip(weights, values, strict=True)),
        start=np.zeros(len(values[0]), dtype=object),
    )
    return total, denominator
