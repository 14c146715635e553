"""The order of timed steps, with a clock that does not wait."""

from collections.abc import Iterator

import pytest

from rematbench.measuring.timing import MAX_ROUNDS, MIN_ROUNDS, schedule

NAMES = ("none", "each", "sqrt")


class FakeClock:
    """Seconds that pass only when a step is run."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def run(self, order: Iterator[str], step_s: float) -> list[str]:
        done = []
        for name in order:
            self.now += step_s
            done.append(name)
        return done


def test_every_placement_runs_once_a_round_in_shuffled_order() -> None:
    clock = FakeClock()
    order = clock.run(schedule(NAMES, seed=3, budget_s=1.0, clock=clock, rounds=40), step_s=0.1)
    rounds = [tuple(order[start : start + 3]) for start in range(0, len(order), 3)]
    assert len(rounds) == 40
    assert all(sorted(names) == sorted(NAMES) for names in rounds)
    assert len(set(rounds)) == 6  # every order comes up


def test_the_seed_fixes_the_order() -> None:
    def orders(seed: int) -> list[str]:
        return list(schedule(NAMES, seed=seed, budget_s=1.0, clock=FakeClock(), rounds=10))

    assert orders(1) == orders(1) != orders(2)


@pytest.mark.parametrize(
    ("step_s", "rounds"),
    [(1.0, MIN_ROUNDS), (0.1, 34), (0.01, MAX_ROUNDS), (0.0, MAX_ROUNDS)],
    ids=["a slow step still gets an interval", "the budget decides", "enough is enough", "a clock that stands still"],
)
def test_rounds_follow_the_time_budget(step_s: float, rounds: int) -> None:
    clock = FakeClock()
    order = clock.run(schedule(NAMES, seed=0, budget_s=10.0, clock=clock), step_s)
    assert len(order) == rounds * len(NAMES)


def test_no_rounds_are_no_steps() -> None:
    assert list(schedule(NAMES, seed=0, budget_s=10.0, clock=FakeClock(), rounds=0)) == []


def test_rounds_end_when_what_was_timed_will_do() -> None:
    clock, asked = FakeClock(), []

    def is_settled() -> bool:
        asked.append(len(done) // len(NAMES))
        return len(asked) == 4

    done: list[str] = []
    for name in schedule(NAMES, seed=0, budget_s=100.0, clock=clock, is_settled=is_settled):
        clock.now += 0.1
        done.append(name)
    assert asked == [5, 7, 10, 14]
    assert len(done) == 14 * len(NAMES)


def test_rounds_that_were_asked_for_are_run() -> None:
    order = list(schedule(NAMES, seed=0, budget_s=1.0, clock=FakeClock(), rounds=9, is_settled=lambda: True))
    assert len(order) == 9 * len(NAMES)
