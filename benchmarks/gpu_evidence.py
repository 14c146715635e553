"""What is known of GPUs from reading alone, asked of one: `make gpu-evidence`, or `python benchmarks/gpu_evidence.py`.

Every question is a process of its own, so that none ends another, and is asked once: what is in OUT/evidence.jsonl is
not asked again. Beside it come evidence.csv and summary.txt. It needs torch from 2.9 on, pydantic and numpy, and scipy
for the plans; nothing need be installed: `PYTHONPATH=bench`. Without a GPU, what needs one is SKIPPED.

Exit codes: 0, every answer is as expected, or is told without an expectation, or skipped; 1, one is not (FAILS), or
has raised or taken too long (RAISED); 2, the arguments are wrong.
"""

from __future__ import annotations

import argparse
import csv
import gc
import importlib.util
import json
import os
import random
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MIB = 2**20
ODD = 23 * MIB // 2 + 4  # rounded up to a block of 12 MiB, of which nothing is split off
SOME = ("plain.mlp", "residual.conv_bn", "attention_fusion.attentive")
STRATEGIES = ("none", "each", "nested:2")
QUESTION_S, ALL_S = 150, 560


@dataclass(frozen=True, kw_only=True)
class Question:
    """One thing to find out; `ask` says what it finds through `Asked`."""

    about: str
    ask: Callable[[Asked], None]
    needs_card: bool
    variables: dict[str, str]


QUESTIONS: dict[str, Question] = {}


def question(*, card: bool = False, **variables: str) -> Callable[[Callable[[Asked], None]], Callable[[Asked], None]]:
    """Declare a question by its function: the name is the function's, what it is about the docstring's first line."""

    def declare(ask: Callable[[Asked], None]) -> Callable[[Asked], None]:
        about = (ask.__doc__ or "").splitlines()[0]
        QUESTIONS[ask.__name__] = Question(about=about, ask=ask, needs_card=card, variables=variables)
        return ask

    return declare


