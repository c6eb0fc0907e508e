"""``CavMerging``: automated and human-driven cars on a highway on-ramp, moved by the twin or by SUMO."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from torch import Tensor

from marl.envs.abilities import Prediction
from marl.envs.batched import BatchedEnv, EnvSpec, Final, Plan, TimeStep, Tree
from marl.envs.pool_base import WorkerState
from marl.seeding import Stream, fold, seeds_of
from scenarios.cav_merging import actions as act
from scenarios.cav_merging import intent, safety
from scenarios.cav_merging.config import CavConfig
from scenarios.cav_merging.drivers import ASSERTIVE, P
from scenarios.cav_merging.guidance import PLAN_SPACE, MergePlan, merge_plan, plan_features
from scenarios.cav_merging.metrics import METRICS, Events, Tally
from scenarios.cav_merging.observation import OBSERVATION, STATE, observe
from scenarios.cav_merging.reward import Neighbours, own_rewards, shared_rewards
from scenarios.cav_merging.sensing import Belief
from scenarios.cav_merging.spawn import arrive, draw_roads, first_cars
from scenarios.cav_merging.sumo.backend import LOST, SumoBackend
from scenarios.cav_merging.sumo.set_up import resolve
from scenarios.cav_merging.traffic import R, Traffic, road_row
from scenarios.cav_merging.twin import reference
from scenarios.cav_merging.twin.backend import Backend, Outcome, TwinBackend
from scenarios.cav_merging.twin.neighbours import neighbours

logger = logging.getLogger(__name__)

_TALLY, _BELIEF = "tally/", "belief/"


@cache
def _warn(text: str) -> None:
    """Once in a process, however many worlds an evaluation makes."""
    logger.warning("%s", text)


class CavMerging(BatchedEnv):
    """B copies of an on-ramp with N automated cars (the agents) and V - N human-driven ones.

    Implements ``Snapshots``, ``Plans``, and what intents (``Predicts``) and a supervisor (``Supervised``) need.

    Observation ``[B, N, 41]``, central state ``[B, N, 132]``, reward, actions and metrics: see ``observation``,
    ``reward``, ``actions`` and ``metrics``. An agent terminates when its car crashes or leaves the road; the others go
    on, and at the horizon all are truncated. A car that crashed is taken off the road.

    What an episode consists of (its road, its first cars, the k-th car to arrive) is a function of the copy's seed and
    the number of the episode, the same for both backends.

    For rules, supervisors and renderers: ``traffic`` (slots 0..N-1 are the agents), and the neighbour tables ``lead``
    and ``follow``, int64 ``[B, V, L]``, of the present moment. They are the world's own: read, do not write.
    """

    def __init__(self, config: CavConfig, copies: int, device: torch.device | str = "cpu"):
        self.config, self.copies, self.device = config, copies, torch.device(device)
        config, self.network, inputs, demand = resolve(config)
        self.config = config
        for note in inputs.ignored if inputs else ():
            _warn(f"{config.net}: {note} is not obeyed")
        #: SUMO lets the cars come, as a user's files say.
        self._by_sumo = demand is not None
        self.agents, self.slots = config.max_cavs, config.vehicles
        main_lanes = self.network.geometry.main_lanes if self.network else config.geometry.main_lanes[1]
        self._lanes = main_lanes + 1
        self.backend: Backend
        if config.backend == "sumo":
            self.backend = SumoBackend(config, copies, self.network, inputs, demand)
        else:
            self.backend = TwinBackend(copies, self.slots, self.device, self._lanes)
            for note in self.network.left_out if self.network else ():
                _warn(f"{config.net}: the twin leaves out {note}; judge with --backend sumo")
        self.traffic = Traffic.empty(copies, self.agents, self.slots, self.device)
        self._tally = Tally.empty(copies, self.device)
        #: What agents know; None: everything.
        told = (config.sensing, config.messages)
        self._belief = Belief(copies, self.agents, self.slots, self.device, *told) if config.partial else None
        self._seed = torch.zeros(copies, dtype=torch.int64, device=self.device)
        self._episode = torch.zeros_like(self._seed)
        self._key = torch.zeros_like(self._seed)
        self._order = torch.arange(self.slots, device=self.device).repeat(copies, 1)
        table = (copies, self.slots, self._lanes)
        self.lead = torch.full(table, -1, dtype=torch.int64, device=self.device)
        self.follow = torch.full_like(self.lead, -1)
        # What the host knows by itself, so that it need not wait for the device: decisions made in each copy's episode.
        self._clock = np.zeros(copies, np.int64)
        self._everybody = torch.arange(copies, device=self.device)
        self._handed_over, self._assertive = False, False
        self._started = False
        self._plan: MergePlan | None = None
        self._planning = False
        self._reached = torch.zeros(copies, self.agents, dtype=torch.bool, device=self.device)
        self._final_plan: dict[str, Tensor] | None = None
        self._announcing: tuple[int, int] | None = None
        self._final_prediction: Prediction | None = None
        self.spec = self._make_spec()

    def _make_spec(self) -> EnvSpec:
        def box(width: int) -> spaces.Box:
            return spaces.Box(-1.0, 1.0, (width,), np.float32)

        lost = {"lost": LOST} if self.config.backend == "sumo" else {}
        return EnvSpec(
            agents=tuple(f"cav_{i}" for i in range(self.agents)),
            groups={"cavs": tuple(range(self.agents))},
            observation_space={"cavs": box(OBSERVATION)},
            action_space={"cavs": spaces.Discrete(len(act.Action))},
            state_space=box(STATE),
            horizon=self.config.horizon,
            metrics=METRICS | lost,
            primary_metric="merged_share",
        )

    def hand_over(self, assertive: bool = False) -> None:
        """Let the driver model drive the automated cars too, from the next ``reset`` on: actions are then ignored.

        assertive: as drivers who wish to drive the limit and accept short gaps; else as they were drawn.
        """
        self._handed_over, self._assertive = True, assertive

    def _take_the_wheel(self, traffic: Traffic, slots: Tensor) -> None:
        """What handing over makes of the cars in ``slots`` (bool ``[B, V]``)."""
        if not self._handed_over:
            return
        traffic.controlled[:] = False
        if self._assertive:
            own = slots[:, : self.agents]
            drivers = traffic.drivers[:, : self.agents]
            limit = traffic.road[:, R.LIMIT, None].expand_as(own)
            drivers[..., P.DESIRED] = torch.where(own, limit, drivers[..., P.DESIRED])
            drivers[..., P.ASSERTIVE] = torch.where(own, ASSERTIVE, drivers[..., P.ASSERTIVE])

    def reset(self, seed: int | Tensor, mask: Tensor | None = None) -> TimeStep:
        if mask is None:
            mask = torch.ones(self.copies, dtype=torch.bool, device=self.device)
        elif not self._started:
            raise RuntimeError("reset all copies before some of them")
        self._started = True
        self._seed = torch.where(mask, seeds_of(seed, self.copies, self.device), self._seed)
        self._episode = torch.where(mask, 0, self._episode)
        self._reached = self._reached & ~mask[:, None]
        self._begin(mask.cpu().numpy())
        self._look_around()
        return self.current()

    def step(self, actions: Tree) -> TimeStep:
        if not self._started:
            raise RuntimeError("reset the world before its first step")
        if not isinstance(actions, Tensor) or actions.shape != (self.copies, self.agents):
            raise ValueError(f"actions must be a tensor of shape {(self.copies, self.agents)}")
        t = self.traffic
        acted = t.present[:, : self.agents].clone()
        before, ramp_before, there = t.gained.clone(), t.lane == 0, t.present.clone()
        outcome = self.move(actions)
        t.step += 1
        # Beside a road that the ramp's lane follows to the end, a car has merged that leaves over the end.
        merged_now = there & ramp_before & ((t.lane > 0) | outcome.left) & t.from_ramp & ~t.merged
        t.merged |= merged_now
        self._look_around()
        own = own_rewards(self.config.reward, t, outcome.crashed, self.lead)
        reward = shared_rewards(self.config.reward, own, there, self.agents, Neighbours(self.lead, self.follow, t.lane))
        if self._planning:
            self._reached = self._follows_its_plan(merged_now)
        events = Events(outcome.crashed, outcome.left, merged_now, outcome.hits)
        self._tally.add(t, events, before, self.lead, self.follow)
        if self._by_sumo or self.config.flow_veh_per_h[1] > 0:
            self._let_arrive(there)
        return self._close_step(outcome, acted, reward)

    def move(self, actions: Tensor) -> Outcome:
        """The cars' motion alone: nothing to see, nobody arrives, no ends of episodes. For measurements."""
        accel, turn = act.commands(self.traffic, actions.to(device=self.device, dtype=torch.int64), self._legal)
        return self.backend.advance(self.traffic, accel, turn)

    def _follows_its_plan(self, merged_now: Tensor) -> Tensor:
        """bool ``[B, N]``: just merged behind the planned leader."""
        if self._plan is None:
            return torch.zeros_like(self._reached)
        leader = reference.pick_lane(self.lead, self.traffic.lane)
        planned = (self._plan.leader >= 0) & (self._plan.leader == leader)
        return (merged_now & planned)[:, : self.agents]

    def _let_arrive(self, there: Tensor) -> None:
        """New cars in slots that were free during the whole step."""
        if isinstance(self.backend, SumoBackend) and self._by_sumo:
            filled = self.backend.admit(self.traffic, torch.ones_like(self.traffic.step, dtype=torch.bool))
        else:
            filled = arrive(self.config, self._key, self.traffic, ~there & ~self.traffic.present)
            self._take_the_wheel(self.traffic, filled)
            self.backend.insert(self.traffic, filled)
        self._tally.arrived(self.traffic, filled)
        self._look_around()

    def _close_step(self, outcome: Outcome, acted: Tensor, reward: Tensor) -> TimeStep:
        t, n = self.traffic, self.agents
        terminated = acted & (outcome.crashed | outcome.left)[:, :n]
        done = (t.step >= self.config.horizon) | outcome.lost
        truncated = acted & ~terminated & done[:, None]
        observation, state = self._view()
        final = None
        self._final_plan = self._final_prediction = None
        # In plain torch, as on a GPU, the host does not wait to hear whether anybody ended.
        if not t.compiled or bool((terminated | truncated).any()):
            final = Final(observation, state)
            if self._planning:
                self._final_plan = plan_features(merge_plan(t, self._lanes), t)
            if self._announcing is not None:
                self._final_prediction = self.predict(None)
        figures = dict.fromkeys(self.spec.metrics, torch.zeros(self.copies, device=self.device))
        self._clock += 1
        ending = self._clock >= self.config.horizon if self.config.backend == "twin" else done.cpu().numpy()
        if ending.any():
            figures = self._figures(outcome.lost)
            self._reached = self._reached & ~done[:, None]
            self._episode += done
            self._begin(ending)
            self._look_around()
            observation, state = self._view()
        return self._timestep(observation, state, reward, terminated, truncated, done, final, figures)

    def current(self) -> TimeStep:
        observation, state = self._view()
        self._final_plan = self._final_prediction = None
        flags = torch.zeros(self.copies, self.agents, dtype=torch.bool, device=self.device)
        done = torch.zeros(self.copies, dtype=torch.bool, device=self.device)
        reward = torch.zeros(self.copies, self.agents, device=self.device)
        return self._timestep(observation, state, reward, flags, flags.clone(), done, None, self._figures(done))

    def snapshot(self) -> dict[str, Tensor]:
        saved = {name: tensor.clone() for name, tensor in self.traffic.tensors().items()}
        saved |= {_TALLY + name: tensor.clone() for name, tensor in self._tally.tensors().items()}
        saved |= {"seed": self._seed.clone(), "episode": self._episode.clone()}
        saved |= {_BELIEF + name: tensor.clone() for name, tensor in self._beliefs().items()}
        return saved | self.backend.snapshot()

    def restore(self, snapshot: dict[str, Tensor], source: Tensor | None = None, target: Tensor | None = None) -> None:
        everything = torch.arange(self.copies, device=self.device)
        into = everything if target is None else target.to(self.device)
        own = {**self.traffic.tensors(), "seed": self._seed, "episode": self._episode}
        own |= {_TALLY + name: tensor for name, tensor in self._tally.tensors().items()}
        own |= {_BELIEF + name: tensor for name, tensor in self._beliefs().items()}
        for name, tensor in own.items():
            saved = snapshot[name] if source is None else snapshot[name][source]
            tensor[into] = saved.to(self.device)
        self._clock = self.traffic.step.cpu().numpy().astype(np.int64)
        self._key = fold(fold(self._seed, Stream.EPISODE), self._episode)
        self.backend.restore(self.traffic, snapshot, source, into)
        self._started = True
        self._reached[into] = False
        self._look_around()

    def _beliefs(self) -> dict[str, Tensor]:
        return self._belief.tensors() if self._belief is not None else {}

    def workers(self) -> list[WorkerState]:
        return self.backend.pool.states() if isinstance(self.backend, SumoBackend) else []

    def close(self) -> None:
        self.backend.close()

    # Abilities for coordination

    def post_decision(self, corrected: Tensor) -> None:
        """Show the agents whose actions were corrected (bool ``[B, N]``) in SUMO's window, if there is one."""
        if isinstance(self.backend, SumoBackend):
            self.backend.mark(corrected)

    def enable_plan(self, enabled: bool = True) -> dict[str, spaces.Space[Any]]:
        self._planning = enabled
        return dict(PLAN_SPACE) if enabled else {}

    def plan(self) -> Plan:
        """Reached: the car got onto the main road behind the car that it was to follow there."""
        plan = self._plan = merge_plan(self.traffic, self._lanes)
        return Plan(plan_features(plan, self.traffic), self._reached.clone(), self._final_plan)

    def enable_prediction(self, horizon: int, companions: int) -> tuple[float, ...]:
        self._announcing = (horizon, companions)
        return intent.SCALE

    def predict(self, actions: Tensor | None) -> Prediction:
        if self._announcing is None:
            raise RuntimeError("enable_prediction comes before predict")
        return intent.prediction(self.traffic, actions, *self._announcing)

    def predict_final(self) -> Prediction | None:
        return self._final_prediction

    def priority(self) -> Tensor:
        return safety.priority(self.traffic, self.lead)

    def candidates(self, agent: Tensor) -> Tensor:
        numbers = torch.arange(len(act.Action), device=self.device)
        allowed = self._legal.gather(1, agent[:, None, None].expand(-1, 1, len(numbers))).squeeze(1)
        return torch.where(allowed, numbers, -1)

    def margin(self, candidates: Tensor, agent: Tensor, committed: Tensor) -> Tensor:
        return safety.margin(self.traffic, candidates, agent, committed)

    # Episodes

    def _begin(self, beginning: NDArray[np.bool_]) -> None:
        """The copies ``beginning`` (bool ``[B]``) start the episode of their seed and number."""
        if not beginning.any():
            return
        self._clock[beginning] = 0
        rows = self._everybody
        if not beginning.all():
            rows = rows[torch.from_numpy(np.flatnonzero(beginning))]
        self._key = fold(fold(self._seed, Stream.EPISODE), self._episode)
        key = self._key[rows]
        if self.network is not None:
            fixed = torch.tensor(road_row(self.network.geometry), dtype=torch.float64, device=self.device)
            road = fixed.repeat(len(rows), 1)
        else:
            road = draw_roads(self.config, key)
        fresh = first_cars(self.config, key, road, self._episode[rows])
        self._take_the_wheel(fresh, fresh.present)
        self.traffic.put(fresh, rows)
        self._tally.begin(self.traffic, rows)
        if self._belief is not None:
            self._belief.forget(rows)
        if isinstance(self.backend, SumoBackend):
            self.backend.assertive = self._assertive
            self.backend.name(rows, self._seed[rows], self._episode[rows])
        self.backend.begin(self.traffic, rows, key)
        if isinstance(self.backend, SumoBackend) and self._by_sumo:
            self._tally.arrived(self.traffic, self.backend.admit(self.traffic, torch.from_numpy(beginning)))

    def _look_around(self) -> None:
        """Bring the neighbour tables and the legal actions up to date."""
        t = self.traffic
        self._legal = act.legal(t)
        if t.compiled:
            tables = (t.x, t.lane, t.present, self._order, self.lead, self.follow)
            neighbours(*(tensor.numpy() for tensor in tables))
        else:
            self.lead, self.follow = reference.neighbours(t.x, t.lane, t.present, self._lanes)

    def _view(self) -> tuple[Tensor, Tensor]:
        seen, state = observe(self.traffic, self._order, self.lead, self.follow, self.config.horizon)
        if self._belief is not None:
            seen = self._belief.observe(self.traffic, self.lead, self.follow, fold(self._key, self.traffic.step))
        return seen, state

    def _figures(self, lost: Tensor) -> dict[str, Tensor]:
        figures = self._tally.figures(self.traffic.step)
        return figures | {"lost": lost.float()} if self.config.backend == "sumo" else figures

    def _timestep(
        self,
        observation: Tensor,
        state: Tensor,
        reward: Tensor,
        terminated: Tensor,
        truncated: Tensor,
        done: Tensor,
        final: Final | None,
        figures: dict[str, Tensor],
    ) -> TimeStep:
        t, n = self.traffic, self.agents
        return TimeStep(
            observation=observation,
            state=state,
            reward=reward,
            terminated=terminated,
            truncated=truncated,
            done=done,
            alive=t.present[:, :n].clone(),
            agent_id=t.number[:, :n].clone(),
            action_mask=self._legal.clone(),
            key=fold(self._key, t.step),
            final=final,
            metrics=figures,
        )
