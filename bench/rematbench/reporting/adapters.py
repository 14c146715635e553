"""Findings and rows in the shapes that other tools take."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from xml.etree import ElementTree

from rematbench.records.gate import Finding, Mark, row_name
from rematbench.records.run import Key, Run

_NOT_IN_XML = re.compile("[^\\t\\n\\r\\x20-\\ud7ff\\ue000-\\ufffd\\U00010000-\\U0010ffff]")
"""Characters that XML 1.0 has no way to write, such as the colours in a model's own message; � stands for each."""

_FAILING = (Mark.TRAINING, Mark.REGRESSION)


def smaller_is_better(run: Run) -> str:
    """Write peaks and recomputation as github-action-benchmark's `customSmallerIsBetter` takes them."""
    entries = [
        {
            "name": f"{row_name(cells)} on {cells['device']}, {cells['dtype']}: {what}",
            "unit": unit,
            "value": cells[column],
            "extra": str(cells["regions"] or ""),
        }
        for cells in run.cells
        for what, unit, column in (("peak", "bytes", "peak_bytes"), ("recompute", "FLOP", "recompute_flops"))
        if cells[column] is not None
    ]
    return json.dumps(entries, indent=2) + "\n"


def junit(run: Run, findings: Iterable[Finding]) -> str:
    """Write JUnit XML: a test case a row, a failure for a regression, an error where there is no judging."""
    by_key: dict[Key, list[Finding]] = {}
    for finding in findings:
        by_key.setdefault(finding.key, []).append(finding)
    keys = dict.fromkeys([*run.rows, *by_key])
    suite = ElementTree.Element("testsuite", name="rematbench", tests=str(len(keys)))
    for key in keys:
        model, placement, device, dtype = key
        case = ElementTree.SubElement(suite, "testcase", classname=f"{model}.{device}.{dtype}", name=placement)
        for finding in by_key.get(key, ()):
            if finding.mark in _FAILING or finding.mark is Mark.UNJUDGED:
                kind = "failure" if finding.mark in _FAILING else "error"
                ElementTree.SubElement(case, kind, message=finding.text, type=str(finding.mark))
    for kind in ("failure", "error"):
        suite.set(f"{kind}s", str(len(suite.findall(f"testcase/{kind}"))))
    text = ElementTree.tostring(suite, encoding="unicode", xml_declaration=True)
    return _NOT_IN_XML.sub("\ufffd", text) + "\n"
