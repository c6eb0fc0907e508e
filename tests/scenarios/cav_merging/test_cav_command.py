"""What only this scenario's command lines do: films, SUMO's window by a switch, supervisors on and off."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from doc_commands import EDGES, merge_network

from marl import api
from marl.cli import main
from marl.errors import UserError
from marl.evaluation.film import Films
from marl.scenario import load_scenario
from marl.training.shipping import ship
from scenarios.cav_merging.config import CavConfig
from scenarios.cav_merging.render import CavRecorder
from scenarios.cav_merging.world import CavMerging

BLUE = (22, 104, 199)
SMALL = ["total_steps=384", "copies=8", "algorithm.rollout=8", "algorithm.minibatches=1"]


def test_a_film_shows_the_cars_where_they_are() -> None:
    env = CavMerging(CavConfig(cavs=1, humans=0), 1)
    recorder = CavRecorder(env)
    recorder.add(env.reset(0), None)
    assert isinstance(recorder, Films)
    (frame,) = recorder.frames()
    assert frame.shape[0] % 16 == frame.shape[1] % 16 == 0
    columns = np.flatnonzero((frame == BLUE).all(-1).any(0))
    front = float(env.traffic.x[0, 0]) / 520.0 * frame.shape[1]
    assert abs(columns.max() - front) <= 1.0
    assert abs(len(columns) - 5.0 / 520.0 * frame.shape[1]) <= 2.0


def test_watch_writes_a_film(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if os.environ.get("CI") != "true":
        pytest.importorskip("imageio_ffmpeg")
    film = tmp_path / "film.mp4"
    words = ["watch", "fifo_merge", "--scenario", "cav_merging", "--horizon", "5", "--mp4", str(film)]
    assert main(words) == 0
    assert film.read_bytes()[4:8] == b"ftyp"
    assert capsys.readouterr().out == f"wrote {film}\n"


def test_watch_writes_a_moving_picture(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    film = tmp_path / "film.gif"
    words = ["watch", "fifo_merge", "--scenario", "cav_merging", "--horizon", "5", "--gif"]
    assert main([*words, str(film)]) == 0
    assert film.read_bytes()[:4] == b"GIF8"
    assert capsys.readouterr().out == f"wrote {film}\n"
    assert main([*words, str(tmp_path / "film.png")]) == 2
    assert "a moving picture ends in" in capsys.readouterr().err


def test_a_scenario_without_films_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["watch", "walk", "--scenario", "cli_scenario:SHOWN", "--mp4", "film.mp4"]) == 2
    assert "cannot show itself as a film" in capsys.readouterr().err
    assert not Path("film.mp4").exists()


def test_the_window_needs_no_backend_to_be_named() -> None:
    config = api.configure("cav_merging", options={"sumo_gui": True})
    assert (config.world.backend, config.world.gui) == ("sumo", True)
    assert api.configure("cav_merging", options={"sumo_gui": False}).world.gui is False


def test_the_supervisor_is_put_on_and_taken_away_by_name(tmp_path: Path) -> None:
    run = api.train("cav_merging", overrides=[*SMALL, "coordination.safety.enabled=true"], out=tmp_path / "run")
    names = [str(run), f"{run}-safety", "random", "random+safety"]
    results = api.evaluate("cav_merging", names, seeds=range(48))
    mean = {(row.policy, row.metric): row.mean for row in results.rows}
    assert {policy for policy, metric in mean if metric == "interventions_per_step"} == {str(run), "random+safety"}
    assert mean["random+safety", "collision_rate"] < 0.2 < mean["random", "collision_rate"]
    with pytest.raises(UserError, match="has no supervisor that could be taken away"):
        api.policy_builder(load_scenario("cav_merging"), "random-safety")
    with pytest.raises(UserError, match="policy 'rondom' is no baseline"):
        api.policy_builder(load_scenario("cav_merging"), "rondom+safety")


def test_a_shipped_policy_acts_like_its_run_and_can_be_trained_on(tmp_path: Path) -> None:
    learned = ["coordination.intent.enabled=true", "coordination.intent.predictor=learned"]
    run = api.train("cav_merging", overrides=[*SMALL, *learned], out=tmp_path / "run")
    shipped = ship(run, tmp_path / "shipped")
    assert sum(file.stat().st_size for file in shipped.rglob("*")) < sum(f.stat().st_size for f in run.rglob("*"))
    scenario = load_scenario("cav_merging")
    actions = []
    for folder in (run, shipped):
        env = CavMerging(CavConfig(), 4)
        actions.append(api.policy_builder(scenario, str(folder))(env).act(env.reset(3)))
    assert torch.equal(*actions)
    command = ["train", "cav_merging", "--init", str(shipped), "--out", str(tmp_path / "tuned")]
    assert main([*command, *(word for text in (*SMALL, *learned) for word in ("--set", text))]) == 0


@pytest.mark.parametrize("name", ["hard", "general"])
def test_shipped_policies_drive_any_road_under_the_supervisor(name: str) -> None:
    world = api.configure("cav_merging", preset="general", overrides=["world.horizon=50"]).world
    env = CavMerging(world, 4)
    policy = api.policy_builder(load_scenario("cav_merging"), f"cav_merging/{name}")(env)
    timestep = env.reset(0)
    for _ in range(50):
        policy.account(timestep)
        timestep = env.step(policy.act(timestep))
    assert policy.account(timestep).metrics["interventions_per_step"].shape == (4,)
    assert float(timestep.metrics["collision_rate"].sum()) == 0.0


def test_edges_are_one_value_in_every_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The commas of ``--edges`` are its own; ``evaluate`` compares values that are separated by commas elsewhere."""
    net = tmp_path / "my.net.xml"
    merge_network(net)
    words = ["--net", str(net), "--edges", ",".join(f"{role}={edge}" for role, edge in EDGES.items())]
    evaluate = ["evaluate", "cav_merging", "--policies", "fifo_merge", "--seeds", "0:2", "--horizon", "5,6", *words]
    assert main(evaluate) == 0
    assert main(["train", "cav_merging", "--dry-run", *words]) == 0
    shown = capsys.readouterr().out
    assert all(f"{role}: {edge}" in shown for role, edge in EDGES.items())


def test_a_span_is_one_value_from_python() -> None:
    """(1, 2) cars, not 1 and then 2; of a number, several are compared."""
    results = api.evaluate("cav_merging", ["fifo_merge"], seeds=[0], cavs=(1, 2), horizon=[3, 4])
    assert {row.instances["cavs"] for row in results.rows} == {"1-2"}
    assert len([row for row in results.rows if row.metric == "merged_share"]) == 2
