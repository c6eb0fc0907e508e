"""``TinyWorld``: the smallest world that has every feature of the contract, for tests and as an example of one.

Agents stand on a line of cells and each has a goal cell. All of them are paid alike, by how near the team is to its
goals, so the best policy is plain (walk to the goal) and MAPPO finds it in seconds on one core.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from marl.envs.batched import EnvSpec, Metric, TimeStep, Tree
from marl.envs.spaces import BitWindow
from marl.envs.tensor_world import Moved, TensorWorld
from marl.seeding import Stream, below, fold, uniform

_START, _GOAL, _LIFE, _SLIP = (Stream.WORLD + i for i in range(4))

#: What each discrete action adds to the position; a walker knows the first three, a jumper all five.
MOVES = (0.0, -1.0, 1.0, -2.0, 2.0)
_CHOICES = {"walker": 3, "jumper": 5}
_REACH = {"walker": 1.0, "jumper": 2.0}


class TinyWorld(TensorWorld):
    """B copies of N agents on a line of ``length`` cells.

    Actions: 0 stay, 1 left, 2 right (jumpers also 3: two left, 4: two right); with ``continuous`` the distance moved,
    at most 1 (jumpers 2). Positions are held at the ends of the line.
    Reward, the same for every living agent: minus the mean distance of the living to their goals, over ``length - 1``.
    Observation of one agent, float32 [3]: (goal - position) and position, both over ``length - 1``, and the share of
    the episode that is left; a jumper also sees the team's mean distance [4]. Zero for agents that are not alive.

    agents: N.
    horizon: steps after which the living are truncated.
    terminates: the episode also ends, by termination, when every living agent stands on its goal.
    mortal: each agent terminates alone after a random number of steps, 1 to ``2 * horizon``; with the last one
        the episode ends.
    refill: steps after which a dead agent's slot is given to a new one (a new ``agent_id``); 0: never.
    unlike: agents 1, 3, 5, ... are jumpers, a group of their own with other spaces.
    masks: moves that would leave the line are masked (discrete actions only).
    continuous: actions are float32 [1].
    observation: "vector" as above, or "dict" with that as "place" and the occupied cells as a one-row BitWindow "line".
    state: of the critic: "agent" [B, N, 5], "shared" [B, 3 N + 1] or "none".
    slip: probability that a move does not happen, drawn anew at every step.
    """

    total: Tensor
    position: Tensor
    goal: Tensor
    death: Tensor

    def __init__(
        self,
        copies: int,
        agents: int = 2,
        *,
        length: int = 9,
        horizon: int = 16,
        terminates: bool = False,
        mortal: bool = False,
        refill: int = 0,
        unlike: bool = False,
        masks: bool = False,
        continuous: bool = False,
        observation: Literal["vector", "dict"] = "vector",
        state: Literal["agent", "shared", "none"] = "agent",
        slip: float = 0.0,
        device: torch.device | str = "cpu",
    ):
        if masks and continuous:
            raise ValueError("continuous actions have no masks")
        if unlike and agents < 2:
            raise ValueError("two groups need at least two agents")
        self._length, self._horizon, self._slip = length, horizon, slip
        self._terminates, self._mortal, self._refill = terminates, mortal, refill
        self._masks, self._continuous = masks, continuous
        self._form, self._state_form = observation, state
        groups = {"walker": tuple(range(agents))}
        if unlike:
            groups = {"walker": tuple(range(0, agents, 2)), "jumper": tuple(range(1, agents, 2))}
        super().__init__(self._spec(agents, groups), copies, device)
        self._members = {name: torch.tensor(index, device=self.device) for name, index in groups.items()}
        self._moves = torch.tensor(MOVES, device=self.device)
        place = torch.zeros(copies, agents, device=self.device)
        self.keep(total=place[:, 0], position=place, goal=place, death=place.long())
        self._reached = place[:, 0]

    # Spaces

    def _spec(self, agents: int, groups: dict[str, tuple[int, ...]]) -> EnvSpec:
        return EnvSpec(
            agents=tuple(f"agent_{i}" for i in range(agents)),
            groups=groups,
            observation_space={name: self._observation_space(name) for name in groups},
            action_space={name: self._action_space(name) for name in groups},
            state_space=self._state_space(agents),
            horizon=self._horizon,
            state_per_agent=self._state_form == "agent",
            metrics={
                "return": Metric("1", "higher", "sum over steps of the team's reward"),
                "reached_share": Metric("1", "higher", "share of agents alive and on their goals at the end"),
                "length_steps": Metric("step", "neither", "length of the episode"),
            },
            primary_metric="reached_share",
            shared_reward=not self._mortal,
        )

    def _observation_space(self, group: str) -> spaces.Space[Any]:
        low = [-1.0, 0.0, 0.0] + [0.0] * (group == "jumper")
        place = spaces.Box(np.array(low, dtype=np.float32), 1.0, dtype=np.float32)
        if self._form == "vector":
            return place
        return spaces.Dict({"place": place, "line": BitWindow(1, 1, self._length)})

    def _action_space(self, group: str) -> spaces.Space[Any]:
        if self._continuous:
            return spaces.Box(-_REACH[group], _REACH[group], (1,), np.float32)
        return spaces.Discrete(_CHOICES[group])

    def _state_space(self, agents: int) -> spaces.Space[Any] | None:
        if self._state_form == "none":
            return None
        return spaces.Box(-1.0, 1.0, (5,) if self._state_form == "agent" else (3 * agents + 1,), np.float32)

    # Rules

    def begin(self, mask: Tensor) -> None:
        self.renew(mask, total=0.0)
        self._place(mask.unsqueeze(1).expand_as(self.alive))

    def move(self, actions: Tree) -> Moved:
        acted, time = self.alive, self.time + 1
        self.position = torch.where(
            acted, (self.position + self._wish(actions)).clamp(0, self._length - 1), self.position
        )
        distance = (self.goal - self.position).abs()
        team = -self._mean_over(acted, distance) / (self._length - 1)
        self.total = self.total + team
        self._reached = (acted & (distance < 0.5)).float().mean(1)
        terminated = torch.zeros_like(acted)
        if self._mortal:
            terminated = acted & (time.unsqueeze(1) == self.death)
        if self._terminates:
            arrived = (distance < 0.5) | ~acted
            terminated = terminated | arrived.all(1, keepdim=True)
        return Moved(team.unsqueeze(1).expand_as(acted), terminated)

    def measure(self) -> dict[str, Tensor]:
        return {"return": self.total, "reached_share": self._reached, "length_steps": self.time}

    def after(self, running: Tensor) -> None:
        """Slots that have been empty for ``refill`` steps get a new agent."""
        if not self._refill:
            return
        due = ~self.alive & running.unsqueeze(1) & (self.time.unsqueeze(1) == self.death + self._refill)
        self.agent_id = torch.where(due, self.agent_id + self.spec.n_agents, self.agent_id)
        self.alive = self.alive | due
        self._place(due)

    def _place(self, mask: Tensor) -> None:
        """Start cell, goal (never the start cell) and time of death of the agents of ``mask`` ``[B, N]``."""
        start = below(self.draw(_START, self.agent_id), self._length)
        goal = (start + 1 + below(self.draw(_GOAL, self.agent_id), self._length - 1)) % self._length
        death = self.time.unsqueeze(1) + 1 + below(self.draw(_LIFE, self.agent_id), 2 * self._horizon)
        self.position = torch.where(mask, start.float(), self.position)
        self.goal = torch.where(mask, goal.float(), self.goal)
        self.death = torch.where(mask, death, self.death)

    def _wish(self, actions: Tree) -> Tensor:
        """How far each agent wants to move, float32 ``[B, N]``."""
        wish = torch.zeros_like(self.position)
        for name, members in self._members.items():
            chosen = actions[name] if isinstance(actions, dict) else actions
            assert isinstance(chosen, Tensor)
            if self._continuous:
                wish[:, members] = chosen.squeeze(-1).clamp(-_REACH[name], _REACH[name])
            else:
                wish[:, members] = self._moves[torch.where(self.alive[:, members], chosen, 0)]
        if self._slip:
            drawn = fold(self.draw(_SLIP, self.time.unsqueeze(1)), self.agent_id)
            wish = torch.where(uniform(drawn) < self._slip, 0.0, wish)
        return wish

    # Views

    def _mean_over(self, who: Tensor, x: Tensor) -> Tensor:
        """Mean of ``x`` over the agents of ``who``, ``[B]``; 0 if there are none."""
        return (x * who).sum(1) / who.sum(1).clamp(min=1)

    def _places(self, who: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Offset to the goal and position ``[B, N]``, time left and mean distance ``[B]``, all in [-1, 1]."""
        scale = 1.0 / (self._length - 1)
        offset = (self.goal - self.position) * scale
        left = 1.0 - self.time / self._horizon
        return offset * who, self.position * scale * who, left, self._mean_over(who, offset.abs())

    def observe(self, who: Tensor) -> Tree:
        offset, position, left, distance = self._places(who)
        columns = [offset, position, left.unsqueeze(1) * who, distance.unsqueeze(1) * who]
        seen = torch.stack(columns, -1)
        line = (1 << self.position.round().long()) * who
        occupied = torch.zeros_like(line[:, 0])
        for bit in line.unbind(1):
            occupied = occupied | bit
        out: dict[str, Tree] = {}
        for name, members in self._members.items():
            place = seen[:, members, : 4 if name == "jumper" else 3]
            rows = (occupied.unsqueeze(1) * who[:, members]).to(torch.int16)[..., None, None]
            out[name] = place if self._form == "vector" else {"place": place, "line": rows}
        return out if len(out) > 1 else out["walker"]

    def central_state(self, who: Tensor) -> Tensor | None:
        offset, position, left, distance = self._places(who)
        if self._state_form == "shared":
            return torch.cat([offset, position, who.float(), left.unsqueeze(1)], 1)
        if self._state_form == "agent":
            both = torch.stack([left, distance], -1).unsqueeze(1) * who.unsqueeze(-1)
            return torch.cat([torch.stack([offset, position, who.float()], -1), both], -1)
        return None

    def action_mask(self) -> Tree | None:
        if not self._masks:
            return None
        target = self.position.unsqueeze(-1) + self._moves
        legal = (target >= 0) & (target <= self._length - 1)
        if len(self._members) == 1:
            return legal[..., : _CHOICES["walker"]]
        return {name: legal[:, members, : _CHOICES[name]] for name, members in self._members.items()}


def walk_to_goal(timestep: TimeStep) -> Tensor:
    """The best discrete actions ``[B, N]`` of a ``TinyWorld`` of walkers with vector observations."""
    assert isinstance(timestep.observation, Tensor)
    offset = timestep.observation[..., 0]
    return torch.where(offset > 0, 2, torch.where(offset < 0, 1, 0))
