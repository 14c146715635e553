"""Chains to plan for: random small ones that use everything the model has, and long ones like real models."""

import random
from dataclasses import replace

from hypothesis import strategies as st

from rematbench.solver.chain import Choice, Unit, UnitChain

SMALL = st.integers(0, 12)
"""Costs are whole numbers, so that sums are exact in any order."""

LITTLE = st.sampled_from([0, 0, 2, 6])

FURTHER = st.integers(-4, 8)
"""What a real step has more, or less, than its units one by one add up to."""


@st.composite
def chains(draw: st.DrawFn, *, most: int = 5) -> UnitChain:
    """Up to `most` units: bypassing tensors, boundaries no region may span, selective choices, what is in between."""
    count = draw(st.integers(1, most))
    values: list[set[int]] = [set() for _ in range(count + 1)]
    tensors = draw(st.integers(1, count + 3))
    for tensor in range(tensors):
        first = draw(st.integers(0, count))
        for at in range(first, draw(st.integers(first, count)) + 1):
            values[at].add(tensor)
    joins = draw(st.lists(st.sampled_from([True, True, True, False]), min_size=count - 1, max_size=count - 1))
    return UnitChain(
        tensor_bytes=tuple(draw(SMALL) for _ in range(tensors)),
        tensor_gradient_bytes=tuple(draw(SMALL) for _ in range(tensors)),
        values=tuple(map(frozenset, values)),
        joins=tuple(joins),
        units=tuple(
            draw(units(at, values[at] | values[at + 1], apart=not at or not joins[at - 1])) for at in range(count)
        ),
        region_cost=float(draw(st.sampled_from([0, 0, 1, 5]))),
        rerun_bytes=draw(st.sampled_from([0, 0, 3])),
        further_bytes=tuple(draw(FURTHER) for _ in values) if draw(st.booleans()) else (),
    )


@st.composite
def chains_beyond(draw: st.DrawFn, *, most: int = 5) -> UnitChain:
    """The same with what the search does not know of: tensors that pass units by, what lingers, nested regions' own."""
    chain = draw(chains(most=most))

    def beyond(at: int, unit: Unit) -> Unit:
        # What a unit saves of the value before it goes into it.
        takes = frozenset().union(*(choice.saved_tensors for choice in unit.choices)) & chain.values[at]
        passing = (
            draw(st.frozensets(st.sampled_from(sorted(chain.values[at] - takes)))) if chain.values[at] - takes else ()
        )
        return replace(
            unit,
            choices=tuple(
                replace(choice, lingering_bytes=draw(LITTLE), regions=draw(st.integers(0, 2)) if number else 0)
                for number, choice in enumerate(unit.choices)
            ),
            lingering_bytes=draw(LITTLE),
            with_lingering=draw(st.booleans()),
            inputs=chain.values[at].difference(passing) if draw(st.booleans()) else None,
        )

    units_beyond = tuple(beyond(at, unit) for at, unit in enumerate(chain.units))
    return replace(chain, units=units_beyond, nested_bytes=draw(LITTLE))


@st.composite
def units(draw: st.DrawFn, at: int, tensors: set[int], *, apart: bool) -> Unit:
    kept = st.frozensets(st.sampled_from(sorted(tensors))) if tensors else st.just(frozenset[int]())
    forward = draw(SMALL)
    can_be_region = draw(st.sampled_from([True, True, True, False]))
    begins = draw(st.sampled_from([True, True, False]))
    saves = ["everything", "matmuls", "half"][: draw(st.integers(1, 3))]
    nests = [not (begins and can_be_region) or draw(st.booleans()) for _ in saves]
    return Unit(
        name=f"unit{at}",
        forward_bytes=draw(SMALL),
        forward_cost=float(forward),
        rerun_cost=float(draw(st.integers(0, forward))),
        parameter_gradient_bytes=draw(SMALL),
        fixed_bytes=draw(SMALL) if apart else 0,
        passing_bytes=draw(FURTHER),
        before_bytes=draw(st.sampled_from([0, 0, 10, 30])),
        after_bytes=draw(st.sampled_from([0, 0, 20, 60])),
        can_be_region=can_be_region,
        begins=begins,
        choices=tuple(
            Choice(
                save=save,
                saved_bytes=draw(SMALL),
                saved_tensors=draw(kept),
                forward_peak_bytes=draw(SMALL),
                rerun_peak_bytes=draw(st.none() | SMALL),
                backward_peak_bytes=draw(SMALL),
                recompute_cost=float(draw(SMALL)) if number else 0.0,
                nests=nested,
                holds_input=not nested and draw(st.booleans()),
            )
            for number, (save, nested) in enumerate(zip(saves, nests, strict=True))
        ),
    )


def long_chain(count: int, *, seed: int = 0) -> UnitChain:
    """Units of random sizes in the proportions of residual blocks: they save some six times their boundary tensors."""
    rng = random.Random(seed)
    sizes = tuple(rng.randint(2**18, 2**21) for _ in range(count + 1))
    return UnitChain(
        tensor_bytes=sizes,
        tensor_gradient_bytes=sizes,
        values=tuple(frozenset({at}) for at in range(count + 1)),
        joins=(True,) * (count - 1),
        units=tuple(_block(rng, at, sizes[at], sizes[at + 1]) for at in range(count)),
    )


def equal_units(count: int) -> UnitChain:
    """Units that are all the same, as a transformer's blocks are."""
    chain = long_chain(1)
    size = chain.tensor_bytes[0]
    plain, matmuls = chain.units[0].choices
    return UnitChain(
        tensor_bytes=(size,) * (count + 1),
        tensor_gradient_bytes=(size,) * (count + 1),
        values=tuple(frozenset({at}) for at in range(count + 1)),
        joins=(True,) * (count - 1),
        units=tuple(
            replace(
                chain.units[0],
                name=f"blocks[{at}]",
                choices=(replace(plain, saved_tensors=frozenset({at})), matmuls),
            )
            for at in range(count)
        ),
    )


def ways_more(chain: UnitChain, *, nest: bool) -> UnitChain:
    """Give every unit eight ways to be run."""

    def choices(unit: Unit) -> tuple[Choice, ...]:
        plain, matmuls = unit.choices
        more = [
            replace(
                matmuls,
                save=f"set{number}",
                saved_bytes=matmuls.saved_bytes * (number + 1) // 5,
                recompute_cost=matmuls.recompute_cost * (8 - number) / 6,
                holds_input=not nest,
                nests=nest,
            )
            for number in range(6)
        ]
        return plain, matmuls, *more

    return replace(chain, units=tuple(replace(unit, choices=choices(unit)) for unit in chain.units))


def _block(rng: random.Random, at: int, before: int, after: int) -> Unit:
    kept = int(rng.uniform(2, 10) * after)
    forward = rng.uniform(1, 4) * 1e-3
    plain = Choice(
        save="everything",
        saved_bytes=kept,
        saved_tensors=frozenset({at}),
        forward_peak_bytes=kept + after,
        backward_peak_bytes=before + after,
    )
    matmuls = Choice(
        save="matmuls",
        saved_bytes=kept // 2,
        forward_peak_bytes=kept // 2 + 2 * after,
        backward_peak_bytes=before + after + kept // 2,
        recompute_cost=forward * rng.uniform(0.05, 0.3),
    )
    return Unit(
        name=f"blocks[{at}]",
        choices=(plain, matmuls),
        forward_bytes=3 * after,
        forward_cost=forward,
        rerun_cost=forward * rng.uniform(0.5, 1.0),
        parameter_gradient_bytes=rng.randint(0, 2**17),
    )
