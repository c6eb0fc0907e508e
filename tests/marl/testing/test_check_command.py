"""``marl check``: scenarios, modules of the present folder, and never a traceback."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from marl.cli import main

WORLD = """
    import torch
    from pathlib import Path
    from pydantic import BaseModel
    from marl.scenario import Scenario
    from marl.testing.worlds import TinyWorld

    class HerdingConfig(BaseModel):
        length: int = 5

    class Herding(TinyWorld):
        def __init__(self, config, copies, device):
            super().__init__(copies, 2, length=config.length, horizon=6, device=device)

    class Broken(TinyWorld):
        def step(self, actions):
            out = super().step(actions)
            return out._replace(reward=out.reward[:, 0])

    class Unmade(TinyWorld):
        def __init__(self, copies):
            raise OSError("no such herd")

    class Leaves(TinyWorld):
        def __init__(self, copies):
            raise SystemExit(3)

    def no_env():
        raise KeyError("grass")

    def leaves():
        raise SystemExit("bye")

    SCENARIO = Scenario(
        name="herding", summary="", config=HerdingConfig, make=Herding, instance=lambda config: {},
        presets=Path(__file__).parent, default_preset="none",
    )
    NUMBER = 3
    """


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The present folder, with modules that no path leads to; the folder of the command itself is not it."""
    name = f"herding_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(WORLD))
    (tmp_path / f"{name}_syntax.py").write_text("def f(:\n")
    (tmp_path / f"{name}_raises.py").write_text("x = 1\nx / 0\n")
    (tmp_path / f"{name}_exits.py").write_text("import sys\nsys.exit(4)\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    return tmp_path / name


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    code = main(["check", *words, "--steps", "12"])
    out = capsys.readouterr()
    assert "Traceback" not in out.out + out.err
    return code, out.out + out.err


def test_a_scenario_of_the_present_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, words = ask(capsys, f"{folder.name}:SCENARIO")
    assert code == 0 and f"{folder.name}:SCENARIO conforms" in words


def test_a_registered_scenario_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    code, words = ask(capsys, "lifelong_mapf", "--preset", "demo")
    assert code == 0 and "lifelong_mapf (demo) conforms" in words


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [
        (":Herding", 2, "takes 'copies' but not that alone (missing a required argument: 'config'): name its Scenario"),
        (":Broken", 1, "tensor-form at step 1, reward: float32 ["),
        (":Unmade", 1, "raises at making or closing the world: OSError: no such herd (herding_"),
        (":Leaves", 1, "raises at making or closing the world: SystemExit: 3"),
        (":no_env", 1, "raises at making the environment: KeyError: 'grass'"),
        (":leaves", 1, "raises at making the environment: SystemExit: bye"),
        (":NUMBER", 2, "is not callable: name a Scenario, or a function or class"),
        (":Herdnig", 2, "did you mean 'Herding'"),
        ("_syntax:make", 2, "cannot be imported: invalid syntax (herding_"),
        ("_raises:make", 2, "cannot be imported: ZeroDivisionError: division by zero (herding_"),
        ("_exits:make", 2, "cannot be imported: SystemExit: 4 (herding_"),
        ("", 2, "and names no factory: write MODULE:FACTORY"),
    ],
)
def test_faults_are_sentences(
    folder: Path, capsys: pytest.CaptureFixture[str], name: str, code: int, words: str
) -> None:
    got, text = ask(capsys, folder.name + name)
    assert got == code and words in " ".join(text.split()), text


def test_presets_are_for_scenarios(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(capsys, f"{folder.name}:no_env", "--preset", "x")[0] == 2
    code, text = ask(capsys, "lifelong_mapf", "--preset", "dem")
    assert code == 2 and "did you mean 'demo'" in text
    code, text = ask(capsys, "lifelong_mpaf")
    assert code == 2 and "lifelong_mapf" in text
