"""The ``marl`` command and its Python face, on the tiny scenario."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import marl
from marl import api, cli
from marl.cli import main, parse_seeds
from marl.errors import UserError

SHOWN = "cli_scenario:SHOWN"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def fails(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """The error of a command that must end in one line and code 2, and write nothing else."""
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("marl: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("marl: error: ").strip()


def test_train_evaluate_watch_and_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", SHOWN, "--out", "run", "--agents", "3", "--set", "total_steps=192"]) == 0
    shown = capsys.readouterr().out
    assert "192/192 agent-steps" in shown
    assert "report.html" in shown
    assert sorted(path.name for path in Path("run").iterdir()) == [
        ".lock",
        "checkpoints",
        "config.yaml",
        "metrics.csv",
        "provenance.json",
        "report.html",
    ]
    assert marl.load("run").config.world.agents == 3

    words = ["evaluate", SHOWN, "--policies", "walk,stay,run", "--agents", "3", "--seeds", "0:4", "--json", "r.json"]
    assert main([*words, "--html", "r.html"]) == 0
    assert "walk" in capsys.readouterr().out
    results = json.loads(Path("r.json").read_text())
    assert (results["schema_version"], results["scenario"]) == (1, "tiny")
    assert {row["policy"] for row in results["rows"]} == {"walk", "stay", "run"}
    assert results["rows"][0]["instances"] == {"agents": 3, "preset": "quick"}
    assert results["rows"][0]["n"] == 4
    assert "walk" in Path("r.html").read_text()

    assert main(["watch", "run", "--html", "w.html"]) == 0
    assert "<p id=moments>9</p>" in Path("w.html").read_text()
    assert main(["watch", "walk", "--scenario", SHOWN]) == 0
    assert Path("watch-walk.html").exists()

    assert main(["train", "--resume", "run"]) == 0
    assert len(json.loads(Path("run/provenance.json").read_text())["starts"]) == 2


def test_comma_lists_vary_the_instances(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["evaluate", SHOWN, "--policies", "walk", "--agents", "2,3", "--line-length=5,6", "--seeds", "0:2"]
    assert main([*words, "--json", "r.json"]) == 0
    rows = json.loads(Path("r.json").read_text())["rows"]
    assert [row["instances"]["agents"] for row in rows if row["metric"] == "return"] == [2, 2, 3, 3]


def test_dry_run_prints_the_plan_and_starts_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", SHOWN, "--dry-run", "--seeds", "0:3", "--out", "run"]) == 0
    shown = capsys.readouterr().out
    assert "# runs: 3" in shown
    assert "# iterations: 4 of 64 agent-steps (2 agents x 4 copies)" in shown
    assert "scenario: cli_scenario:SHOWN" in shown
    assert list(tmp_path.iterdir()) == []


def test_several_seeds_train_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", SHOWN, "--out", "runs", "--seeds", "3,5", "--set", "total_steps=1"]) == 0
    assert sorted(path.name for path in Path("runs").iterdir()) == ["seed-3", "seed-5"]
    assert marl.load("runs/seed-5").config.seed == 5


def test_demo(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from marl.training import demo as module

    asked = []

    def run_demo(out: Path | None, overrides: list[str], echo: object) -> module.Demo:
        asked.append((out, overrides))
        results = api.evaluate(SHOWN, ["walk", "stay"], seeds=[0, 1])
        return module.Demo(Path("run"), results, module.what_matters(results, "stay"), Path("run/report.html"))

    monkeypatch.setattr(module, "demo", run_demo)
    assert main(["demo", "--out", "run", "--set", "copies=2"]) == 0
    assert asked == [(Path("run"), ["copies=2"])]
    told = capsys.readouterr().out
    assert "open run/report.html in a browser" in told
    assert "against stay" in told


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    def rows(*words: str) -> list[str]:
        assert main(["list", *words, "--scenario", SHOWN]) == 0
        return [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]

    assert rows("policies") == ["walk baseline of tiny", "stay baseline of tiny", "random baseline of tiny"]
    assert rows("presets") == ["quick tiny, default, demo"]
    assert rows("maps") == ["line tiny"]
    assert rows("scenarios")[1] == "--agents how many agents"
    assert any(row.startswith("mappo ") for row in rows("systems"))


MISTAKES = [
    (["train", "lifelong_mapff"], "scenario 'lifelong_mapff' does not exist; did you mean 'lifelong_mapf'?"),
    (["train"], "which scenario? For example: marl train"),
    (["train", SHOWN, "--agentz", "3"], f"'marl train {SHOWN}' has no option '--agentz'; did you mean '--agents'?"),
    (["train", SHOWN, "--presett", "x"], f"'marl train {SHOWN}' has no option '--presett'; did you mean '--preset'?"),
    (["train", SHOWN, "--agents"], "option --agents needs a value"),
    (["train", SHOWN, "--agents", "--set", "seed=1"], "option --agents needs a value"),
    (["train", SHOWN, "--agents", "3", "--agents=4"], "option --agents is given twice"),
    (["train", SHOWN, "stray"], "unexpected word 'stray'"),
    (["train", SHOWN, "--agents", "x"], "'world.agents' is 'x' in --agents: it should be a valid integer"),
    (["train", SHOWN, "--reward", "-1"], "'coordination.guidance.reward_weight' is -1 in --reward: it should be"),
    (["train", SHOWN, "--preset", "quik"], "cli_scenario:SHOWN has no preset 'quik'; did you mean 'quick'?"),
    (["train", SHOWN, "--system", "mapo"], "system 'mapo' does not exist; did you mean 'mappo'?"),
    (["train", SHOWN, "--config", "none.yaml"], "none.yaml cannot be read: No such file"),
    (["train", SHOWN, "--set", "world.agentz=3"], "unknown key 'world.agentz' in --set; did you mean 'world.agents'?"),
    (["train", SHOWN, "--set", "scenario=other"], "--set is for scenario 'other', not for"),
    (["train", SHOWN, "--seeds", "3:1"], "--seeds '3:1': 3:1 must name 1 to 100,000 seeds"),
    (["train", SHOWN, "--set", "device=cuda:99"], "device=cuda:99, but torch sees no"),
    (["train", "--resume", "none"], "none is not a run folder"),
    (["train", SHOWN, "--resume", "none"], "--resume DIR continues a run as it is configured"),
    (["evaluate", SHOWN], "which policies? For example: marl evaluate"),
    (["evaluate", SHOWN, "--policies", "wolk"], "policy 'wolk' is no baseline, shipped policy or run folder; did you"),
    (["evaluate", SHOWN, "--policies", "walk,walk"], "policy 'walk' is named twice"),
    (["evaluate", SHOWN, "--policies", "walk,,stay"], "--policies 'walk,,stay' has an empty name"),
    (["evaluate", SHOWN, "--policies", "walk", "--episodes", "0"], "Invalid value for '--episodes'"),
    (["evaluate", SHOWN, "--policies", "walk", "--json", "no/r.json"], "no/r.json cannot be written"),
    (["watch", "walk"], "policy 'walk' does not say its scenario: add --scenario NAME"),
    (["watch", "run", "--scenario", SHOWN], "policy 'run' is no baseline"),
    (["list", "things"], "Invalid value for"),
    (["no-such-command"], "No such command 'no-such-command'; known: bench, check,"),
    (["explan"], "No such command 'explan'; did you mean 'explain'?"),
    (["train", SHOWN, "--epochs", "3"], "has no option '--epochs'; write --set algorithm.epochs=VALUE"),
    (["train", "cli_scenario:SHOWM"], "module 'cli_scenario' has no 'SHOWM'; did you mean 'SHOWN'?"),
    (["train", SHOWN, "--system", "cli_scenario:MINE"], "module 'cli_scenario' has no 'MINE': define a System of that"),
    (["explain", SHOWN, "epoch"], "there is no key 'epoch'; did you mean 'algorithm.epochs'?"),
]


@pytest.mark.parametrize(("words", "sentence"), MISTAKES)
def test_each_mistake_is_one_line_and_code_2(
    words: list[str], sentence: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert sentence in fails(capsys, *words)
    assert list(tmp_path.iterdir()) == []


OWN = """
def fails(): return {}["key"]
def passes_on(): raise_in_python()
def raise_in_python(): int("x")
"""


@pytest.mark.parametrize(
    ("call", "sentence"),
    [("fails", "line 2, in fails: KeyError: 'key'"), ("passes_on", "line 4, in raise_in_python: ValueError: invalid")],
)
def test_own_code_that_fails_is_named_with_its_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, call: str, sentence: str
) -> None:
    code: dict[str, Any] = {}
    exec(compile(OWN, str(Path("own_code.py").resolve()), "exec"), code)
    monkeypatch.setattr(cli, "parse_seeds", lambda _: code[call]())
    assert f"own_code.py, {sentence}" in fails(capsys, "train", SHOWN, "--seeds", "0:1")
    monkeypatch.setenv("MARL_TRACEBACK", "1")
    with pytest.raises((KeyError, ValueError)):
        main(["train", SHOWN, "--seeds", "0:1"])


def test_a_module_of_the_folder_without_its_object_is_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    Path("ring.py").touch()
    for command in ("train", "explain", "check"):
        assert "what ring.py holds is named ring:OBJECT" in fails(capsys, command, "ring")
    assert "; did you mean" not in fails(capsys, "check", "square")


def test_own_code_that_does_not_parse_is_named_with_its_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own_syntax.py").write_text("x = 1\ny = (\n")
    assert "own_syntax.py, line 2: '(' was never closed" in fails(capsys, "train", "own_syntax:SCENARIO")


def test_faults_of_the_platform_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "parse_seeds", int)
    with pytest.raises(ValueError, match="invalid literal"):
        main(["train", SHOWN, "--seeds", "0:1"])


def test_a_config_file_is_named_in_errors(capsys: pytest.CaptureFixture[str]) -> None:
    Path("own.yaml").write_text("world: {agents: 3}\nchekpoint: {keep: 1}\n")
    message = fails(capsys, "train", SHOWN, "--config", "own.yaml")
    assert message == "unknown key 'chekpoint' in own.yaml; did you mean 'checkpoint'?"
    Path("own.yaml").write_text("scenario: lifelong_mapf\n")
    assert "own.yaml is for scenario 'lifelong_mapf'" in fails(capsys, "train", SHOWN, "--config", "own.yaml")


def test_seeds() -> None:
    assert parse_seeds("0:3") == [0, 1, 2]
    assert parse_seeds("4,0:2, 7") == [4, 0, 1, 7]
    for text in ("", "a", "1:", ":3", "1,1", "0:2,1", "-1", "0:1000000", "1.5", "\u0663"):
        with pytest.raises(UserError, match="--seeds"):
            parse_seeds(text)


def test_ctrl_c_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "parse_seeds", interrupted)
    assert main(["train", SHOWN, "--seeds", "0:1"]) == 130


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_terminated_run_is_saved_and_ends_in_130(tmp_path: Path, number: signal.Signals) -> None:
    words = ["train", SHOWN, "--out", "run", "--set", "total_steps=1e9"]
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parents[2]}:{Path(__file__).parents[1]}"}
    process = subprocess.Popen([sys.executable, "-m", "marl", *words], env=environment, cwd=tmp_path)
    deadline = time.monotonic() + 200
    while not (tmp_path / "run" / "metrics.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(number)
    assert process.wait(200) == 130
    assert list((tmp_path / "run" / "checkpoints").iterdir())


def test_help_needs_no_torch() -> None:
    code = "import sys; from marl.cli import main; main(['--help']); main([]); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "evaluate" in done.stdout


def test_the_python_face(capsys: pytest.CaptureFixture[str]) -> None:
    env = marl.make(SHOWN, copies=3, agents=4)
    assert (env.copies, env.spec.n_agents) == (3, 4)
    run = marl.train(SHOWN, out="run", overrides=["total_steps=1"], horizon=4)
    assert run == Path("run")
    results = marl.evaluate(SHOWN, ["walk", "run"], seeds=[0], horizon=4)
    assert results.policies == ["walk", "run"]
    assert capsys.readouterr().out == ""
    with pytest.raises(UserError, match="has no option '--agentz'; did you mean '--agents'"):
        marl.make(SHOWN, agentz=3)
    with pytest.raises(UserError, match="neither a run folder nor a shipped policy"):
        marl.load("nothing")
    with pytest.raises(AttributeError):
        _ = marl.nothing


def test_check_names_faults_and_passes_what_is_sound(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "scenarios.lifelong_mapf:parallel_env", "--steps", "40"]) == 0
    assert main(["check", "planted_faults_for_cli:make", "--steps", "40"]) == 1
    assert "reward" in capsys.readouterr().out
    assert main(["check", "no_such_module:make"]) == 2
