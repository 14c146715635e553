"""A chain that bounds are made of: what the search does not know of a chain is left out of it, always downwards.

The search takes every tensor of a value for an input of the region that begins there, and every unit to leave behind
what lingers of it when it is run plainly, and it knows nothing of regions inside others but what they run. So its least
peaks may be too high where a tensor passes a region by, and its least costs no bounds.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import accumulate

from rematbench.solver.chain import Unit, UnitChain


def relaxed(chain: UnitChain) -> UnitChain:
    """Return a chain of the same units, in which the search is exact and no schedule peaks higher than in this one.

    Costs are the same. It is this chain where the search is exact in it already. A tensor is part of the last values
    that it goes through without passing a unit by: whoever holds it there, holds it in this chain too.
    """
    values = _taken_to_the_end(chain)
    least = [_least_lingering_bytes(unit) for unit in chain.units]
    fewer = accumulate(
        (unit.choices[0].lingering_bytes - size for unit, size in zip(chain.units, least, strict=True)), initial=0
    )
    units = []
    for at, (unit, size, less) in enumerate(zip(chain.units, least, fewer, strict=False)):
        # Where autocast has just ended, what lingered to its end is counted as what is there before the unit.
        after_it = not unit.with_lingering and at > 0 and chain.units[at - 1].with_lingering
        there = values[at] | values[at + 1]
        units.append(
            replace(
                unit,
                choices=tuple(
                    replace(choice, saved_tensors=choice.saved_tensors & there, lingering_bytes=size)
                    for choice in unit.choices
                ),
                before_bytes=unit.before_bytes - (less if after_it else 0),
                lingering_bytes=size,
                inputs=None,
            )
        )
    found = replace(chain, values=values, units=tuple(units), nested_bytes=0, further_bytes=())
    # The gradients of what passes by are there all the same.
    further = [chain.gradient_bytes(at) - found.gradient_bytes(at) for at in range(len(values))]
    found = replace(found, further_bytes=tuple(further) if any(further) else ())
    return chain if found == _as_told(chain) else found


def _as_told(chain: UnitChain) -> UnitChain:
    """Return the chain with what may be told in two ways told as `relaxed` does."""
    units = tuple(
        replace(unit, inputs=None, lingering_bytes=_least_lingering_bytes(unit))
        if unit.inputs is None or chain.values[at] <= unit.inputs
        else unit
        for at, unit in enumerate(chain.units)
    )
    return replace(chain, units=units, further_bytes=chain.further_bytes if any(chain.further_bytes) else ())


def _taken_to_the_end(chain: UnitChain) -> tuple[frozenset[int], ...]:
    """Return of every value the tensors that all units from there on take, as far as the tensors go."""
    last = chain.values[-1]
    values = [last]
    for at in reversed(range(len(chain.units))):
        taken = chain.taken(at, at + 1)
        last = frozenset(tensor for tensor in taken if tensor not in chain.values[at + 1] or tensor in last)
        values.append(last)
    return tuple(values[::-1])


def _least_lingering_bytes(unit: Unit) -> int:
    by_choice = [choice.lingering_bytes for choice in unit.choices]
    return min([*by_choice, unit.lingering_bytes] if unit.can_be_region else by_choice)
