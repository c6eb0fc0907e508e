"""``marl report``: runs are grouped by what tells them apart, and compared over their seeds."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from marl.api import configure
from marl.cli import main
from marl.config import dump
from marl.evaluation.statistics import over_seeds
from marl.training.comparison import compare_runs, groups_of


def run(folder: Path, figures: list[float], *overrides: str) -> Path:
    """A run whose episodes had these figures, one in each of its iterations of 100 agent-steps."""
    folder.mkdir(parents=True)
    config = configure("lifelong_mapf", preset="small", overrides=overrides)
    (folder / "config.yaml").write_text(dump(config), encoding="utf-8")
    rows = [f"{i},{100 * i},{i},{2.5 * i},0.1,{figure}" for i, figure in enumerate(figures, start=1)]
    head = "iteration,agent_steps,episodes,cpu_seconds,reward,episode/throughput"
    (folder / "metrics.csv").write_text("\n".join([head, *rows]) + "\n", encoding="utf-8")
    return folder


def family(folder: Path) -> list[Path]:
    """Two rates, three seeds each; the second is better by 0.5, 0.7 and 0.9."""
    runs = []
    for seed, (one, other) in enumerate([(1.0, 1.5), (2.0, 2.7), (1.5, 2.4)]):
        runs.append(run(folder / f"a{seed}", [0.0] * 9 + [one], f"seed={seed}", "algorithm.actor_rate=1e-3"))
        runs.append(run(folder / f"b{seed}", [9.0] * 9 + [other], f"seed={seed}", "algorithm.actor_rate=2e-3"))
    return runs


def test_groups_are_named_after_what_differs(tmp_path: Path) -> None:
    groups = groups_of(family(tmp_path))
    assert [group.name for group in groups] == ["algorithm.actor_rate 0.001", "algorithm.actor_rate 0.002"]
    assert [sorted(group.runs) for group in groups] == [[0, 1, 2], [0, 1, 2]]
    assert groups_of([tmp_path / "a0"])[0].name == "a0"


def test_figures_are_of_the_end_and_differences_are_paired(tmp_path: Path) -> None:
    table = compare_runs(groups_of(family(tmp_path)))
    first, second = ([cell.text for cell in row] for row in table.rows)
    assert first[1:4] == ["3", "1.5 ± 1.2", ""]
    mean, half = over_seeds([1.5, 2.7, 2.4])
    assert second[2] == f"{mean:.1f} ± {half:.1f}"
    # Differences of the same seed are 0.5, 0.7, 0.9: sd 0.2, so 0.2 x 4.303 / sqrt(3) is the half width.
    assert second[3] == f"+0.70 ± {0.2 * 4.303 / math.sqrt(3):.2f}"
    assert second[4:] == ["1,000", "25"]


def test_the_share_of_training(tmp_path: Path) -> None:
    folder = run(tmp_path / "a", [1.0, 2.0, 3.0, 4.0], "seed=0")
    assert (
        compare_runs(groups_of([folder]), last=0.5).rows[0][2].text == "3.500"
    )  # the two iterations of the second half
    assert compare_runs(groups_of([folder]), last=0.01).rows[0][2].text == "4.000"


@pytest.mark.parametrize("form", ["text", "markdown", "latex"])
def test_command(tmp_path: Path, form: str, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    words = [str(folder) for folder in family(tmp_path / "runs")]
    assert main(["report", *words, "--format", form, "--html", str(page)]) == 0
    out = capsys.readouterr().out
    told = {"text": "+0.70 ± 0.50", "markdown": r"| algorithm.actor\_rate 0.002 | 3 |", "latex": r"+0.70 $\pm$ 0.50"}
    assert told[form] in out
    assert ("\\begin{tabular}{lrrrrr}" in out) == (form == "latex")
    assert "actor_rate 0.002" in page.read_text("utf-8")


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = run(tmp_path / "a", [1.0], "seed=1")
    same = run(tmp_path / "b", [1.0], "seed=1")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.yaml").write_text(dump(configure("cav_merging")), encoding="utf-8")
    for words, told in (
        ([one, same], "are the same run with the same seed 1"),
        ([one, other], "runs of one scenario can be compared; these are of cav_merging, lifelong_mapf"),
        ([tmp_path], "is not a run folder"),
        ([one, "--metric", "troughput"], "has noted no 'troughput' of an episode; did you mean 'throughput'"),
    ):
        assert main(["report", *map(str, words)]) == 2
        assert told in capsys.readouterr().err
