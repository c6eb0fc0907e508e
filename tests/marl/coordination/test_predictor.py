"""The learned predictor on two agents that move twice as far as the world's roll-out says."""

from __future__ import annotations

import torch
from gymnasium import spaces
from torch import Tensor

from marl.coordination.predictor import Predictor
from marl.envs.batched import TimeStep

SPACE = spaces.Dict({"observation": spaces.Box(-1.0, 1.0, (1,))})
SCALE = torch.tensor([10.0], dtype=torch.float64)
HORIZON = 3


def predictor() -> Predictor:
    made = Predictor(SPACE, actions=2, horizon=HORIZON, scale=SCALE, seed=0)
    made.recording = True
    return made


def moment(done: bool = False, agent_id: tuple[int, int] = (0, 1)) -> TimeStep:
    none = torch.zeros(4, 2, dtype=torch.bool)
    return TimeStep(
        observation=torch.zeros(4, 2, 1),
        state=None,
        reward=torch.zeros(4, 2),
        terminated=none,
        truncated=none,
        done=torch.full((4,), done),
        alive=~none,
        agent_id=torch.tensor(agent_id).repeat(4, 1),
        action_mask=None,
        key=torch.zeros(4, dtype=torch.int64),
        final=None,
        metrics={},
    )


def rollout(origin: Tensor, actions: Tensor) -> Tensor:
    """Says: one metre a step for action 1."""
    steps = torch.arange(1, HORIZON + 1, dtype=torch.float64)
    return origin.unsqueeze(2) + (actions.unsqueeze(-1) * steps).unsqueeze(-1)


def drive(learner: Predictor, steps: int = 24, cut: int | None = None) -> None:
    """Agents of copies 0 and 1 stand, those of 2 and 3 move two metres a step; at ``cut`` an episode begins anew."""
    actions = torch.tensor([[0, 0], [0, 0], [1, 1], [1, 1]])
    for t in range(steps):
        since = t if cut is None or t < cut else t - cut
        origin = (2.0 * actions * since).unsqueeze(-1).double()
        seen = {"observation": torch.zeros(4, 2, 1)}
        learner.record(moment(done=t == cut), seen, actions, rollout(origin, actions), origin)


def test_it_begins_as_the_rollout() -> None:
    actions = torch.tensor([[0, 1]] * 4)
    told = rollout(torch.zeros(4, 2, 1).double(), actions)
    seen = {"observation": torch.rand(4, 2, 1)}
    torch.testing.assert_close(predictor().correct(seen, actions, told), told)


def test_it_learns_where_agents_really_go() -> None:
    learner = predictor()
    first = None
    for number in range(60):
        drive(learner)
        figures = learner.learn(number)
        first = first or figures
    # The moving half is short of 1, 2 and 3 m, at a scale of 10 m.
    assert abs(figures["intent_rollout_error"] - (((1 + 4 + 9) / 3 / 2) ** 0.5) / 10.0) < 1e-6
    assert first["intent_error"] == first["intent_rollout_error"]
    assert figures["intent_error"] < 0.1 * figures["intent_rollout_error"]
    assert learner.learn(60) == {}, "what was learned from is forgotten"


def test_nothing_is_learned_across_the_end_of_an_episode() -> None:
    """After the restart positions begin at 0 again: a pair across it would show a large error."""
    learner = predictor()
    drive(learner, cut=10)
    assert abs(learner.learn(0)["intent_rollout_error"] - (((1 + 4 + 9) / 3 / 2) ** 0.5) / 10.0) < 0.02


def test_state_comes_back_exactly() -> None:
    learner = predictor()
    drive(learner)
    learner.learn(0)
    other = predictor()
    other.load_state(learner.state())
    for one in (learner, other):
        drive(one)
    assert learner.learn(1) == other.learn(1)
