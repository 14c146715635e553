"""An inspection as tables: folding, sums, depth, and the list of saved tensors."""

from tests.records.making import CPU

from rematbench.records.inspection import Inspection, ModuleCost, SavedTensor
from rematbench.reporting.tree import saved_sheets, tree_sheet


def cost(path: str, kind: str = "Layer", own: int | None = 0, **values: object) -> ModuleCost:
    usual = {"parameters": 2, "outputs": ((3, 4),), "calls": 1, "forward_s": 0.001, "backward_s": 0.002}
    return ModuleCost.model_validate(
        {"path": path, "class_name": kind, "own_bytes": own, "forward_flops": 1000} | usual | values
    )


def saved(module: str, size: int, **values: object) -> SavedTensor:
    usual = {"shape": (2, 3), "dtype": "float32", "kind": "activation", "operator": "relu (result)", "line": "net.py:7"}
    return SavedTensor.model_validate({"bytes": size, "module": module} | usual | values)


def inspection(*modules: ModuleCost, **values: object) -> Inspection:
    usual = {"model": "net", "device": "cpu", "dtype": "float32", "chains": (), "saved": (), "held_bytes": 1000}
    rest = {"loss_bytes": 0, "output_bytes": 0, "peak_bytes": 2000, "static_bytes": 300, "environment": CPU}
    return Inspection.model_validate(usual | rest | {"modules": modules} | values)


NET = (
    cost("", "Net", own=4),
    cost("embed", own=6),
    cost("body.layers.0", "Block"),
    cost("body.layers.0.attn", own=100),
    cost("body.layers.1", "Block"),
    cost("body.layers.1.attn", own=200),
    cost("body.layers.2", "Block", outputs=((9,),)),
    cost("body.layers.2.attn", own=300),
)


def rows(*modules: ModuleCost, depth: int = 3, **values: object) -> dict[str, tuple[str, ...]]:
    return {row[0]: row for row in tree_sheet(inspection(*modules, **values), depth).rows}


def test_neighbours_of_one_shape_are_one_row_and_their_children_another() -> None:
    table = rows(*NET, held_bytes=610)
    assert list(table) == [
        "Net", "· embed", "· body.layers[0:2]", "· · attn", "· body.layers.2", "sum",
    ]  # fmt: skip
    assert table["· body.layers[0:2]"][1:] == ("Block × 2", "4", "3×4", "300 B", "49 %", "2 ms", "4 ms", "2 kFLOP")
    assert table["sum"][4:6] == ("610 B", "100 %")


def test_each_row_holds_what_is_inside_it() -> None:
    """The rows of one level, and what the model itself keeps, are the whole."""
    table = rows(*NET, depth=1, held_bytes=610)
    assert table["Net"][4] == "610 B"
    assert [table[name][4] for name in list(table)[1:-1]] == ["6 B", "300 B", "300 B"]


def test_depth_zero_is_the_model_alone() -> None:
    assert list(rows(*NET, depth=0)) == ["Net", "sum"]


def test_two_outputs_are_shown_and_the_rest_counted() -> None:
    outputs = {"two": ((2, 3), ()), "four": ((2,), (3, 4), (5,), (6,))}
    shown = [rows(cost("", name, outputs=outputs[name]))[name][3] for name in outputs]
    assert shown == ["2×3 scalar", "2 3×4 +2"]


def test_the_loss_has_a_row_of_its_own() -> None:
    assert rows(*NET, loss_bytes=390)["(loss)"][4:6] == ("390 B", "39 %")


def test_what_the_meter_cannot_tell_stays_empty() -> None:
    table = rows(cost("", "Net", own=None, backward_s=None, forward_flops=None))
    assert table["Net"][4:] == ("", "", "1 ms", "", "")


def test_the_notes_explain_the_held_bytes() -> None:
    found = inspection(*NET, saved=(saved("embed", 900), saved("embed", 50, kind="parameter")), output_bytes=40)
    assert (found.saved_bytes, found.unexplained_bytes) == (900, 60)
    notes = " ".join(tree_sheet(found, 1).notes)
    assert "autograd saved 900 B, output and loss are 40 B, 60 B other" in notes
    chains = tree_sheet(inspection(*NET, chains=("a 2 × X, inside each b 2", "head 2 × Y")), 1).notes[2]
    assert chains == "chains: a 2 × X, inside each b 2; head 2 × Y"


def test_saved_tensors_are_grouped_by_module_the_largest_first_and_equal_ones_folded() -> None:
    found = inspection(
        *NET,
        saved=(
            saved("body.layers.0.attn", 100, shared_with=("body.layers.0.mlp",)),
            saved("body.layers.1.attn", 100, shared_with=("body.layers.1.mlp",)),
            saved("head", 150),
            saved("embed", 70, kind="parameter"),
        ),
    )
    attention, head = saved_sheets(found)
    assert attention.title == "body.layers.*.attn keeps 200 B"
    assert attention.rows == (
        ("100 B × 2", "2×3", "float32", "body.layers.*.attn", "relu (result)", "net.py:7", "body.layers.*.mlp"),
    )
    assert head.rows == (("150 B", "2×3", "float32", "head", "relu (result)", "net.py:7", ""),)
    assert head.notes == ("besides, parameter tensors of 70 B, which are there anyway",)


def test_nothing_saved_is_no_table() -> None:
    assert saved_sheets(inspection(*NET)) == []
