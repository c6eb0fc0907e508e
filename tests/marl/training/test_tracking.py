"""``metrics.csv``: exact figures, growing columns, cutting back, torn lines; TensorBoard events."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from marl.errors import UserError
from marl.training.tracking import MetricsLog, Tracker, read_metrics

NAN = float("nan")


def test_figures_read_back_exactly(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "m.csv")
    log.write({"iteration": 1, "loss": 0.1 + 0.2, "big": 2**60})
    log.write({"iteration": 2, "loss": NAN, "big": 5e-324})
    assert read_metrics(tmp_path / "m.csv") == [
        {"iteration": 1, "loss": 0.1 + 0.2, "big": 2**60},
        {"iteration": 2, "big": 5e-324},
    ]


def test_columns_grow(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    log = MetricsLog(path)
    log.write({"iteration": 1, "a": 1.5})
    log.write({"iteration": 2, "b, c": 2.5})
    assert path.read_text() == 'iteration,a,"b, c"\n1,1.5,\n2,,2.5\n'
    MetricsLog(path).write({"iteration": 3, "a": 4.0})
    assert read_metrics(path)[-1] == {"iteration": 3, "a": 4.0}


def test_resuming_leaves_no_gap_and_no_repeat(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    log = MetricsLog(path)
    for iteration in range(1, 6):
        log.write({"iteration": iteration, "x": iteration / 3})
    whole = path.read_text()
    resumed = MetricsLog(path)
    resumed.truncate_after(3)
    assert [row["iteration"] for row in read_metrics(path)] == [1, 2, 3]
    for iteration in (4, 5):
        resumed.write({"iteration": iteration, "x": iteration / 3})
    assert path.read_text() == whole


def test_a_torn_last_line_is_dropped(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    log = MetricsLog(path)
    log.write({"iteration": 1, "x": 1.0})
    with path.open("a") as file:
        file.write("2,0.")
    assert read_metrics(path) == [{"iteration": 1, "x": 1.0}]
    MetricsLog(path).write({"iteration": 2, "x": 2.0})
    assert path.read_text() == "iteration,x\n1,1.0\n2,2.0\n"


@pytest.mark.parametrize("text", ["", "a,b\n1\n", 'a\n"x\n', "iteration\n\x00\n", "iteration\nx\n"])
def test_damaged_tables_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "m.csv"
    path.write_text(text)
    with pytest.raises(UserError, match=r"m\.csv"):
        MetricsLog(path).truncate_after(0)
        read_metrics(path)


def test_the_table_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written: No such file"):
        MetricsLog(tmp_path / "none" / "m.csv").write({"iteration": 1})


def test_a_row_needs_its_key(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="iteration"):
        MetricsLog(tmp_path / "m.csv").write({"x": 1})


def test_tracker_writes_tensorboard_events(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tracker = Tracker(tmp_path, tensorboard=True)
    tracker.truncate_after(0)
    tracker.log({"iteration": 1, "agent_steps": 64, "reward": 0.5, "episode/x": NAN})
    tracker.close()
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("reward")] == [(64, 0.5)]
    assert "episode/x" not in events.Tags()["scalars"]


def test_tensorboard_is_an_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match=r"needs the extra 'tracking'"):
        Tracker(tmp_path, tensorboard=True)
