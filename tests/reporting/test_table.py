"""The table of a run, plain and drawn: every placement once, the dominated marked, failures with their status."""

import io
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from tests.records.making import MIB, equality, measurement, memory, rows, timing

from rematbench.records.frontier import dominated
from rematbench.records.measurement import Flops, Measurement, Timing
from rematbench.reporting.table import HEADER, ModelTable, model_tables, plain_table, rich_table

DIM, RED = "\x1b[2", "31m"

NONE = measurement(memory=memory(200 * MIB), timing=timing(1.0), equality=equality())
EACH = measurement(
    "each",
    memory=memory(50 * MIB),
    timing=timing(1.25),
    flops=Flops(forward=9, total=30, recompute=226_492_416, uncounted_ops=()),
    equality=equality("noise", buffers="different"),
    message="buffer bn.running_mean differs",
)
ALL = measurement("all", memory=memory(210 * MIB), timing=timing(1.5), equality=equality("different"))
LOST = measurement("sqrt", status="timeout", memory=memory(60 * MIB), message="timing: not done after 3 s")


def table(*cases: Measurement) -> ModelTable:
    (only,) = model_tables(rows(*cases))
    return only


def drawn(made: ModelTable, width: int = 160) -> list[str]:
    """Return the lines a terminal gets, colours and all."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, color_system="standard", no_color=False, width=width)
    console.print(rich_table(made), soft_wrap=True)
    return file.getvalue().splitlines()


def bare(line: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", line)


def test_the_cells_by_hand() -> None:
    cells = {line.cells[0]: line.cells[1:] for line in table(NONE, EACH, ALL, LOST).lines}
    assert cells == {
        "none": ("200.0", "0 %", "10 ms", "1.00×", "1.00-1.00", "", "bitwise", "equal"),
        "each": ("50.0", "75 %", "12.5 ms", "1.25×", "1.25-1.25", "226 MFLOP", "noise", "different"),
        "all": ("210.0", "-5.0 %", "15 ms", "1.50×", "1.50-1.50", "", "different", "equal"),
        "sqrt": ("60.0", "70 %", "timeout", "", "", "", "", ""),
    }


@pytest.mark.parametrize(
    ("case", "cells"),
    [
        (measurement("each"), ("each", *[""] * 8)),
        (measurement("each", status="killed"), ("each", "", "", "killed", *[""] * 5)),
        (measurement("each", memory=memory(MIB)), ("each", "1.0", *[""] * 7)),
        (measurement("each", timing=timing(2.0, paired=False)), ("each", "", "", "20 ms", *[""] * 5)),
        (measurement("each", timing=timing(2.0, rounds=4)), ("each", "", "", "20 ms", "2.00×", *[""] * 4)),
        (measurement("each", equality=equality("close")), ("each", *[""] * 6, "close", "equal")),
        (
            measurement("each", flops=Flops(forward=3, total=9, recompute=0, uncounted_ops=())),
            ("each", *[""] * 5, "0", "", ""),
        ),
    ],
    ids=["nothing", "failed", "memory", "seconds", "few rounds", "equality", "no recomputation"],
)
def test_what_is_not_known_is_left_blank(case: Measurement, cells: tuple[str, ...]) -> None:
    assert [line.cells for line in table(case).lines] == [cells]
    assert len(cells) == len(HEADER)


def test_there_is_a_table_for_each_model_and_device_in_the_order_of_the_run() -> None:
    kinds = [("toy", "cpu"), ("net", "cpu"), ("toy", "cuda:0")]
    cases = [measurement(name, model=model, device=device) for model, device in kinds for name in ("none", "each")]
    tables = list(model_tables(rows(*cases)))
    assert [made.title for made in tables] == ["toy on cpu", "net on cpu", "toy on cuda:0"]
    assert [[line.cells[0] for line in made.lines] for made in tables] == [["none", "each"]] * 3


def test_a_placement_is_dominated_only_within_its_own_model() -> None:
    worse = measurement("all", model="net", memory=memory(999 * MIB), timing=timing(9.0))
    tables = list(model_tables(rows(NONE, EACH, ALL, worse)))
    assert [line.dominated for made in tables for line in made.lines] == [False, False, True, False]


def test_messages_are_noted_with_their_placement() -> None:
    assert table(NONE, EACH, LOST).notes == (
        "each: buffer bn.running_mean differs",
        "sqrt: timing: not done after 3 s",
    )


def test_the_plain_table_by_hand() -> None:
    assert plain_table(table(NONE, EACH, ALL, LOST)).splitlines() == [
        "toy on cpu",
        "placement      peak MiB    saved     step    ratio    95 % interval    recompute  gradients    buffers",
        "-----------  ----------  -------  -------  -------  ---------------  -----------  -----------  ---------",
        "none              200.0      0 %    10 ms    1.00×        1.00-1.00               bitwise      equal",
        "each               50.0     75 %  12.5 ms    1.25×        1.25-1.25    226 MFLOP  noise        different",
        "(all)             210.0   -5.0 %    15 ms    1.50×        1.50-1.50               different    equal",
        "sqrt               60.0     70 %  timeout",
    ]


def test_the_drawn_table_dims_the_dominated_and_reddens_what_is_wrong() -> None:
    lines = {bare(line).strip("│ ").split(" ")[0]: line for line in drawn(table(NONE, EACH, ALL, LOST))}
    assert {name: DIM in lines[name] for name in ("none", "each", "all", "sqrt")} == {
        **dict.fromkeys(("none", "each", "sqrt"), False),
        "all": True,
    }
    assert {name: RED in lines[name] for name in ("none", "each", "all", "sqrt")} == {
        **dict.fromkeys(("each", "all", "sqrt"), True),
        "none": False,
    }
    assert "timeout" in lines["sqrt"]


@pytest.mark.parametrize(
    "name", ["modules:body.[13]", "[bold]", "[/red]", "net.py:build?act=[relu]", ":smile:", "\\[x]"]
)
def test_names_are_shown_as_they_are(name: str) -> None:
    made = table(measurement(name, model=name))
    for text in (plain_table(made), "\n".join(map(bare, drawn(made)))):
        assert text.count(name) == 2
        assert f"{name} on cpu" in text


@pytest.mark.parametrize("width", [60, 80, 100])
def test_a_narrow_terminal_hides_nothing(width: int) -> None:
    made = table(NONE, EACH, ALL, LOST, measurement("each+batch_norm=once"))
    assert list(map(bare, drawn(made, width)))[1:] == list(map(bare, drawn(made)))[1:]


@st.composite
def runs(draw: st.DrawFn) -> list[Measurement]:
    samples = st.builds(
        lambda step_s, plain_s: Timing(step_s=(step_s,) * 5, plain_s=(plain_s,) * 5),
        st.sampled_from((0.01, 0.02, 0.03)),
        st.sampled_from((0.01, 0.02)),
    )
    return [
        measurement(
            f"every:{place}",
            status=draw(st.sampled_from(("ok", "ok", "ok", "out_of_memory"))),
            memory=draw(st.none() | st.integers(1, 4).map(memory)),
            timing=draw(st.none() | samples),
            equality=draw(st.none() | st.sampled_from(("bitwise", "different")).map(equality)),
        )
        for place in range(draw(st.integers(1, 6)))
    ]


@settings(deadline=None, max_examples=50)
@given(runs())
def test_every_placement_stands_once_in_both_and_both_say_the_same(cases: list[Measurement]) -> None:
    made, behind = table(*cases), dominated(rows(*cases))
    plain = plain_table(made).splitlines()[3:]
    coloured = [line for line in drawn(made) if "every:" in line]
    assert len(plain) == len(coloured) == len(cases)
    for case, written, shown in zip(cases, plain, coloured, strict=True):
        name = case.placement
        assert written.split()[0] == (f"({name})" if name in behind else name)
        assert (DIM in shown) == (name in behind)
        wrong = case.equality is not None and case.equality.gradients == "different"
        assert (RED in shown) == (case.status != "ok" or wrong)
        assert (str(case.status) in written) == (str(case.status) in shown) == (case.status != "ok")
        assert written.split()[1:] == bare(shown).replace("│", " ").split()[1:]
