"""Phase times, and the live display on wide, narrow and no terminals."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console

from marl.training import progress as module
from marl.training.progress import PhaseClock, Progress, _count, _duration


class Clocks:
    """Replaces the clocks of the module."""

    def __init__(self) -> None:
        self.wall = self.cpu = 100.0

    def perf_counter(self) -> float:
        return self.wall

    def process_time(self) -> float:
        return self.cpu

    def pass_(self, wall: float, cpu: float = 0.0) -> None:
        self.wall += wall
        self.cpu += cpu


@pytest.fixture
def clocks(monkeypatch: pytest.MonkeyPatch) -> Clocks:
    clocks = Clocks()
    monkeypatch.setattr(module, "time", clocks)
    return clocks


def test_inner_phases_count_for_themselves_alone(clocks: Clocks) -> None:
    clock = PhaseClock()
    clocks.pass_(9)
    with clock.phase("world"):
        clocks.pass_(3, 1)
        with clock.phase("guidance"):
            clocks.pass_(2, 2)
        clocks.pass_(1)
    clocks.pass_(9)
    with pytest.raises(ZeroDivisionError), clock.phase("world"):
        clocks.pass_(4)
        raise ZeroDivisionError
    assert clock.wall == {"world": 8, "guidance": 2}
    assert clock.cpu == {"world": 1, "guidance": 2}


def play(clocks: Clocks, console: Console, iterations: int = 3) -> Progress:
    clock = PhaseClock()
    with Progress(1_000_000, "throughput", console=console) as progress:
        for i in range(1, iterations + 1):
            with clock.phase("world"):
                clocks.pass_(6)
            clocks.pass_(4)
            progress.update({"agent_steps": i * 200_000, "episode/throughput": 1.25, "reward": 0.5}, clock)
    return progress


def test_speed_and_shares(clocks: Clocks) -> None:
    progress = play(clocks, Console(file=io.StringIO()))
    assert progress.speed() == 20_000
    assert progress.shares() == pytest.approx({"world": 0.6, "other": 0.4})


def test_plain_lines_where_there_is_no_terminal(clocks: Clocks) -> None:
    out = io.StringIO()
    play(clocks, Console(file=out, width=40))
    lines = out.getvalue().splitlines()
    assert lines[0] == "200k/1M agent-steps | 20k/s | reward 0.5 | throughput 1.25 | world 60%, other 40% | 0:40 left"
    assert lines[-1] == (
        "600k/1M agent-steps | 20k/s | reward 0.5 | throughput 1.25 | world 60%, other 40% | 0:20 left"
    )
    assert "\x1b" not in out.getvalue()


def test_lines_are_seconds_apart(clocks: Clocks) -> None:
    out = io.StringIO()
    with Progress(100, console=Console(file=out)) as progress:
        for i in range(100):
            clocks.pass_(0.1)
            progress.update({"agent_steps": i + 1}, PhaseClock())
    assert len(out.getvalue().splitlines()) == 3
    assert out.getvalue().endswith("done\n")


@pytest.mark.parametrize("width", [200, 80, 20, 5])
def test_the_display_fits_the_terminal(clocks: Clocks, width: int) -> None:
    out = io.StringIO()
    play(clocks, Console(file=out, width=width, force_terminal=True, color_system=None, legacy_windows=False))
    shown = out.getvalue().replace("\x1b[2K", "").replace("\x1b[1A", "\n").replace("\r", "\n")
    shown = shown.replace("\x1b[?25l", "").replace("\x1b[?25h", "")
    assert max(len(line) for line in shown.split("\n")) <= width
    assert "60%" in shown


def test_it_can_be_silent(clocks: Clocks) -> None:
    out = io.StringIO()
    with Progress(10, live=False, console=Console(file=out, force_terminal=True)) as progress:
        progress.update({"agent_steps": 10}, PhaseClock())
    assert out.getvalue() == ""


def test_a_phase_costs_microseconds() -> None:
    clock = PhaseClock()
    began = time.process_time()
    for _ in range(10_000):
        with clock.phase("world"):
            pass
    assert (time.process_time() - began) / 10_000 < 50e-6


def test_numbers_are_short() -> None:
    numbers = {0: "0", 999: "999", 1234: "1.23k", 999_999: "1M", 12_345_678: "12.3M", 3e9: "3G"}
    assert {number: _count(number) for number in numbers} == numbers
    assert [_duration(x) for x in (0.4, 75, 3700)] == ["0:00", "1:15", "1:01:40"]
