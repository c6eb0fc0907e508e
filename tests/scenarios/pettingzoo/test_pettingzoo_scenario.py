"""Somebody's environments by name on the command line: trained, judged, resumed, shown, checked, refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from gymnasium import spaces

import marl
from marl import api
from marl.cli import main
from marl.envs.random_play import random_actions
from marl.policies.config import NetworkConfig
from marl.policies.encoders import CnnEncoder, MlpEncoder, make_encoder
from marl.scenario import load_scenario
from marl.training.tracking import read_metrics
from scenarios.pettingzoo.recorder import FrameRecorder

SMALL = ["copies=2", "algorithm.rollout=8", "algorithm.epochs=1", "algorithm.minibatches=1"]


def sets(*texts: str) -> list[str]:
    return [word for text in texts for word in ("--set", text)]


@pytest.fixture(autouse=True)
def _worlds_are_found(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The module of small environments lies in the folder in which commands are given."""
    source = Path(__file__).parents[2] / "marl" / "envs" / "foreign_worlds.py"
    (tmp_path / "own_worlds.py").write_text(source.read_text("utf-8"), "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))


def test_a_world_is_trained_judged_resumed_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    env = ["--env", "mpe2.simple_spread_v3:parallel_env", "--env-arg", "N=2", "--env-arg", "max_cycles=6"]
    assert main(["train", "pettingzoo", *env, *sets(*SMALL, "total_steps=64"), "--out", "run"]) == 0
    assert len(read_metrics(Path("run/metrics.csv"))) == 2
    assert "data:image/webp" in Path("run/report.html").read_text()
    judged = ["--policies", "run,random", "--seeds", "0:2", "--json", "out.json"]
    assert main(["evaluate", "pettingzoo", *env, *judged]) == 0
    rows = json.loads(Path("out.json").read_text())["rows"]
    assert {row["policy"] for row in rows} == {"run", "random"}
    assert rows[0]["instances"].items() >= {"env": env[1], "N": "2", "max_cycles": "6"}.items()
    config = yaml.safe_load(Path("run/config.yaml").read_text())
    Path("run/config.yaml").write_text(yaml.safe_dump({**config, "total_steps": 96}))
    assert main(["train", "--resume", "run", "--trust", "mpe2"]) == 0
    assert len(read_metrics(Path("run/metrics.csv"))) == 3
    assert main(["watch", "run", "--trust", "mpe2", "--gif", "film.gif", "--html", "page.html"]) == 0
    assert Path("film.gif").stat().st_size > 1000 and Path("page.html").read_text().count("webp;base64") == 1
    capsys.readouterr()


def test_what_a_run_is_of_need_not_be_said_again(tmp_path: Path) -> None:
    folder = api.train(
        "pettingzoo",
        out=tmp_path / "run",
        env="own_worlds:Runners",
        env_arg={"limit": 3, "fragile": False},
        overrides=[*SMALL, "total_steps=1", "world.workers=none"],
    )
    results = api.evaluate("pettingzoo", [str(folder)], seeds=range(2), overrides=["world.workers=none"])
    assert results.rows[0].instances.items() >= {"env": "own_worlds:Runners", "limit": "3", "fragile": "False"}.items()
    policy = marl.load(str(folder))
    face = api.parallel_env("pettingzoo", policy=policy, workers="none")
    seen, infos = face.reset(seed=1)
    assert set(policy.act(seen, infos)) == {"red_0", "blue_0", "blue_1"}


def test_code_that_only_a_file_names_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "config.yaml"
    for world in ({"env": "stranger.module:env"}, {"env": "own_worlds:Runners", "env_args": {"id": "stranger:env"}}):
        file.write_text(yaml.safe_dump({"world": world}))
        assert main(["train", "pettingzoo", "--config", str(file), "--trust", "own_worlds"]) == 2
        assert "add --trust stranger" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--env", "nowhere:env"], "module 'nowhere' cannot be imported"),
        (["--env", "own_worlds:Runer"], "did you mean 'Runners'"),
        (["--env", "own_worlds:Camera", "--env-arg", "text=true"], "part 'word' of the observation of agent is a Text"),
        (["--env", "own_worlds:Runners", "--env-arg", "limit"], "--env-arg takes KEY=VALUE"),
        (["--env", "own_worlds:Runners", "--env-arg", "limit=1", "--env-arg", "limit=2"], "gives 'limit' twice"),
        (["--env", "own_worlds:Runners", "--env-arg", "length=1"], "cannot be called with length"),
        (["--env", "pettingzoo.classic.tictactoe_v3:env"], "give horizon=STEPS"),
        (["--env", "own_worlds:Runners", "--common-reward", "all"], "common_reward"),
    ],
)
def test_mistakes_are_one_sentence(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "pettingzoo", *words, "--set", "world.workers=none", "--set", "copies=1"]) == 2
    said = capsys.readouterr().err
    assert sentence in said and said.count("\n") == 1


def test_images_of_bytes_go_through_convolutions(tmp_path: Path) -> None:
    auto, generator = NetworkConfig(encoder="auto"), torch.Generator()
    for space, kind in (
        (spaces.Box(0, 255, (12, 12, 3), np.uint8), CnnEncoder),
        (spaces.Dict({"camera": spaces.Box(0, 255, (3, 12, 12), np.uint8)}), CnnEncoder),
        (spaces.Box(0.0, 1.0, (12, 12, 3), np.float32), MlpEncoder),
        (spaces.Box(0, 255, (12,), np.uint8), MlpEncoder),
    ):
        assert type(make_encoder(space, auto, generator)) is kind
    small = [*SMALL, "total_steps=1", "world.workers=none"]
    assert api.train("pettingzoo", out=tmp_path / "run", env="own_worlds:Camera", image_size=16, overrides=small)


def test_the_recorder_keeps_every_step_and_the_end() -> None:
    scenario = load_scenario("pettingzoo")
    config = api.configure("pettingzoo", options={"env": "own_worlds:Runners"}).world
    marl.plugins.trust("own_worlds")
    env = scenario.make(scenario.shown(config), 1, torch.device("cpu"))
    recorder = FrameRecorder(env)
    with pytest.raises(ValueError, match="nothing recorded"):
        recorder.html()
    view = env.reset(0)
    recorder.add(view, None)
    for _ in range(6):
        actions = random_actions(env, view)
        view = env.step(actions)
        recorder.add(view, actions)
    assert [int(frame[0, 0, 0]) for frame in recorder.frames()] == [0, 10, 20, 30, 40]
    assert '"steps":[0,1,2,3,4]' in recorder.html() and "return 7.333" in recorder.html()


def test_check_looks_at_the_world_and_at_the_environment(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["check", "pettingzoo", "--env", "own_worlds:Runners", "--env-arg", "fragile=false", "--steps", "40"]) == 0
    )
    assert "own_worlds:Runners, False conforms" in capsys.readouterr().out
    assert main(["check", "own_worlds:Runners", "--env", "own_worlds:Pair"]) == 2


def test_a_world_that_cannot_be_shown_is_trained_all_the_same(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--env", "own_worlds:Pair", *sets(*SMALL, "total_steps=1", "world.workers=none")]
    assert main(["train", "pettingzoo", *words, "--out", "run"]) == 0
    assert Path("run/report.html").exists() and "shows no episode" in capsys.readouterr().err
    assert main(["watch", "run", "--trust", "own_worlds"]) == 2
    assert "cannot show itself" in capsys.readouterr().err


def test_the_default_needs_no_trust() -> None:
    world: Any = api.make("pettingzoo", workers="none")
    assert world.spec.horizon == 25
