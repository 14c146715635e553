"""The words of the page's script: it picks one by its name and fills the `{places}` in it, and has none of its own."""

from __future__ import annotations

from typing import Any

from rematbench.reporting.answers import KINDS

STATIC = {"static": "parameters, buffers, batch, optimizer state"}

WORDS: dict[str, Any] = {
    # By the kind of the budget, as in `plan:`: a share or a size, of everything or with /step of the step alone.
    "room": {
        "share": "{amount} of all that none takes ({room} above the start of the step)",
        "share/step": "{amount} of none's peak ({room} above the start of the step)",
        "size": "{amount} in all ({room} above the start of the step)",
        "size/step": "{amount} above the start of the step",
    },
    "line": {
        "share": "{amount} of all of none",
        "share/step": "{amount} of none",
        "size": "{amount} in all",
        "size/step": "{amount} for the step",
    },
    "line_of": "{line}, {labels}",
    "answer": "Within {room}, the cheapest placement is {choice}. {training}",
    "buffers_differ": (
        "Its gradients are none's, but buffers end up different; the cheapest that leaves them equal is {other}."
    ),
    "nothing_fits": "No placement measured fits {room}; the least is {least}.",
    "no_plain": "there is no peak of none to take per cent of; give a size.",
    "out_of_memory": "ran out of memory",
    "capacity": "all of the device's memory",
    "close": "put {title} away",
    "count": "{shown} of {all} rows",
    # The headings of a card's charts, by their names.
    "timeline": "The step over time",
    "shares": "What is held at the peak",
    "share": {kind: f"{{bytes}}: {words}" for kind, words in (KINDS | STATIC).items()},
    "at_the_peak": "at the peak",
    "before": "before",
    "before_the_step": "there before the step, on top of the peak",
    "strip": "Blocks in their order, darker for more kept after forward; recomputed regions beneath, skips above",
    "recomputing": "recomputing",
    "moment": "{bytes} at {time}",
    "kept": "keeps {bytes}",
    "not_told_apart": "not told apart",
    "left_out": (
        "The step over time and the blocks of this row are left out, as the page has no room for those of all rows. "
        "Report a run, or `--model` one model, of fewer."
    ),
    "not_recorded": "The step over time and the blocks were not recorded for this row.",
}
