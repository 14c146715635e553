"""What a model offers, against a walk over torch's own `named_modules`."""

from collections import OrderedDict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from rematbench.loading import load_attribute, reference_models
from rematbench.placement.outline import Chain, Outline
from rematbench.placing.containers import CONTAINERS
from rematbench.placing.outline import outline
from rematbench.torch_internals import children_of


class Holder(nn.Module):
    """A module that is no container, with the children it is given."""

    def __init__(self, **children: nn.Module | None) -> None:
        super().__init__()
        for name, child in children.items():
            self.register_module(name, child)


def layer() -> nn.Module:
    return nn.Linear(1, 1)


def block() -> nn.Module:
    return nn.Sequential(layer(), nn.ReLU())


def paths(chains: tuple[Chain, ...]) -> list[str]:
    return [chain.path for chain in chains]


def test_a_model_in_full() -> None:
    model = Holder(stem=layer(), encoder=Holder(layers=nn.ModuleList([block(), block()])), head=nn.Sequential(layer()))
    found = outline(model)
    layers = Chain(path="encoder.layers", blocks=("Sequential", "Sequential"))
    inner = [Chain(path=f"encoder.layers.{position}", blocks=("Linear", "ReLU")) for position in (0, 1)]
    head = Chain(path="head", blocks=("Linear",))
    assert found == Outline(
        modules={path: type(module).__name__ for path, module in model.named_modules()},
        chains=(layers, *inner, head),
        outermost=(layers,),
        parameters={path: tuple(tensor.shape) for path, tensor in model.named_parameters()},
    )
    assert next(iter(found.modules.items())) == ("", "Holder")


@pytest.mark.parametrize(
    ("model", "outermost"),
    [
        (Holder(body=nn.Sequential(layer(), nn.ReLU()), head=nn.Sequential(layer())), ["body", "head"]),
        (Holder(body=nn.Sequential(block()), head=nn.Sequential(layer())), ["body"]),
        (Holder(down=nn.ModuleList([block()]), up=nn.ModuleDict({"a": block()})), ["down", "up"]),
        (nn.Sequential(block(), block()), [""]),
        (nn.Sequential(OrderedDict(stem=layer(), body=block())), [""]),
        (Holder(empty=nn.ModuleList(), linear=layer(), absent=None), []),
        (layer(), []),
    ],
    ids="layers head-aside two-stacks itself named none bare".split(),
)
def test_strategies_act_on_the_outermost_stacks_of_blocks(model: nn.Module, outermost: list[str]) -> None:
    assert paths(outline(model).outermost) == outermost


def test_a_chain_shows_its_classes_once() -> None:
    assert str(Chain(path="blocks", blocks=("Linear", "ReLU", "Linear"))) == "blocks[0:3] × Linear, ReLU"


def test_a_module_registered_twice_is_two_blocks_and_an_absent_one_none() -> None:
    shared = layer()
    assert children_of(nn.Sequential(shared, shared)) == [("0", shared), ("1", shared)]
    assert len(outline(Holder(blocks=nn.ModuleList([shared, shared]))).chains[0]) == 2
    assert children_of(Holder(here=shared, absent=None)) == [("here", shared)]


KINDS = st.sampled_from([nn.Sequential, nn.ModuleList, nn.ModuleDict, Holder])


def made(kind: type[nn.Module], children: list[nn.Module]) -> nn.Module:
    named = {f"m{position}": child for position, child in enumerate(children)}
    if kind is Holder:
        return Holder(**named)
    return (
        kind(named) if kind is nn.ModuleDict else nn.ModuleList(children) if kind is nn.ModuleList else kind(*children)
    )


TREES = st.recursive(
    st.builds(nn.Identity), lambda below: st.builds(made, KINDS, st.lists(below, max_size=4)), max_leaves=12
)


@given(TREES)
def test_chains_are_the_containers_with_children(model: nn.Module) -> None:
    containers = {
        path: module
        for path, module in model.named_modules()
        if isinstance(module, CONTAINERS) and list(module.children())
    }
    top = [path for path in containers if not any(path != other and inside(path, other) for other in containers)]
    deep = [path for path in top if any(list(block.children()) for block in containers[path].children())]
    found = outline(model)
    assert paths(found.chains) == list(containers)
    assert [len(chain) for chain in found.chains] == [len(list(module.children())) for module in containers.values()]
    assert paths(found.outermost) == (deep or top)


def inside(path: str, other: str) -> bool:
    return other == "" or path.startswith(f"{other}.")


@pytest.mark.parametrize("name", reference_models())
def test_every_reference_model_offers_one_chain(name: str) -> None:
    model, *_ = load_attribute(name, Path())()
    (chain,) = outline(model).outermost
    assert chain.path in ("blocks", "body")
    assert len(chain) > 1
