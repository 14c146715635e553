"""A placement made for one model is refused on another, with what has changed."""

import json
from collections import OrderedDict
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from torch import nn

from rematbench.errors import PlacementError
from rematbench.placement.fingerprint import difference, fingerprint
from rematbench.placement.placement import Placement, Region
from rematbench.placing.apply import applied, apply
from rematbench.placing.outline import outline

PLACEMENT = Placement(name="plan", regions=(Region(path="[0]"),))


def model(depth: int = 2, width: int = 3, last: nn.Module | None = None, lazy: bool = False) -> nn.Sequential:
    layers = [nn.LazyLinear(width) if lazy else nn.Linear(width, width) for _ in range(depth)]
    return nn.Sequential(*layers, last or nn.Tanh())


def stamped(net: nn.Module) -> Placement:
    return PLACEMENT.model_copy(update={"fingerprint": outline(net).fingerprint})


def test_known_answer() -> None:
    def digest(text: str) -> str:
        return sha256(text.encode()).hexdigest()[:8]

    shapes = "0.weight (3, 3)\n0.bias (3,)"
    assert outline(model(depth=1)).fingerprint == (
        f"3 modules {digest(chr(10).join(['', '0', '1']))}, "
        f"classes {digest(chr(10).join(['Sequential', 'Linear', 'Tanh']))}, 2 parameters {digest(shapes)}"
    )


OTHERS: dict[str, Callable[[], nn.Module]] = {
    "4 modules then, 5 modules now": lambda: model(depth=3),
    "modules of other classes": lambda: model(last=nn.ReLU()),
    "4 parameters of other names or shapes": lambda: model(width=4),
    "4 modules of other names": lambda: nn.Sequential(OrderedDict(zip("abc", model(), strict=True))),
    "4 parameters then, 6 parameters now": lambda: model(last=nn.Linear(3, 3)),
}


@pytest.mark.parametrize("told", OTHERS)
def test_another_model_is_refused_and_left_as_it_was(told: str) -> None:
    other = OTHERS[told]()
    if told.startswith("4 parameters then"):  # the classes differ as well, and are told first
        told = "modules of other classes"
    with pytest.raises(PlacementError) as caught:
        apply(other, stamped(model()))
    assert f"placement 'plan' was made for another model ({told})" in str(caught.value)
    assert "forward" not in vars(next(other.children()))
    apply(other, PLACEMENT).remove()


@pytest.mark.parametrize("same", [lambda: model().bfloat16(), lambda: model().eval(), lambda: model().to("meta")])
def test_values_types_and_places_do_not_matter(same: Callable[[], nn.Module]) -> None:
    apply(same(), stamped(model())).remove()


def test_the_regions_in_force_change_nothing() -> None:
    net = model()
    with applied(net, PLACEMENT):
        apply(net, stamped(model())).remove()


def test_a_lazy_model_has_one() -> None:
    assert "4 parameters" in outline(model(lazy=True)).fingerprint


def test_files_keep_it(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    stamped(model()).save(path)
    assert json.loads(path.read_text())["fingerprint"] == outline(model()).fingerprint
    assert Placement.load(path) == stamped(model())
    PLACEMENT.save(path)
    assert "fingerprint" not in json.loads(path.read_text())
    assert Placement.load(path).fingerprint is None


def test_what_differs_is_told_by_parts() -> None:
    base = fingerprint({"": "Net", "a": "Linear"}, {"a.weight": (2, 3)})
    assert difference(base, base) is None
    assert difference(base, fingerprint({"": "Net", "b": "Linear"}, {"a.weight": (2, 3)})) == "2 modules of other names"
    assert difference(base, fingerprint({"": "Net", "a": "Conv2d"}, {"a.weight": (2, 3)})) == "modules of other classes"
    shapes = fingerprint({"": "Net", "a": "Linear"}, {"a.weight": (3, 2)})
    assert difference(base, shapes) == "1 parameters of other names or shapes"
    assert difference(base + ", more", base) == "it cannot be read"
