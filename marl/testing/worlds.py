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

from marl.envs.batched import BatchedEnv, EnvSpec, Final, Metric, TimeStep, Tree
from marl.envs.spaces import BitWindow
from marl.seeding import Stream, below, fold, seeds_of, uniform

_START, _GOAL, _LIFE, _SLIP = (Stream.WORLD + i for i in range(4))

#: What each discrete action adds to the position; a walker knows the first three, a jumper all five.
MOVES = (0.0, -1.0, 1.0, -2.0, 2.0)
_CHOICES = {"walker": 3, "jumper": 5}
_REACH = {"walker": 1.0, "jumper": 2.0}


class TinyWorld(BatchedEnv):
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
        self.copies, self.device = copies, torch.device(device)
        self._length, self._horizon, self._slip = length, horizon, slip
        self._terminates, self._mortal, self._refill = terminates, mortal, refill
        self._masks, self._continuous = masks, continuous
        self._form, self._state_form = observation, state
        groups = {"walker": tuple(range(agents))}
        if unlike:
            groups = {"walker": tuple(range(0, agents, 2)), "jumper": tuple(range(1, agents, 2))}
        self.spec = self._spec(agents, groups)
        self._members = {name: torch.tensor(index, device=self.device) for name, index in groups.items()}
        self._moves = torch.tensor(MOVES, device=self.device)
        self._slots = torch.arange(agents, device=self.device)
        self._seed = torch.zeros(copies, dtype=torch.int64, device=self.device)
        self._episode = torch.zeros_like(self._seed)
        self._time = torch.zeros_like(self._seed)
        self._return = torch.zeros(copies, device=self.device)
        self._position = torch.zeros(copies, agents, device=self.device)
        self._goal = torch.zeros_like(self._position)
        self._agent_id = self._slots.expand(copies, agents).clone()
        self._death = torch.zeros_like(self._agent_id)
        self._alive = torch.ones(copies, agents, dtype=torch.bool, device=self.device)

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

    # Contract

    def reset(self, seed: int | Tensor, mask: Tensor | None = None) -> TimeStep:
        seeds = seeds_of(seed, self.copies, self.device)
        chosen = torch.ones(self.copies, dtype=torch.bool, device=self.device) if mask is None else mask
        self._seed = torch.where(chosen, seeds, self._seed)
        self._episode = torch.where(chosen, 0, self._episode)
        self._start(chosen)
        return self.current()

    def step(self, actions: Tree) -> TimeStep:
        acted = self._alive
        self._position = torch.where(
            acted, (self._position + self._wish(actions)).clamp(0, self._length - 1), self._position
        )
        self._time = self._time + 1
        distance = (self._goal - self._position).abs()
        team = -self._mean_over(acted, distance) / (self._length - 1)
        reward = torch.where(acted, team.unsqueeze(1), 0.0)
        self._return = self._return + team

        terminated = torch.zeros_like(acted)
        if self._mortal:
            terminated = acted & (self._time.unsqueeze(1) == self._death)
        if self._terminates:
            arrived = (distance < 0.5) | ~acted
            terminated = terminated | (acted & arrived.all(1, keepdim=True))
        truncated = acted & ~terminated & (self._time == self._horizon).unsqueeze(1)
        ended = terminated | truncated
        reached = (acted & (distance < 0.5)).float().mean(1)
        self._alive = acted & ~ended
        done = (self._time == self._horizon) | ~self._alive.any(1)
        if self._refill:
            self._fill(~done)

        final = Final(self._observation(acted), self._state(acted)) if bool(ended.any()) else None
        metrics = {
            "return": self._return,
            "reached_share": reached,
            "length_steps": self._time.float(),
        }
        metrics = {name: torch.where(done, value, 0.0) for name, value in metrics.items()}
        self._episode = self._episode + done
        self._start(done)
        return self.current()._replace(
            reward=reward, terminated=terminated, truncated=truncated, done=done, final=final, metrics=metrics
        )

    def current(self) -> TimeStep:
        none = torch.zeros_like(self._alive)
        return TimeStep(
            observation=self._observation(self._alive),
            state=self._state(self._alive),
            reward=none.float(),
            terminated=none,
            truncated=none.clone(),
            done=torch.zeros(self.copies, dtype=torch.bool, device=self.device),
            alive=self._alive.clone(),
            agent_id=self._agent_id.clone(),
            action_mask=self._action_mask() if self._masks else None,
            key=fold(self._episode_key(), self._time),
            final=None,
            metrics={name: torch.zeros(self.copies, device=self.device) for name in self.spec.metrics},
        )

    # Snapshots

    def snapshot(self) -> dict[str, Tensor]:
        return {name: getattr(self, "_" + name).clone() for name in _STATE}

    def restore(self, snapshot: dict[str, Tensor], source: Tensor | None = None, target: Tensor | None = None) -> None:
        every = torch.arange(self.copies, device=self.device)
        source, target = every if source is None else source, every if target is None else target
        for name in _STATE:
            held = getattr(self, "_" + name).clone()
            held[target] = snapshot[name].to(self.device)[source]
            setattr(self, "_" + name, held)

    # Dynamics

    def _episode_key(self) -> Tensor:
        return fold(fold(self._seed, Stream.EPISODE), self._episode)

    def _draw(self, stream: int, counter: Tensor) -> Tensor:
        """Keys ``[B, N]`` of the present episode."""
        return fold(fold(self._episode_key(), stream).unsqueeze(1), counter)

    def _start(self, mask: Tensor) -> None:
        """New episodes in the copies of ``mask``."""
        if not bool(mask.any()):
            return
        self._time = torch.where(mask, 0, self._time)
        self._return = torch.where(mask, 0.0, self._return)
        self._agent_id = torch.where(mask.unsqueeze(1), self._slots, self._agent_id)
        self._alive = self._alive | mask.unsqueeze(1)
        self._place(mask.unsqueeze(1).expand_as(self._alive))

    def _place(self, mask: Tensor) -> None:
        """Start cell, goal (never the start cell) and time of death of the agents of ``mask`` ``[B, N]``."""
        start = below(self._draw(_START, self._agent_id), self._length)
        goal = (start + 1 + below(self._draw(_GOAL, self._agent_id), self._length - 1)) % self._length
        death = self._time.unsqueeze(1) + 1 + below(self._draw(_LIFE, self._agent_id), 2 * self._horizon)
        self._position = torch.where(mask, start.float(), self._position)
        self._goal = torch.where(mask, goal.float(), self._goal)
        self._death = torch.where(mask, death, self._death)

    def _fill(self, running: Tensor) -> None:
        """Slots that have been empty for ``refill`` steps get a new agent."""
        due = ~self._alive & running.unsqueeze(1) & (self._time.unsqueeze(1) == self._death + self._refill)
        self._agent_id = torch.where(due, self._agent_id + self.spec.n_agents, self._agent_id)
        self._alive = self._alive | due
        self._place(due)

    def _wish(self, actions: Tree) -> Tensor:
        """How far each agent wants to move, float32 ``[B, N]``."""
        wish = torch.zeros_like(self._position)
        for name, members in self._members.items():
            chosen = actions[name] if isinstance(actions, dict) else actions
            assert isinstance(chosen, Tensor)
            if self._continuous:
                wish[:, members] = chosen.squeeze(-1).clamp(-_REACH[name], _REACH[name])
            else:
                wish[:, members] = self._moves[torch.where(self._alive[:, members], chosen, 0)]
        if self._slip:
            drawn = fold(self._draw(_SLIP, self._time.unsqueeze(1)), self._agent_id)
            wish = torch.where(uniform(drawn) < self._slip, 0.0, wish)
        return wish

    # Views

    def _mean_over(self, who: Tensor, x: Tensor) -> Tensor:
        """Mean of ``x`` over the agents of ``who``, ``[B]``; 0 if there are none."""
        return (x * who).sum(1) / who.sum(1).clamp(min=1)

    def _places(self, who: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Offset to the goal and position ``[B, N]``, time left and mean distance ``[B]``, all in [-1, 1]."""
        scale = 1.0 / (self._length - 1)
        offset = (self._goal - self._position) * scale
        left = 1.0 - self._time / self._horizon
        return offset * who, self._position * scale * who, left, self._mean_over(who, offset.abs())

    def _observation(self, who: Tensor) -> Tree:
        offset, position, left, distance = self._places(who)
        columns = [offset, position, left.unsqueeze(1) * who, distance.unsqueeze(1) * who]
        seen = torch.stack(columns, -1)
        line = (1 << self._position.round().long()) * who
        occupied = torch.zeros_like(line[:, 0])
        for bit in line.unbind(1):
            occupied = occupied | bit
        out: dict[str, Tree] = {}
        for name, members in self._members.items():
            place = seen[:, members, : 4 if name == "jumper" else 3]
            rows = (occupied.unsqueeze(1) * who[:, members]).to(torch.int16)[..., None, None]
            out[name] = place if self._form == "vector" else {"place": place, "line": rows}
        return out if len(out) > 1 else out["walker"]

    def _state(self, who: Tensor) -> Tensor | None:
        offset, position, left, distance = self._places(who)
        if self._state_form == "shared":
            return torch.cat([offset, position, who.float(), left.unsqueeze(1)], 1)
        if self._state_form == "agent":
            both = torch.stack([left, distance], -1).unsqueeze(1) * who.unsqueeze(-1)
            return torch.cat([torch.stack([offset, position, who.float()], -1), both], -1)
        return None

    def _action_mask(self) -> Tree:
        target = self._position.unsqueeze(-1) + self._moves
        legal = (target >= 0) & (target <= self._length - 1)
        if len(self._members) == 1:
            return legal[..., : _CHOICES["walker"]]
        return {name: legal[:, members, : _CHOICES[name]] for name, members in self._members.items()}


#: The attributes that a snapshot holds.
_STATE = ("seed", "episode", "time", "return", "position", "goal", "agent_id", "death", "alive")


def walk_to_goal(timestep: TimeStep) -> Tensor:
    """The best discrete actions ``[B, N]`` of a ``TinyWorld`` of walkers with vector observations."""
    assert isinstance(timestep.observation, Tensor)
    offset = timestep.observation[..., 0]
    return torch.where(offset > 0, 2, torch.where(offset < 0, 1, 0))
