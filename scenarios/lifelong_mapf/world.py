"""``LifelongMapf``: many agents on a grid, each on its way to a goal, and given a new one whenever it arrives."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from marl.envs.abilities import Prediction
from marl.envs.batched import BatchedEnv, EnvSpec, Final, Plan, TimeStep, Tree
from marl.errors import UserError
from marl.seeding import Stream, below, fold, seeds_of
from scenarios.lifelong_mapf import metrics, observation
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.intent import Announcer
from scenarios.lifelong_mapf.maps.headings import N_TURNING_ACTIONS
from scenarios.lifelong_mapf.safety import Resolver
from scenarios.lifelong_mapf.state import Goals, State, allocate
from scenarios.lifelong_mapf.step import reference
from scenarios.lifelong_mapf.step.bound import collision_free_goals
from scenarios.lifelong_mapf.step.engines import CompiledEngine, Engine, TorchEngine, View
from scenarios.lifelong_mapf.step.errands import Errands
from scenarios.lifelong_mapf.step.instances import load_instances
from scenarios.lifelong_mapf.step.kernels import MAP, N_ACTIONS, draw_distinct_goals
from scenarios.lifelong_mapf.step.pool import MapPool
from scenarios.lifelong_mapf.step.turning import Turning
from scenarios.lifelong_mapf.views.agent_plan import AgentPlan

_PLAN = "plan/"


class LifelongMapf(BatchedEnv):
    """B copies of a grid with N agents; implements ``Snapshots``, ``Plans``, ``Predicts``, ``Resolves`` and
    ``Adapts``.

    Observation, central state and metrics: see ``observation`` and ``metrics``. Actions: 0 stay, 1 up, 2 down, 3 left,
    4 right; a move into a wall is a stay. With ``config.motion`` turning: 0 ahead, 1 turn right, 2 turn left, 3 wait.
    Conflicting moves are resolved as in POGEMA 1.4.0 (``config.collision``).

    Reward: 1.0 for each goal reached. What happens then is up to ``config.on_target``:
        restart: the agent gets its next goal in the same step, those of the task file in order, then random ones;
        nothing: after its last goal the agent stays on the board, where it may move on; the episode terminates when all
            agents stand on their last goals;
        finish: at its last goal the agent terminates and leaves the board.
    One-shot agents have one random goal, or those of the task file; those that stay have one that no other has. At the
    horizon an episode is truncated.

    What an episode consists of (its map, starts, and the k-th goal of each agent) is a function of the copy's seed and
    the number of the episode: it depends neither on actions nor on other copies. Of the task files in a folder, episode
    e of seed s plays number (s + e) modulo how many there are.

    compiled: run as numba kernels (CPU only) or in plain torch; default: compiled on the CPU.

    For rules and renderers: height, width; blocked uint8 [M, H * W] (numpy); map_index int32 [B]; position and goal
    int32 [B, N], flat cells row * width + column; turning, whether robots have to turn, and heading int8 [B, N]
    (``maps.headings``); errands, None without; final_position, final_heading, both where a copy's last episode ended;
    age int32 [B, N], steps since the goal was given (one-shot: since the agent last stood on its last goal, once it
    has); alive, refused bool [B, N] (refused: others prevented the last move); steps int32 [B]. These tensors are the
    world's own and change
    with every step: read, do not write.
    """

    def __init__(
        self, config: MapfConfig, copies: int, device: torch.device | str = "cpu", *, compiled: bool | None = None
    ):
        self.config, self.copies, self.device = config, copies, torch.device(device)
        instances = load_instances(config)
        self._starts = instances.starts
        self._pool = MapPool(instances.maps)
        self.height, self.width = self._pool.height, self._pool.width
        self.blocked: NDArray[np.uint8] = self._pool.blocked.numpy()
        self._lifelong = config.on_target == "restart"
        # Who stays on its goal needs one of its own. Task files have been looked at.
        self._distinct_goals = config.on_target == "nothing" and instances.starts is None
        self._has_errands = instances.errands is not None
        self.spec = self._make_spec(instances.agents)

        self._state = allocate(copies, instances.agents, config.horizon, self.device)
        self.map_index, self.steps = self._state.map_index, self._state.steps
        self.position, self.goal = self._state.position, self._state.goal
        self.age, self.alive, self.refused = self._state.age, self._state.alive, self._state.refused
        self._cpu_goals = self._pool.goals(instances.task, instances.task_count)
        self._goals = type(self._cpu_goals)(*(table.to(self.device) for table in self._cpu_goals))
        use_kernels = self.device.type == "cpu" if compiled is None else compiled
        engine = CompiledEngine if use_kernels else TorchEngine
        self._engine: Engine = engine(config, self._pool, self._cpu_goals, self._state)
        self._agent_id = torch.arange(instances.agents, device=self.device).repeat(copies, 1)
        if self._starts is not None:
            self._starts = self._starts.to(self.device)
        # What the host knows by itself, so that it need not wait for the device: steps made in each copy's episode.
        self._clock = np.zeros(copies, np.int64)
        self._everybody = torch.arange(copies, device=self.device)

        self._started = False
        self._plan: AgentPlan | None = None
        self._reached = torch.zeros(copies, instances.agents, dtype=torch.bool, device=self.device)
        self.final_position = torch.zeros_like(self.position)
        self.heading = torch.zeros(copies, instances.agents, dtype=torch.int8, device=self.device)
        self.final_heading = torch.zeros_like(self.heading)
        self.turning = config.motion == "turning"
        self._turning = Turning(self.heading) if self.turning else None
        self.errands = instances.errands and Errands(instances.errands, config.scheduler, copies)
        if self.errands is not None and self.device.type != "cpu":
            raise UserError("errands are played on the CPU: leave device out")
        self._final_features: dict[str, Tensor] | None = None
        self._announcer: Announcer | None = None
        self._final_prediction: Prediction | None = None
        self._resolver: Resolver | None = None

    def _make_spec(self, agents: int) -> EnvSpec:
        config = self.config
        turning = config.motion == "turning"
        figures = metrics.LIFELONG if self._lifelong else metrics.ONE_SHOT
        if self._has_errands:
            figures = figures | metrics.ERRANDS
        if config.bound_share and self._lifelong:
            figures = figures | metrics.BOUND_SHARE
        return EnvSpec(
            agents=tuple(f"agent_{i}" for i in range(agents)),
            groups={"agents": tuple(range(agents))},
            observation_space={"agents": observation.observation_space(config.radius, turning)},
            action_space={"agents": spaces.Discrete(N_TURNING_ACTIONS if turning else N_ACTIONS)},
            state_space=observation.state_space(turning) if config.central_state else None,
            horizon=config.horizon,
            metrics=figures,
            primary_metric="throughput" if self._lifelong else "success",
        )

    def reset(self, seed: int | Tensor, mask: Tensor | None = None) -> TimeStep:
        if mask is None:
            mask = torch.ones(self.copies, dtype=torch.bool, device=self.device)
        elif not self._started:
            raise RuntimeError("reset all copies before some of them")
        self._started = True
        self._state.seed.copy_(torch.where(mask, seeds_of(seed, self.copies, self.device), self._state.seed))
        self._state.episode.masked_fill_(mask, 0)
        self._begin_episodes(mask.cpu().numpy())
        if self._plan is not None:
            self._plan.restart(mask)
        self._reached = self._reached.masked_fill(mask.unsqueeze(1), 0)
        return self.current()

    def step(self, actions: Tree) -> TimeStep:
        if not self._started:
            raise RuntimeError("reset the world before its first step")
        if not isinstance(actions, Tensor) or actions.shape != self.position.shape:
            raise ValueError(f"actions must be a tensor of shape {tuple(self.position.shape)}")
        acting = self.alive.clone()
        reward = self.move(actions)
        terminated, over = self._terminated(acting)
        late = self.steps >= self.config.horizon
        done = over | late
        truncated = torch.zeros_like(acting)
        figures = self._no_figures()
        view = self._engine.view()
        final = self._final_features = self._final_prediction = None
        if self._plan is not None:
            self._plan.advance()
            self._reached = self._plan.reached
        self._clock += 1
        # A lifelong episode ends by the clock alone.
        ending = self._clock >= self.config.horizon if self._lifelong else done.cpu().numpy()
        any_done = bool(ending.any())
        if any_done or (self.config.on_target == "finish" and bool(terminated.any())):
            seen, central = self._shown(view)
            final = Final(dict(seen), central)
            if self._plan is not None:
                self._final_features = self._plan.features()
            if self._announcer is not None:
                self._final_prediction = self.predict(None)
        if any_done:
            truncated = acting & ~terminated & late.unsqueeze(1)
            figures = self._figures(done)
            self.final_position = torch.where(done.unsqueeze(1), self.position, self.final_position)
            self.final_heading = torch.where(done.unsqueeze(1), self.heading, self.final_heading)
            self._state.episode.add_(done)
            self._begin_episodes(ending)
            if self._plan is not None:
                self._plan.restart(done)
            view = self._engine.view_again(view, done)
        return self._timestep(view, reward, terminated, truncated, done, final, figures)

    def move(self, actions: Tensor) -> Tensor:
        """The joint move alone: rewards ``[B, N]``, nothing to see, no ends of episodes.

        For measurements, at most ``horizon`` times after a reset.
        """
        actions = actions.to(device=self.device, dtype=torch.int64)
        reward = self._engine.step(actions if self._turning is None else self._turning.carry_out(actions, self.alive))
        return (
            reward if self.errands is None else self.errands.advance(reward > 0, self.position, self.heading, self.goal)
        )

    def _shown(self, view: View) -> View:
        return view if self._turning is None else self._turning.shown(view)

    def current(self) -> TimeStep:
        agents = self.position.shape
        nothing = torch.zeros(agents, dtype=torch.bool, device=self.device)
        self._final_features = self._final_prediction = None
        return self._timestep(
            self._engine.view(),
            torch.zeros(agents, device=self.device),
            nothing,
            nothing.clone(),
            nothing[:, 0].clone(),
            None,
            self._no_figures(),
        )

    def snapshot(self) -> dict[str, Tensor]:
        saved = {name: tensor.clone() for name, tensor in self._state._asdict().items()}
        saved |= {name: tensor.clone() for name, tensor in self._more_state().items()}
        if self._plan is not None:
            saved |= {_PLAN + name: tensor for name, tensor in self._plan.snapshot().items()}
        return saved

    def restore(self, snapshot: dict[str, Tensor], source: Tensor | None = None, target: Tensor | None = None) -> None:
        everything = torch.arange(self.copies, device=self.device)
        into = everything if target is None else target.to(self.device)
        for name, tensor in (self._state._asdict() | self._more_state()).items():
            saved = snapshot[name] if source is None else snapshot[name][source]
            tensor[into] = saved.to(self.device)
        self._clock = self.steps.cpu().numpy().astype(np.int64)
        if self._plan is not None:
            plan = {name.removeprefix(_PLAN): saved for name, saved in snapshot.items() if name.startswith(_PLAN)}
            self._plan.restore(plan, source, target)
        self._reached = self._reached.clone()
        self._reached[into] = False
        self._started = True

    def _more_state(self) -> dict[str, Tensor]:
        headings = {} if self._turning is None else {"heading": self.heading}
        return headings | ({} if self.errands is None else self.errands.state())

    def adapt(self, options: MapfConfig) -> None:
        guidance = self.config.guidance.shown_as(options.guidance)
        self.config = self.config.model_copy(update={"guidance": guidance})

    def enable_plan(self, enabled: bool = True) -> dict[str, spaces.Space[Any]]:
        guidance = self.config.guidance
        if self._turning is not None and (guidance.choices or guidance.egocentric):
            word = "choices" if guidance.choices else "egocentric"
            raise UserError(
                f"guidance.{word} is about five moves, and robots that turn have other actions: leave it out"
            )
        self._plan = AgentPlan(self, self.config.guidance, self.config.radius) if enabled else None
        return {} if self._plan is None else self._plan.spaces

    def plan(self) -> Plan:
        if self._plan is None:
            raise RuntimeError("enable_plan() before plan()")
        return Plan(self._plan.features(), self._reached, self._final_features)

    def enable_prediction(self, horizon: int, companions: int) -> tuple[float, ...]:
        self._announcer = Announcer(self, self.config.radius, horizon, companions)
        return self._announcer.scale

    def predict(self, actions: Tensor | None) -> Prediction:
        if self._announcer is None:
            raise RuntimeError("enable_prediction() before predict()")
        if actions is not None and self._turning is not None:
            actions = self._turning.proposed(actions)
        return self._announcer.predict(actions, self._plan.fields if self._plan is not None else None)

    def predict_final(self) -> Prediction | None:
        return self._final_prediction

    def resolve(self, proposed: Tensor, scores: Tensor | None) -> Tensor:
        self._resolver = self._resolver or Resolver(self)
        urgency, guided = (None, None) if self._plan is None else (self._plan.urgency(), self._plan.fields)
        if self._turning is None:
            return self._resolver.resolve(self._engine.keys(), proposed, scores, urgency, guided)
        moves = self._turning.proposed(proposed)
        settled = self._resolver.resolve(self._engine.keys(), moves, None, urgency, guided, self.heading)
        return self._turning.executed(proposed, settled)

    def _begin_episodes(self, beginning: NDArray[np.bool_]) -> None:
        """Start the episodes ``episode`` of the copies ``beginning`` (bool [B])."""
        state = self._state
        self._clock[beginning] = 0
        copies = self._everybody
        if not beginning.all():
            copies = copies[torch.from_numpy(np.flatnonzero(beginning))]
        key = fold(fold(state.seed[copies], Stream.EPISODE), state.episode[copies])
        if self._starts is None:
            map_index = below(fold(key, MAP), len(self._pool.maps)).int()
            start = self._pool.draw_starts(key, map_index, self.spec.n_agents, self._distinct_goals)
        else:
            # Given instances are played in turn, so that consecutive seeds play each of them once.
            map_index = ((state.seed[copies] + state.episode[copies]) % len(self._pool.maps)).int()
            start = self._starts[map_index]
        goal = self._first_goals(key, map_index, start)
        if self._goals.task.shape[2]:
            given = self._goals.task_count[map_index] > 0
            goal = torch.where(given, self._goals.task[map_index, :, 0], goal)
        for tensor in (
            state.steps,
            state.goals_done,
            state.age,
            state.refused,
            state.hidden,
            state.last_off,
            state.refusals,
            state.collisions,
            state.latency,
        ):
            tensor[copies] = 0
        if not self._lifelong:
            # Who begins on its only goal has been there for good since before the first step: it costs nothing.
            home = (start == goal) & (self._goals.task_count[map_index] <= 1)
            state.last_off[copies] = -home.int()
        state.key[copies] = key
        state.map_index[copies] = map_index
        state.position[copies] = start
        state.goal[copies] = goal
        state.alive[copies] = True
        self.heading[copies] = 0
        if self.errands is not None:
            self.errands.begin(copies, state.position, self.heading, state.goal)

    def _first_goals(self, key: Tensor, map_index: Tensor, start: Tensor) -> Tensor:
        """Random goals int32 [K, N] of episodes that begin: key int64 [K], map_index int32 [K], start int32 [K, N]."""
        if not self._distinct_goals:
            return reference.draw_goal(self._goals, key, map_index, start, torch.zeros_like(start)).int()
        drawn = np.empty(start.shape, np.int32)
        goals = Goals(*(table.numpy() for table in self._cpu_goals))
        draw_distinct_goals(goals, key.cpu().numpy(), map_index.cpu().numpy(), start.cpu().numpy(), drawn)
        return torch.from_numpy(drawn).to(self.device)

    def _terminated(self, acting: Tensor) -> tuple[Tensor, Tensor]:
        """Whose episode the task itself ended in this step: agents, bool [B, N], and whole copies, bool [B]."""
        if self.config.on_target == "finish":
            return acting & ~self.alive, ~self.alive.any(1)
        if self.config.on_target == "nothing":
            over = (self._state.last_off < self.steps.unsqueeze(1)).all(1)
            return over.unsqueeze(1).repeat(1, self.spec.n_agents), over
        return torch.zeros_like(acting), torch.zeros(self.copies, dtype=torch.bool, device=self.device)

    def _no_figures(self) -> dict[str, Tensor]:
        zeros = torch.zeros(len(self.spec.metrics), self.copies, device=self.device)
        return dict(zip(self.spec.metrics, zeros, strict=True))

    def _figures(self, done: Tensor) -> dict[str, Tensor]:
        """The metrics of the finished episodes, float32 [B] each."""
        state = self._state
        if not self._lifelong:
            return metrics.one_shot(state)
        figures = metrics.lifelong(state)
        if self.errands is not None:
            figures |= metrics.errands(state, self.errands.done)
        if "bound_share" in self.spec.metrics:
            copies = done.nonzero().squeeze(1).cpu()
            finished = State(*(tensor.cpu()[copies] for tensor in state))
            if self._starts is None:
                starts = self._pool.draw_starts(finished.key, finished.map_index, self.spec.n_agents)
            else:
                starts = self._starts.cpu()[finished.map_index]
            bound = collision_free_goals(
                self._cpu_goals, finished.key, finished.map_index, starts, self._pool.exits, self.width, finished.steps
            )
            share = torch.zeros(self.copies)
            share[copies] = finished.goals_done.sum(1) / bound.clamp(min=1)
            figures["bound_share"] = share.to(self.device)
        return figures

    def _timestep(
        self,
        view: View,
        reward: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        done: Tensor,
        final: Final | None,
        figures: dict[str, Tensor],
    ) -> TimeStep:
        view = self._shown(view)
        return TimeStep(
            observation=dict(view[0]),
            state=view[1],
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            done=done,
            alive=self.alive.clone(),
            agent_id=self._agent_id.clone(),
            action_mask=None,
            key=self._engine.keys(),
            final=final,
            metrics=figures,
        )