class Asked:
    """A question as it is asked: the device, the sizes, and where its answers go."""

    def __init__(self, name: str, device: str, gib: float, is_small: bool, lines: Path) -> None:
        from rematbench.workload.devices import find_device, is_accelerator, use_device

        self.name, self.gib, self.is_small = name, gib, is_small
        self.device = find_device(device)
        self.is_card = is_accelerator(self.device)
        use_device(self.device)
        self._lines = lines

    def say(self, what: str, verdict: str = "TOLD", **facts: Any) -> None:
        """Keep an answer."""
        write(self._lines, question=self.name, what=what, verdict=verdict, **facts)

    def check(self, what: str, holds: bool, **facts: Any) -> None:
        """Keep an answer that was expected."""
        self.say(what, "HOLDS" if holds else "FAILS", **facts)

    def counters(self) -> Any:
        """Return the allocator's counters."""
        from rematbench.measuring.accelerator_meter import memory_counters

        return memory_counters(self.device)

    def sessions(self, *only: str) -> Iterator[tuple[str, Any]]:
        """Yield each model of the suite `default` and its session; one that raises is told of and left out."""
        from rematbench.measuring.session import Session
        from rematbench.suite.suite import Device, load_suite
        from rematbench.workload.building import build
        from rematbench.workload.devices import release_cached

        size = Device(name=str(self.device), capacity_bytes=int(self.gib * 2**30) if self.is_card else None)
        for entry in load_suite("default").models:
            if (only or self.is_small) and entry.model not in (only or SOME[:2]):
                continue
            try:
                ref = entry.ref(ROOT, size)
                if not self.is_card:
                    ref = ref.model_copy(
                        update={"arguments": {**ref.arguments, "batch": max(4, ref.arguments["batch"] // 20)}}
                    )
                yield entry.model, Session(build(ref, self.device, seed=0), self.device)
            except Exception as error:
                self.say(entry.model, "RAISED", error=one_line(error), trace=traceback.format_exc()[-1500:])
            release_cached(self.device)

    def placements(self, session: Any, *strategies: str) -> list[Any]:
        """Return placements on a session's model."""
        from rematbench.placement.registry import parse_strategy
        from rematbench.placing.outline import outline

        return [parse_strategy(text).resolve(outline(session.workload.module)) for text in strategies]


def write(lines: Path, **facts: Any) -> None:
    """Add one answer as a line of JSON."""
    with lines.open("a", encoding="utf-8") as file:
        file.write(json.dumps(facts, default=str) + "\n")


def one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


# --- the machine


@question()
def machine(asked: Asked) -> None:
    """What is it?"""
    import torch

    from rematbench.workload import devices

    asked.say(
        "machine",
        torch=torch.__version__,
        device=str(asked.device),
        name=devices.device_name(asked.device),
        software=devices.software_of(asked.device),
        capacity_bytes=devices.capacity_bytes(asked.device),
        free_total=devices.memory_info(asked.device),
        others=devices.others_notice(asked.device),
        notice=devices.accelerator_notice(),
        settings={name: value for name, value in os.environ.items() if "ALLOC_CONF" in name},
    )


@question()
def self_test(asked: Asked) -> None:
    """Does the meter see what is asked for, to the byte?"""
    from rematbench.measuring.meter import meter_for
    from rematbench.measuring.meter import self_test as tested

    meter = meter_for(asked.device)
    asked.check("self-test", "MiB seen" in (line := tested(meter, asked.device)), line=line, meter=meter.name)


@question(card=True, PYTORCH_ALLOC_CONF="backend:cudaMallocAsync")
def malloc_async(asked: Asked) -> None:
    """Does the meter do with cudaMallocAsync, which does not count what is asked for?"""
    self_test(asked)


@question(card=True)
def second_card(asked: Asked) -> None:
    """Does a model that says `cuda` get the card that was asked for?"""
    import torch

    from rematbench.workload.devices import use_device

    count = torch.accelerator.device_count()
    if count < 2:
        asked.say("cards", "SKIPPED", count=count)
        return
    use_device(torch.device(asked.device.type, 1))
    found = torch.empty(1, device=asked.device.type).device
    asked.check("the second card is used", found.index == 1, found=found)


# --- the allocator


@question(card=True)
def blocks(asked: Asked) -> None:
    """Are blocks larger than what is asked for, and is that not counted as requested?"""
    import torch

    torch.accelerator.empty_cache()
    before = asked.counters()
    kept = torch.empty(ODD, dtype=torch.uint8, device=asked.device)
    after = asked.counters()
    grown = {
        name: after[f"{name}.all.current"] - before[f"{name}.all.current"]
        for name in ("requested_bytes", "allocated_bytes", "active_bytes", "reserved_bytes")
    }
    asked.check("requested is what was asked for", grown["requested_bytes"] == kept.numel(), asked=ODD, **grown)
    asked.check("allocated is the block", grown["allocated_bytes"] == 12 * MIB, **grown)


def _against_the_model(asked: Asked, *, expandable: bool) -> None:
    import torch

    from rematbench.traces.caching_allocator import AllocatorSettings, CachingAllocator

    chance, model = random.Random(0), CachingAllocator(AllocatorSettings(expandable_segments=expandable))
    torch.accelerator.synchronize()
    torch.accelerator.empty_cache()
    names = ("requested_bytes", "allocated_bytes", "reserved_bytes")
    start = [asked.counters()[f"{name}.all.current"] for name in names]
    live: list[tuple[torch.Tensor, int]] = []
    different, worst = [], 0
    for step in range(600):
        if live and chance.random() < 0.45:
            tensor, address = live.pop(chance.randrange(len(live)))
            del tensor
            model.free(address)
        else:
            size = int(2 ** chance.uniform(4, 27))
            live.append((torch.empty(size, dtype=torch.uint8, device=asked.device), model.allocate(size)))
        real = [asked.counters()[f"{name}.all.current"] - at for name, at in zip(names, start, strict=True)]
        told = [model.requested.current, model.allocated.current, model.reserved.current]
        worst = max(worst, abs(real[2] - told[2]))
        if real != told:
            different.append((step, real, told))
    asked.check(
        "600 random allocations and frees count as in the model",
        not different,
        different=len(different),
        first=different[:1],
        reserved_off_by=worst,
    )


@question(card=True)
def allocator_model(asked: Asked) -> None:
    """Does the model of the allocator count as the allocator does?"""
    _against_the_model(asked, expandable=False)


@question(card=True, PYTORCH_ALLOC_CONF="expandable_segments:True")
def expandable_model(asked: Asked) -> None:
    """Does it with expandable segments?"""
    _against_the_model(asked, expandable=True)


@question(card=True)
def history(asked: Asked) -> None:
    """Does the history have an entry for each count, as much as was asked for, and what is its clock?"""
    import torch

    from rematbench.torch_internals import allocator_history, start_allocator_history, stop_allocator_history

    start_allocator_history(asked.device)
    try:
        before, clocks = asked.counters(), []
        for size in range(1000, 2000):
            start = time.time_ns() // 1000
            tensor = torch.empty(size, dtype=torch.uint8, device=asked.device)
            clocks.append((start, time.time_ns() // 1000))
            del tensor
        after, entries = asked.counters(), allocator_history(asked.device)
    finally:
        stop_allocator_history(asked.device)
    counted = sum(after[f"active.all.{name}"] - before[f"active.all.{name}"] for name in ("allocated", "freed"))
    kept = [entry for entry in entries if entry["action"] in ("alloc", "free_completed")]
    made = [entry for entry in kept if entry["action"] == "alloc"]
    asked.check("an entry for each count", len(kept) == counted, entries=len(kept), counted=counted)
    asked.check("sizes as asked for", [entry["size"] for entry in made] == [*range(1000, 2000)], keys=sorted(made[0]))
    off = [
        max(start - entry["time_us"], entry["time_us"] - stop)
        for entry, (start, stop) in zip(made, clocks, strict=True)
    ]
    asked.say("microseconds by which the clocks differ", most=max(off))


@question(card=True)
def side_stream(asked: Asked) -> None:
    """Is what another stream still uses counted as requested until it is done?"""
    import torch

    stream = torch.Stream(asked.device)
    tensor = torch.empty(64 * MIB, dtype=torch.uint8, device=asked.device)
    with stream:
        for _ in range(200):
            tensor.add_(1)
    tensor.record_stream(stream)
    before = asked.counters()
    del tensor
    after = asked.counters()
    torch.accelerator.synchronize()
    torch.accelerator.empty_cache()
    later = asked.counters()
    for name in ("requested_bytes", "allocated_bytes", "active_bytes"):
        key = f"{name}.all.current"
        asked.say(name, at_once=after[key] - before[key], when_done=later[key] - before[key])


@question(card=True)
def workspaces(asked: Asked) -> None:
    """How much do the first steps leave behind, for cuBLAS and cuDNN?"""
    import torch

    layer, start = torch.nn.Linear(512, 512, device=asked.device), asked.counters()["requested_bytes.all.current"]
    left = []
    for _ in range(3):
        layer(torch.randn(64, 512, device=asked.device)).square().sum().backward()
        layer.zero_grad()
        left.append(asked.counters()["requested_bytes.all.current"] - start)
    asked.say("bytes left after each step", left=left)
    asked.check("none after the first", left[1] == left[2])


# --- the meter on real steps


@question()
def meter(asked: Asked) -> None:
    """Is the history believed on every model, do passes agree, and does the model know what is reserved?"""
    from rematbench.traces.caching_allocator import AllocatorSettings, by_segment_kind, reserved
    from rematbench.workload.building import static_bytes

    for name, session in asked.sessions():
        static = [parameter.untyped_storage().nbytes() for parameter in session.workload.module.parameters()]
        rest = static_bytes(session.workload) - sum(static)
        before = [*static, *([rest] if rest > 0 else [])]
        for text, placement in zip(STRATEGIES, asked.placements(session, *STRATEGIES), strict=True):
            session.timed_step(placement)  # as in a run, where it is compared with the plain step before it is metered
            start = time.perf_counter()
            first, second = session.readings(placement)
            seconds = time.perf_counter() - start
            facts = {"model": name, "placement": text, "peak_bytes": first.peak_bytes, "read_s": round(seconds, 3)}
            asked.check("history believed", first.timeline is not None, **facts)
            asked.check("passes agree", first == second, again=second.peak_bytes, **facts)
            trace = session.trace(placement)
            if trace is None:
                continue
            asked.check("the peak is the sum of the trace", max(trace.sums) == first.peak_bytes, **facts)
            kinds = by_segment_kind([trace], before=before)
            told = {"modelled": kinds.fixed.reserved_bytes, "expandable": kinds.expandable.reserved_bytes, **facts}
            if first.reserved_bytes is not None:
                is_expandable = "expandable_segments:True" in os.environ.get("PYTORCH_ALLOC_CONF", "")
                found = reserved([trace], AllocatorSettings(expandable_segments=is_expandable), before=before)
                told |= {"reserved": first.reserved_bytes, "allocated": first.allocated_bytes}
                told["off"] = round(found.reserved_bytes / first.reserved_bytes - 1, 4)
                told["excess_of_blocks"] = round((first.allocated_bytes or 0) / max(1, first.peak_bytes) - 1, 4)
            asked.say("reserved, and as modelled", **told)


@question(card=True, PYTORCH_ALLOC_CONF="expandable_segments:True")
def expandable_meter(asked: Asked) -> None:
    """The same with expandable segments."""
    meter(asked)


@question()
def repeats(asked: Asked) -> None:
    """Are peaks the same in three sessions of their own?"""
    peaks: dict[str, list[int]] = {}
    for _ in range(3):
        for name, session in asked.sessions(*SOME):
            (placement,) = asked.placements(session, "each")
            session.timed_step(placement)
            peaks.setdefault(name, []).append(session.peak_bytes(placement))
    for name, found in peaks.items():
        asked.check("the same three times", len(set(found)) == 1, model=name, peaks=found)


@question()
def noise(asked: Asked) -> None:
    """How far are plain steps apart, and is a placement that changes nothing ever called different?"""
    for name, session in asked.sessions():
        session.keep_plain()
        (placement,) = asked.placements(session, "each")
        found = [session.measure(placement) for _ in range(1 if asked.is_small else 3)]
        verdicts = [each.equality.gradients for each in found if each.equality]
        asked.check(
            "no placement is accused",
            "different" not in verdicts,
            model=name,
            verdicts=verdicts,
            unsteadiness=found[0].unsteadiness,
            buffer=found[0].equality.buffer if found[0].equality else None,
        )


# --- running out of memory


@question(card=True)
def out_of_memory(asked: Asked) -> None:
    """Is running out told from other errors, and is the model measured the same after it?"""
    import torch

    from rematbench.workload.devices import is_out_of_memory, memory_capped, release_cached

    for name, session in asked.sessions(*SOME, "plain.sequence"):
        (plain,) = asked.placements(session, "none")
        peak = session.peak_bytes(plain)
        for share in (0.9, 0.6, 0.3, 0.05):
            session.fresh()
            release_cached(asked.device)
            most = torch.accelerator.memory_reserved(asked.device) + int(share * peak)
            verdict, said = "TOLD", "it ran"
            try:
                with memory_capped(asked.device, most):
                    session.timed_step(plain)
            except Exception as error:
                verdict, said = "HOLDS" if is_out_of_memory(error) else "FAILS", one_line(error)
            session.fresh()
            release_cached(asked.device)
            asked.say("under a cap", verdict, model=name, share=share, said=said)
        session._readings.clear()
        again = session.peak_bytes(plain)
        asked.check("as before after running out", again == peak, model=name, peaks=(peak, again))


@question()
def plans(asked: Asked) -> None:
    """Do plans run in their budget, how much is reserved for them, and how long do they take beside the prediction?"""
    from rematbench.errors import PlacementError
    from rematbench.measuring.capped import capped_run
    from rematbench.placement.registry import parse_goal
    from rematbench.planner.planner import Planner

    for name, session in asked.sessions(*SOME[: 1 if asked.is_small else None]):
        session.keep_plain()
        (plain,) = asked.placements(session, "none")
        planner = Planner(session, asked.device)
        for text in ("plan-flops:60%",) if asked.is_small else ("plan-flops:60%", "plan:60%"):
            start = time.perf_counter()
            try:
                planned = planner.plan(parse_goal(text))
            except PlacementError as error:
                asked.say("no plan", model=name, plan=text, error=one_line(error))
                continue
            took, facts = time.perf_counter() - start, planned.facts
            ratios = [session.timed_step(planned.placement) / session.timed_step(plain) for _ in range(7)]
            run = capped_run(session, asked.device, planned.placement, facts.budget_bytes)
            known = {
                "model": name,
                "plan": text,
                "regions": str(planned.placement)[:160],
                "plan_s": round(took, 2),
                "budget_bytes": facts.budget_bytes,
                "predicted_bytes": facts.predicted_peak_bytes,
                "measured_bytes": facts.measured_peak_bytes,
                "reserved_bytes": run.reserved_bytes if run else None,
                "predicted_ratio": facts.predicted_ratio,
                "measured_ratio": round(statistics.median(ratios[2:]), 4),
            }
            asked.check("it runs in its budget", run is None or run.ran, **known)


# --- time, and what the user sets


@question()
def times(asked: Asked) -> None:
    """Is a first step slower once the cache is emptied, and does waiting for the device tell its time?"""
    import torch

    from rematbench.workload.devices import release_cached
    from rematbench.workload.step import training_step

    for name, session in asked.sessions(*SOME):
        for placement in asked.placements(session, *STRATEGIES[:2]):
            session.timed_step(placement)
            usual = [session.timed_step(placement) for _ in range(5)]
            session.fresh()
            release_cached(asked.device)
            first = session.timed_step(placement)
            facts: dict[str, Any] = {"model": name, "placement": placement.name or "none"}
            asked.say(
                "seconds a step",
                usual=statistics.median(usual),
                first_over_usual=first / statistics.median(usual),
                **facts,
            )
        if asked.is_card:
            session.fresh()
            begun, ended = (torch.Event(asked.device, enable_timing=True) for _ in range(2))
            start = time.perf_counter()
            begun.record()
            training_step(session.workload)
            ended.record()
            queued = time.perf_counter() - start
            ended.synchronize()
            waited = time.perf_counter() - start
            device_s = begun.elapsed_time(ended) / 1e3
            asked.say("host and device", model=name, queued_s=queued, waited_s=waited, device_s=device_s)


@question(card=True)
def offload(asked: Asked) -> None:
    """What does offloading save, cost and take of the host?"""
    import torch

    for name, session in asked.sessions(*SOME):
        session.keep_plain()
        each, away = asked.placements(session, "each", "each+offload=true")
        found = session.measure(away)
        host: dict[str, int] = torch.cuda.host_memory_stats() if asked.device.type == "cuda" else {}
        asked.check(
            "training is the same",
            found.equality is not None and found.equality.gradients in ("bitwise", "noise"),
            model=name,
            peaks=(session.peak_bytes(each), found.memory.peak_bytes),
            step_s=[statistics.median(session.timed_step(each) for _ in range(4)) for each in (each, away)],
            host_bytes=host.get("allocated_bytes.peak"),
        )


@question(card=True)
def tuned_kernels(asked: Asked) -> None:
    """Do peaks still agree where cuDNN tries its algorithms (`torch.backends.cudnn.benchmark`)?"""
    import torch

    torch.backends.cudnn.benchmark = True
    for name, session in asked.sessions("residual.conv_bn", "plain.cnn"):
        session.keep_plain()
        (placement,) = asked.placements(session, "each")
        found = session.measure(placement)
        gradients = found.equality.gradients if found.equality else None
        peaks = found.memory.passes_peak_bytes
        asked.check("passes agree", found.memory.repeatable, model=name, peaks=peaks, gradients=gradients)


# --- asking


def ask(name: str, options: argparse.Namespace, lines: Path) -> None:
    """Ask one question in this process; what it raises is an answer."""
    start = time.perf_counter()
    try:
        asked = Asked(name, options.device, options.gib, options.small, lines)
        if QUESTIONS[name].needs_card and not asked.is_card:
            asked.say(QUESTIONS[name].about, "SKIPPED", why="needs a card")
        else:
            QUESTIONS[name].ask(asked)
    except Exception as error:
        write(
            lines,
            question=name,
            what=QUESTIONS[name].about,
            verdict="RAISED",
            error=one_line(error),
            trace=traceback.format_exc()[-1500:],
        )
    gc.collect()
    write(lines, question=name, what="done", verdict="TOLD", seconds=round(time.perf_counter() - start, 2))


def ask_apart(name: str, options: argparse.Namespace, lines: Path, limit_s: float) -> None:
    """Ask one question in a process of its own, for so long at most."""
    command = [sys.executable, str(Path(__file__)), "--one", name, "--out", str(options.out)]
    command += ["--device", options.device, "--gib", str(options.gib), *(["--small"] if options.small else [])]
    path = os.pathsep.join(filter(None, (str(ROOT / "bench"), os.environ.get("PYTHONPATH"))))
    environment = {**os.environ, "PYTHONPATH": path, **QUESTIONS[name].variables}
    said: dict[str, Any] = {}
    try:
        done = subprocess.run(
            command, env=environment, cwd=ROOT, timeout=limit_s, capture_output=True, text=True, check=False
        )
        if done.returncode:
            said = {"error": f"the process ended with {done.returncode}", "trace": done.stderr[-1500:]}
    except subprocess.TimeoutExpired:
        said = {"error": f"no end within {limit_s:.0f} s"}
    if said:
        write(lines, question=name, what=QUESTIONS[name].about, verdict="RAISED", **said)
        write(lines, question=name, what="done", verdict="TOLD")


def summary(lines: Path) -> tuple[str, bool]:
    """Return the answers as text, and whether all are well; `evidence.csv` is written beside the lines."""
    answers = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    with lines.with_name("evidence.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["question", "what", "verdict", "facts"])
        for answer in answers:
            rest = {name: value for name, value in answer.items() if name not in ("question", "what", "verdict")}
            writer.writerow([answer["question"], answer["what"], answer["verdict"], json.dumps(rest)])
    text = []
    for name in dict.fromkeys(answer["question"] for answer in answers):
        own = [answer for answer in answers if answer["question"] == name and answer["what"] != "done"]
        seconds = next(
            (answer.get("seconds") for answer in answers if answer["question"] == name and answer["what"] == "done"),
            None,
        )
        counts = {verdict: sum(answer["verdict"] == verdict for answer in own) for verdict in VERDICTS}
        told = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        text.append(f"{name}: {QUESTIONS[name].about} {told or 'nothing'} ({seconds} s)")
        shown = [answer for answer in own if answer["verdict"] in ("FAILS", "RAISED")] or own[:1]
        for answer in shown[:8]:
            facts = {key: value for key, value in answer.items() if key not in ("question", "trace")}
            text.append("    " + json.dumps(facts, ensure_ascii=False)[:400])
    return "\n".join(text) + "\n", not any(answer["verdict"] in ("FAILS", "RAISED") for answer in answers)


def has_no_card(device: str, lines: Path) -> bool:
    """Tell whether what needs a card need not be asked: the processor was named, or is what `machine` has found."""
    known = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    return device == "cpu" or any(each.get("device") == "cpu" for each in known if each["question"] == "machine")


VERDICTS = ("HOLDS", "FAILS", "RAISED", "SKIPPED", "TOLD")


def main(arguments: list[str] | None = None) -> int:
    """Ask what has not been answered yet; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:N, xpu, mps or auto")
    parser.add_argument("--out", type=Path, default=Path("results/gpu-evidence"), help="the folder of the answers")
    parser.add_argument("--gib", type=float, default=8.0, help="models are sized as for a card of so many GiB")
    parser.add_argument("--questions", default="", help=f"of {', '.join(QUESTIONS)}, joined by commas; all of them")
    parser.add_argument("--small", action="store_true", help="fewer models and repetitions")
    parser.add_argument("--limit", type=float, default=ALL_S, help="seconds after which no question is begun")
    parser.add_argument("--one", default="", help="ask one question in this process, and sum nothing up")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    options.out = options.out.resolve()
    lines = options.out / "evidence.jsonl"
    names = [name for name in options.questions.split(",") if name] or [*QUESTIONS]
    if unknown := {*names, *filter(None, [options.one])} - {*QUESTIONS}:
        parser.error(f"unknown questions {', '.join(sorted(unknown))}: known are {', '.join(QUESTIONS)}")
    if options.one:
        ask(options.one, options, lines)
        return 0
    missing = [name for name in ("torch", "pydantic", "numpy") if importlib.util.find_spec(name) is None]
    if missing:
        parser.error(f"packages are missing: {', '.join(missing)}")
    lines.touch()
    known = [json.loads(line) for line in lines.read_text(encoding="utf-8").splitlines()]
    answered = {answer["question"] for answer in known if answer["what"] == "done"}
    begun = time.monotonic()
    for name in names:
        left = options.limit - (time.monotonic() - begun)
        if name in answered or left <= 0:
            continue
        print(f"{name}: {QUESTIONS[name].about}", flush=True)
        if QUESTIONS[name].needs_card and has_no_card(options.device, lines):
            write(lines, question=name, what=QUESTIONS[name].about, verdict="SKIPPED", why="needs a card")
            write(lines, question=name, what="done", verdict="TOLD", seconds=0.0)
        else:
            ask_apart(name, options, lines, min(QUESTION_S, max(left, 10)))
        (options.out / "summary.txt").write_text(summary(lines)[0], encoding="utf-8")
    text, is_well = summary(lines)
    print(text)
    left_out = [name for name in names if f'"question": "{name}"' not in lines.read_text(encoding="utf-8")]
    if left_out:
        print(f"no time was left for {', '.join(left_out)}: run it again, and they are asked")
    (options.out / "summary.txt").write_text(text, encoding="utf-8")
    return 0 if is_well else 1


if __name__ == "__main__":
    sys.exit(main())
