"""The runner: which episodes count, that instances are paired, and the form of the results."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import BaseModel

from marl.errors import UserError
from marl.evaluation.runner import evaluate, run_policy
from marl.scenario import Scenario
from marl.testing.worlds import TinyWorld, walk_to_goal


class TinyConfig(BaseModel):
    agents: int = 2
    mortal: bool = False


def make_world(config: TinyConfig, copies: int, device: torch.device) -> TinyWorld:
    return TinyWorld(copies, config.agents, mortal=config.mortal, slip=0.2, device=device)


TINY = Scenario(
    name="tiny",
    summary="",
    config=TinyConfig,
    make=make_world,
    instance=lambda config: {"agents": config.agents},
    presets=Path(),
    default_preset="none",
)


class Walk:
    def act(self, timestep):
        return walk_to_goal(timestep)


class Stay:
    def act(self, timestep):
        return torch.zeros_like(timestep.agent_id)


def walk(env):
    return Walk()


def stay(env):
    return Stay()


def play_alone(seed: int, episodes: int, **options) -> list[float]:
    """The returns of one copy, played by a plain loop."""
    env = TinyWorld(1, **options)
    timestep, returns = env.reset(seed), []
    while len(returns) < episodes:
        timestep = env.step(walk_to_goal(timestep))
        if bool(timestep.done[0]):
            returns.append(float(timestep.metrics["return"][0]))
    return returns


def test_the_first_episodes_of_each_copy_count_in_order_of_the_seeds():
    """Mortal agents make episodes of different lengths: quick copies must not crowd out slow ones."""
    options = {"agents": 1, "mortal": True, "slip": 0.2}
    seeds = (5, 1, 9, 2, 3, 8)
    figures = run_policy(TinyWorld(len(seeds), **options), Walk(), torch.tensor(seeds), 3)
    expected = [value for seed in seeds for value in play_alone(seed, 3, **options)]
    assert figures.metrics["return"].dtype == np.float64
    assert figures.metrics["return"].tolist() == expected


def test_time_counts_the_policy_alone():
    class Slow(TinyWorld):
        def step(self, actions):
            sum(range(200_000))
            return super().step(actions)

    figures = run_policy(Slow(2), Stay(), torch.arange(2), 1)
    assert figures.decisions == 2 * 16
    assert 0 < figures.ms_per_step < 1.0
    assert figures.wall > 16 * 0.001


def test_a_world_that_does_not_end_is_named():
    class Endless(TinyWorld):
        def step(self, actions):
            return super().step(actions)._replace(done=torch.zeros(self.copies, dtype=torch.bool))

    with pytest.raises(RuntimeError, match="Endless has not finished 2 episode"):
        run_policy(Endless(1), Stay(), torch.zeros(1, dtype=torch.int64), 2)


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_results_are_those_of_the_seeds_whatever_the_batch(batch):
    config = TinyConfig(agents=1, mortal=True)
    found = evaluate(TINY, {"walk": walk}, [({}, config)], (4, 0, 7), 2, batch=batch)
    expected = [value for seed in (4, 0, 7) for value in play_alone(seed, 2, agents=1, mortal=True, slip=0.2)]
    assert found.raw[0, "walk"]["return"].tolist() == expected


def test_policies_meet_the_same_instances_and_rows_hold_every_metric():
    sets = [({"agents": n}, TinyConfig(agents=n)) for n in (2, 3)]
    found = evaluate(TINY, {"walk": walk, "again": walk, "stay": stay}, sets, range(6), 1)
    per_policy = ["reached_share", "reached_share_iqm", "return", "length_steps"]
    assert [row.metric for row in found.rows] == per_policy * 6
    assert {row.n for row in found.rows} == {6}
    twin = found.difference("walk", "again", "return", {"agents": 2})
    assert (twin.difference, twin.ci_low, twin.ci_high, twin.n) == (0, 0, 0, 6)
    ahead = found.difference("walk", "stay", "return", {"agents": 3})
    assert ahead.ci_low > 0
    raw = found.raw[1, "walk"]["return"] - found.raw[1, "stay"]["return"]
    assert ahead.difference == pytest.approx(raw.mean())
    behind = found.difference("stay", "walk", "return", {"agents": 3})
    assert (behind.difference, behind.ci_low) == (-ahead.difference, -ahead.ci_high)
    with pytest.raises(KeyError):
        found.difference("walk", "nobody", "return", {"agents": 2})


def test_json_has_the_documented_form(tmp_path):
    found = evaluate(TINY, {"walk": walk, "stay": stay}, [({"agents": 2}, TinyConfig())], [3], 1)
    found.write_json(tmp_path / "out.json")
    out = json.loads((tmp_path / "out.json").read_text())
    assert list(out) == ["schema_version", "scenario", "rows", "paired"]
    assert (out["schema_version"], out["scenario"]) == (1, "tiny")
    row_keys = ["policy", "instances", "metric", "mean", "ci_low", "ci_high", "n", "ms_per_step"]
    assert all(list(row) == row_keys for row in out["rows"])
    pair_keys = ["a", "b", "instances", "metric", "difference", "ci_low", "ci_high", "n"]
    assert all(list(pair) == pair_keys for pair in out["paired"])
    assert out["rows"][0]["instances"] == {"agents": 2}


def test_metrics_that_are_nowhere_defined_are_null():
    class Undefined(TinyWorld):
        def step(self, actions):
            timestep = super().step(actions)
            gone = torch.full_like(timestep.metrics["return"], torch.nan)
            return timestep._replace(metrics={**timestep.metrics, "return": gone})

    scenario = Scenario("u", "", TinyConfig, lambda c, b, d: Undefined(b), lambda c: {}, Path(), "none")
    out = evaluate(scenario, {"stay": stay}, [({}, TinyConfig())], [0, 1]).to_json()
    (row,) = [row for row in out["rows"] if row["metric"] == "return"]
    assert (row["mean"], row["ci_low"], row["ci_high"], row["n"]) == (None, None, None, 0)
    json.dumps(out, allow_nan=False)


def test_progress_counts_episodes():
    told = []
    evaluate(
        TINY,
        {"walk": walk, "stay": stay},
        [({}, TinyConfig())],
        range(3),
        2,
        batch=2,
        progress=lambda *values: told.append(values),
    )
    assert told[-1] == ("stay", 12, 12)
    assert [count for _, count, _ in told] == sorted(count for _, count, _ in told)


def test_worlds_are_closed_and_policies_are_fresh_after_the_warm_up():
    built, closed = [], []

    class Counted(TinyWorld):
        def close(self):
            closed.append(self.copies)

    class Once(Stay):
        """Fails if it sees a second reset: a policy that has acted belongs to the episodes it has seen."""

        def __init__(self):
            built.append(self)
            self.steps = 0

        def act(self, timestep):
            self.steps += 1
            return super().act(timestep)

    scenario = Scenario("c", "", TinyConfig, lambda c, b, d: Counted(b), lambda c: {}, Path(), "none")
    evaluate(scenario, {"once": lambda env: Once()}, [({}, TinyConfig())], range(3), batch=2)
    assert closed == [2, 1]
    assert [policy.steps for policy in built] == [1, 16, 1, 16]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"policies": {}}, "at least one policy"),
        ({"seeds": []}, "at least one seed"),
        ({"world_configs": []}, "at least one set of instances"),
        ({"seeds": [1, 1]}, "named twice"),
        ({"episodes": 0}, "episodes is 0"),
        ({"batch": 0}, "batch is 0"),
    ],
)
def test_nothing_to_play_is_a_sentence(change, sentence):
    asked = {
        "policies": {"stay": stay},
        "world_configs": [({}, TinyConfig())],
        "seeds": [0],
        "episodes": 1,
        "batch": 1,
    }
    with pytest.raises(UserError, match=sentence):
        evaluate(TINY, **{**asked, **change})


class Spoiled(TinyWorld):
    """What is none, and in which copy: not always the first step's."""

    part, value, copy = "reward", np.nan, 1

    def step(self, actions):
        after = super().step(actions)
        if not bool((self.time == 5).any()) and self.part != "metric":
            return after
        if self.part == "metric":
            figures = {**after.metrics, "length_steps": torch.full((self.copies,), self.value)}
            return after._replace(metrics=figures)
        whole = getattr(after, self.part).clone()
        whole[self.copy, 0] = self.value
        return after._replace(**{self.part: whole})


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["reward", "observation", "state"])
def test_an_evaluation_of_numbers_that_are_none_is_refused(part, value, monkeypatch):
    """It would print an interval of nothing: a policy that sees NaN does the same in every episode."""
    monkeypatch.setattr(Spoiled, "part", part)
    monkeypatch.setattr(Spoiled, "value", value)
    words = "NaN" if np.isnan(value) else "infinite"
    with pytest.raises(UserError, match=f"the {part} of agent 'agent_0' in the instance of seed 7 is {words}: mend"):
        run_policy(Spoiled(3), Walk(), torch.tensor([4, 7, 9]), 1)


def test_an_infinite_metric_is_refused_and_one_that_is_undefined_is_not(monkeypatch):
    monkeypatch.setattr(Spoiled, "part", "metric")
    assert np.isnan(run_policy(Spoiled(3), Walk(), torch.tensor([4, 7, 9]), 1).metrics["length_steps"]).all()
    monkeypatch.setattr(Spoiled, "value", -np.inf)
    with pytest.raises(UserError, match="the metric 'length_steps' of the instance of seed 4 is infinite"):
        run_policy(Spoiled(3), Walk(), torch.tensor([4, 7, 9]), 1)
