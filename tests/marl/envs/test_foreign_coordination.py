"""The example of docs/coordination.md: somebody's environment with all abilities, and what the modules make of it."""

from __future__ import annotations

import importlib
import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from simulators import Herd

import marl
from marl.config import CoordinationConfig
from marl.coordination.pipeline import Pipeline
from marl.coordination.safety import UNDECIDED, Safety, Supervised
from marl.envs.abilities import Predicts
from marl.envs.batched import Plans
from marl.envs.pettingzoo import from_parallel
from marl.errors import UserError
from marl.testing import check_parallel
from marl.training.tracking import read_metrics

PAGE = Path(__file__).parents[3] / "docs" / "coordination.md"
FILES = dict(re.findall(r"```python\n# file: (\S+)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL))
EVERYTHING = {name: {"enabled": True} for name in ("guidance", "intent", "safety")}


@pytest.fixture
def crossing(tmp_path, monkeypatch):
    for name in ("crossing.py", "crossing_scenario.py"):
        (tmp_path / name).write_text(FILES[name], encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    yield importlib.import_module("crossing")
    for name in ("crossing", "crossing_scenario"):
        importlib.sys.modules.pop(name, None)


def draws(step, shape):
    return torch.randint(0, 5, shape, generator=torch.Generator().manual_seed(step))


def test_the_example_is_short():
    assert len([line for line in FILES["crossing.py"].splitlines() if line.strip()]) <= 60


def test_the_example_conforms(crossing):
    report = check_parallel(crossing.Crossing, steps=20)
    assert not report.findings, str(report)


def test_the_batched_world_says_what_the_environment_says(crossing):
    class Full(crossing.Crossing):
        """With the methods that an environment may leave out."""

        def reached(self):
            return self._named(self.waited == 0)

        def candidates(self, agent):
            return np.arange(5)[self.possible_agents.index(agent) :]

    world, env = from_parallel(Full, 1, workers=0), Full()
    assert isinstance(world, Plans) and isinstance(world, Predicts) and isinstance(world, Supervised)
    assert world.enable_prediction(3, 2) == (5.0, 5.0)
    world.enable_plan()
    world.reset(4)
    env.reset(seed=int(world.pool.seeds[0]))
    for step in range(32):
        names = env.agents
        plan = world.plan()
        assert np.array_equal(plan.features["plan"][0], np.stack([env.plan()[name] for name in names]))
        assert plan.reached[0].tolist() == [bool(env.reached()[name]) for name in names]
        drafts = draws(step, (1, 4))
        told = dict(zip(names, drafts[0].tolist(), strict=True))
        for asked, answer in ((None, None), (drafts, told)):
            prediction = world.predict(asked)
            assert np.array_equal(prediction.trajectory[0], np.stack([*env.predict(answer, 3).values()]))
            assert np.array_equal(prediction.origin[0], np.stack([*env.coordinates().values()]))
        far = (prediction.origin[0][:, None] - prediction.origin[0]).norm(dim=-1).fill_diagonal_(99)
        assert prediction.companions[0, :, 0].tolist() == far.argmin(1).tolist()
        assert world.priority()[0].tolist() == [env.priority()[name] for name in names]
        committed = torch.where(torch.arange(4) < step % 4, drafts, UNDECIDED)
        some = {name: told[name] for k, name in enumerate(names) if k < step % 4}
        candidates = world.candidates(torch.tensor([3]))
        assert candidates[0][candidates[0] >= 0].tolist() == env.candidates(names[3]).tolist()
        margin = world.margin(candidates, torch.tensor([3]), committed)[0]
        for action, room in zip(candidates[0].tolist(), margin.tolist(), strict=True):
            assert action < 0 or room == env.margin(names[3], action, some)
        after = world.step(drafts)
        env.step(told)
    assert bool(after.done[0])
    final = world.plan().final["plan"][0]
    assert np.array_equal(final, np.stack([*env.plan().values()]))
    assert np.array_equal(world.predict_final().trajectory[0], np.stack([*env.predict(None, 3).values()]))


def test_processes_do_not_change_what_the_modules_make_of_it(crossing):
    def play(workers):
        world = from_parallel(crossing.Crossing, 3, workers=workers)
        pipeline = Pipeline(world, CoordinationConfig.model_validate(EVERYTHING))
        seen = pipeline.view(world.reset(0))
        found = []
        for step in range(34):
            seen = pipeline.modules[1].negotiate(seen, lambda now, step=step: draws(step, (3, 4)))
            executed = pipeline.modules[2].correct(seen, draws(-1 - step, (3, 4))).executed
            found += [executed.float(), *seen.observation.values(), seen.reward]
            seen = pipeline.view(world.step(executed))
        world.close()
        return found

    for one, two in zip(play(0), play(2), strict=True):
        assert torch.equal(one, two)


def test_questions_cross_once_each(crossing, monkeypatch):
    world, asked = from_parallel(crossing.Crossing, 2, workers=0), []
    ask = world.ask
    monkeypatch.setattr(world, "ask", lambda question: (asked.append(question), ask(question)))
    pipeline = Pipeline(
        world, CoordinationConfig.model_validate(EVERYTHING | {"intent": {"enabled": True, "rounds": 2}})
    )
    seen = pipeline.view(world.reset(0))
    pipeline.modules[2].correct(pipeline.modules[1].negotiate(seen, lambda now: draws(0, (2, 4))), draws(1, (2, 4)))
    assert asked == ["predict"] * (1 + 2) + ["priority"] + ["margin"] * 4


def test_a_supervisor_keeps_robots_apart(crossing):
    def shared_cells(supervised):
        world = from_parallel(crossing.Crossing, 8, workers=0)
        supervisor, now, shared = Safety(world), world.reset(0), 0.0
        for step in range(30):
            proposed = draws(step, (8, 4))
            now = world.step(supervisor.correct(now, proposed).executed if supervised else proposed)
            shared -= float(now.reward.clamp(max=0).sum())
        return shared

    assert shared_cells(False) > 50 > 5 >= shared_cells(True)


def test_a_worker_lost_to_a_question_costs_its_episodes(crossing):
    world = from_parallel(crossing.Crossing, 2, workers=2, timeout_s=60)
    supervisor, now = Safety(world), world.reset(0)
    os.kill(world.pool.pids[0], signal.SIGKILL)
    after = world.step(supervisor.correct(now, draws(0, (2, 4))).executed)
    assert after.done.tolist() == [True, False]
    assert after.truncated.tolist() == [[True] * 4, [False] * 4]
    assert after.metrics["lost"].tolist() == [1.0, 0.0]
    assert torch.equal(after.final.observation[0], now.observation[0])
    later = world.step(supervisor.correct(after, draws(1, (2, 4))).executed)
    assert not bool(later.done.any())
    world.close()


def test_environments_have_the_abilities_that_they_have_methods_for(crossing):
    class Quiet(crossing.Crossing):
        margin = predict = None

    world = from_parallel(Quiet, 1, workers=0)
    assert isinstance(world, Plans) and not isinstance(world, Predicts | Supervised)
    with pytest.raises(UserError, match=r"coordination\.intent\.enabled=false"):
        Pipeline(world, CoordinationConfig.model_validate({"intent": {"enabled": True}}))
    assert not isinstance(from_parallel(Herd, 1, workers=0), Plans | Predicts | Supervised)


def test_it_trains_with_all_modules(crossing, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "crossing.yaml").write_text("{}", encoding="utf-8")
    exec(compile(FILES["train_crossing.py"], "train_crossing.py", "exec"), {})
    assert "interventions_per_step" in capsys.readouterr().out
    assert marl.load("runs/crossing").config.coordination.safety.enabled
    rows = read_metrics(Path("runs/crossing/metrics.csv"))
    assert sum(row.get("episode/interventions_per_step", 0.0) for row in rows) > 0
    assert all(row["learn/first_log_ratio"] < 1e-5 for row in rows)  # learned from is what was proposed
