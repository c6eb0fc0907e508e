"""Every table has a module that tells what it makes, and a name that nobody knows is one sentence."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from scripts.benchmarks import page, runner

REPO = Path(__file__).parent.parent
REPRODUCE = runpy.run_path(str(REPO / "scripts" / "reproduce"))


def reproduce(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(REPO / "scripts" / "reproduce"), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


@pytest.mark.parametrize("name", REPRODUCE["TABLES"])
def test_each_table_tells_what_it_makes(name: str) -> None:
    assert len(REPRODUCE["summary"](REPRODUCE["TABLES"][name])) > 20


def test_all_tables_are_listed_and_help_names_stages() -> None:
    listed = reproduce().stdout
    assert all(f"  {name} " in listed for name in REPRODUCE["TABLES"])
    helped = reproduce("mapf", "--help")
    assert helped.returncode == 0
    assert "{tune,train,ship,judge,tables,warehouse}" in helped.stdout


def test_an_unknown_table_is_one_sentence() -> None:
    done = reproduce("mapff")
    assert done.returncode == 2
    assert done.stderr.strip() == "scripts/reproduce: there is no table 'mapff'; 'scripts/reproduce' alone lists them"


def test_every_module_with_a_main_is_a_table() -> None:
    benchmarks = REPO / "scripts" / "benchmarks"
    mains = {
        ".".join(path.relative_to(benchmarks).with_suffix("").parts)
        for path in benchmarks.rglob("*.py")
        if 'if __name__ == "__main__"' in path.read_text(encoding="utf-8")
    }
    assert mains == set(REPRODUCE["TABLES"].values())


def test_a_run_starts_goes_on_and_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[list[str]] = []
    monkeypatch.setattr(runner, "marl", lambda words, log=None: said.append(list(words)))
    folder = tmp_path / "runs" / "one"
    runner.train(folder, ["lifelong_mapf"], init="other")
    folder.mkdir()
    (folder / runner.CONFIG).touch()
    runner.train(folder, ["lifelong_mapf"])
    (folder / runner.REPORT).touch()
    runner.train(folder, ["lifelong_mapf"])
    assert said == [
        ["train", "lifelong_mapf", "--out", str(folder), "--init", "other"],
        ["train", "--resume", str(folder)],
    ]


def test_rows_and_figures_come_back(tmp_path: Path) -> None:
    file = tmp_path / "below" / "rows.jsonl"
    assert runner.read_rows(file) == []
    runner.add_row(file, {"name": "a", "x": 1.5})
    runner.add_row(file, {"name": "b"})
    assert runner.read_rows(file) == [{"name": "a", "x": 1.5}, {"name": "b"}]
    assert runner.read_figures(tmp_path / "none.json") == {"rows": []}
    runner.write_figures(tmp_path / "figures.json", "mapf", {"rows": [1]})
    assert runner.read_figures(tmp_path / "figures.json") == {
        "schema_version": 1,
        "command": "scripts/reproduce mapf",
        "rows": [1],
    }


def test_how_figures_are_written(tmp_path: Path) -> None:
    assert page.table(["a", "b"], [[1, "x"]]) == ["| a | b |", "|---|---|", "| 1 | x |"]
    assert page.spread(0.5, 0.0123, 1, 100.0) == "50.0 ± 1.2"
    assert page.spread(0.5) == "0.50"
    assert page.span(-0.1, 0.25, 2, "+") == "[-0.10, +0.25]"
    page.write(tmp_path / "page.md", ["a", "", ""])
    assert (tmp_path / "page.md").read_text() == "a\n"
