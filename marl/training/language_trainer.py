"""The trainer of language worlds: imitate, roll out, update, log, checkpoint; resumed bit for bit.

The same folder, figures and checkpoints as ``marl.training.tensor_trainer``. An agent-step of a language world is one
generated token, so ``total_steps`` compares systems at equal generated tokens; imitation generates none. ``copies``
episodes are played side by side, ``copies / group`` tasks in each iteration.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from marl.config import AnyRunConfig
from marl.envs.chat import ConversationResult
from marl.errors import UserError
from marl.policies.language.scripted import ScriptedPolicy
from marl.rollout.language.turns import Episode, TurnPlayer
from marl.scenario import Scenario, load_scenario
from marl.seeding import Stream, fold_int
from marl.systems.language.exchange import SUB
from marl.systems.registry import load_system
from marl.systems.system import System
from marl.training.checkpoint import CheckpointStore
from marl.training.progress import PhaseClock, Progress
from marl.training.run_folder import RunFolder
from marl.training.stopping import stop_signals
from marl.training.tracking import Tracker

Echo = Callable[[str], None]

#: Gradient steps of imitation between two rows of figures.
_IMITATION_STEPS = 20
#: Each run's tasks are numbered from a place of its own; those of demonstrations are negative.
_TASKS_PER_RUN = 1 << 36
#: Between two looks into a shared store in which nothing waits.
_POLL_SECONDS = 0.2


class LanguageTrainer:
    """One training run in one folder.

    Raises ``UserError`` if the configuration cannot be trained.
    """

    primary_metric = "success"

    def __init__(self, config: AnyRunConfig, scenario: Scenario, system: System, folder: RunFolder, echo: Echo):
        if scenario.language is None:
            raise UserError(f"{scenario.name} is no language world: train it with --system {scenario.system}")
        _check_groups(config)
        self.config, self._echo = config, echo
        self._world = scenario.language(config.world)
        self._held_out = scenario.language(scenario.held_out(config.world))
        self.learner = system.build(self._world, config.algorithm, config.seed, config.device)
        self._clock = PhaseClock()
        self._player = self.learner.player(self._world.make)
        self._judge = TurnPlayer(self._held_out.make, self.learner.policies)
        demonstrator = ScriptedPolicy(self._world.expert, self.learner.speakers.tokenizer)
        self._teacher = TurnPlayer(self._world.make, dict.fromkeys(self._world.roles, demonstrator))
        exchange = self.learner.exchange
        #: Learns from what another process plays.
        self._follows = exchange is not None and exchange.side == SUB
        self._ended = False
        imitates = self._imitates() and not self._follows
        self._imitations = -(-config.algorithm.warm_start.steps // _IMITATION_STEPS) if imitates else 0
        self._iteration = 0
        self._tokens = 0
        self._episodes = 0
        self._dropped = 0
        self._cpu_before, self._cpu_began = 0.0, time.process_time()
        self._store = CheckpointStore(folder.path, config.checkpoint.keep)
        self._traces = folder.path / "traces"

    def _imitates(self) -> bool:
        """Only models made from scratch need to be shown how to speak."""
        return self.learner.speakers.tokenizer is not None

    @property
    def agent_steps(self) -> int:
        """Tokens generated so far."""
        return self._tokens

    @property
    def total_agent_steps(self) -> int:
        """Tokens of the whole run; the last update may exceed it."""
        return int(self.config.total_steps)

    @property
    def _complete(self) -> bool:
        return self._ended or (self._iteration >= self._imitations and self._tokens >= self.total_agent_steps)

    # State

    def start(self) -> None:
        """Begin a new run."""
        if self.learner.exchange is not None and not self._follows:
            began = time.strftime("%Y-%m-%d %H:%M:%S")
            # The clock alone is no name: two short runs can begin in one second.
            self.learner.exchange.claim(f"seed {self.config.seed}, begun {began}, {uuid.uuid4().hex[:8]}")
        self.save()  # so that there is always something to resume from

    def take_weights(self, init: Path) -> None:
        """Before ``start``: begin with the weights of another run's newest checkpoint instead of by imitation."""
        tree, _, path = CheckpointStore(init).latest(self._echo)
        try:
            self.learner.take_weights(tree["algorithm"]["policy"])
        except (KeyError, TypeError, RuntimeError):
            raise UserError(
                f"the weights in {path} do not fit this run: train with the world and policy options in "
                f"{init / 'config.yaml'}, or leave --init out"
            ) from None
        self._imitations = 0
        self._echo(f"starting from the weights in {path}")

    def load(self) -> None:
        """Continue from the newest checkpoint that is whole."""
        tree, _, path = self._store.latest(self._echo)
        self.learner.load_state(tree["algorithm"])
        counters = tree["counters"]
        self._iteration, self._tokens = counters["iteration"], counters["tokens"]
        self._episodes, self._dropped = counters["episodes"], counters["dropped"]
        self._imitations = counters["imitations"]
        self._cpu_before = counters["cpu_seconds"]
        self._echo(f"resumed from {path.name} at {self._tokens:,} tokens")
        if self.learner.exchange is not None and not self.learner.exchange.exact:
            self._echo("this run shares a store with another process: it goes on, but not bit for bit")

    def save(self) -> None:
        """Write a checkpoint of the present moment."""
        counters = {
            "iteration": self._iteration,
            "tokens": self._tokens,
            "episodes": self._episodes,
            "dropped": self._dropped,
            "imitations": self._imitations,
            "cpu_seconds": self._cpu_seconds(),
        }
        tree = {"algorithm": self.learner.state(), "counters": counters}
        exact = self.learner.exchange is None or self.learner.exchange.exact
        self._store.save(self._iteration, tree, {"agent_steps": self._tokens, "exact_resume": exact})

    def _cpu_seconds(self) -> float:
        return self._cpu_before + time.process_time() - self._cpu_began

    # Loop

    def run(self, progress: Progress, tracker: Tracker) -> bool:
        """Train to the end. Returns False if a signal asked to stop; the run is saved in either case."""
        tracker.truncate_after(self._iteration)
        saved = self._iteration if self._iteration else -1
        with stop_signals() as stop:
            while not self._complete and not stop.asked:
                figures = self._iterate()
                if not figures:
                    continue
                tracker.log(figures)
                progress.update(figures, self._clock)
                if self._iteration % self.config.checkpoint.every_iterations == 0 or self._complete:
                    with self._clock.phase("save"):
                        self.save()
                    saved = self._iteration
            if saved != self._iteration:
                self.save()
        if self._complete and self.learner.exchange is not None:
            self.learner.exchange.sign(done=True)
        return self._complete

    def _iterate(self) -> dict[str, float]:
        """One update with its figures; none if another process has given nothing to learn from yet."""
        if self._follows:
            learned = self._follow()
            if not learned:
                return {}
        elif self._iteration < self._imitations:
            learned = self._imitate()
        else:
            learned = self._reinforce()
        self._iteration += 1
        figures: dict[str, float] = {
            "iteration": self._iteration,
            "agent_steps": self._tokens,
            "episodes": self._episodes,
            "cpu_seconds": self._cpu_seconds(),
            "dropped_episodes": self._dropped,
        }
        figures |= learned
        every = self.config.evaluation.every_iterations
        if (
            every
            and not self._follows
            and (self._iteration % every == 0 or self._complete or self._iteration == self._imitations)
        ):
            with self._clock.phase("evaluate"):
                figures |= {f"evaluation/{name}": value for name, value in self.evaluate().items()}
        return figures

    def _imitate(self) -> dict[str, float]:
        steps = self.config.algorithm.warm_start.steps
        first = self._iteration * _IMITATION_STEPS
        figures: dict[str, float] = {}
        for step in range(first, min(first + _IMITATION_STEPS, steps)):
            shown = self._demonstrate(step)
            with self._clock.phase("imitate"):
                figures = self.learner.imitate(shown, step)
        return {f"learn/{name}": value for name, value in figures.items()}

    def _demonstrate(self, step: int) -> list[Episode]:
        """The demonstrations of one step; those of the updates after imitation are numbered on."""
        batch = self.config.algorithm.warm_start.batch
        begin = -1 - _TASKS_PER_RUN * self.config.seed - step * batch
        with self._clock.phase("demonstrate"):
            return self._teacher.play(range(begin, begin - batch, -1), self._key(step, Stream.WORLD))

    def _follow(self) -> dict[str, float]:
        """One update from what waits in a shared store; nothing if nothing does."""
        exchange = self.learner.exchange
        assert exchange is not None
        exchange.sign()
        with self._clock.phase("update"):
            learned = self.learner.follow()
        if not learned:
            self._ended = exchange.over()
            with self._clock.phase("wait"):
                time.sleep(0.0 if self._ended else _POLL_SECONDS)
            return {}
        self._tokens += max(int(sum(value for name, value in learned.items() if name.startswith("tokens_"))), 1)
        return {f"learn/{name}": value for name, value in learned.items()}

    def _reinforce(self) -> dict[str, float]:
        number = self._iteration - self._imitations
        config, group = self.config, self.config.algorithm.group
        tasks = config.copies // group
        first = _TASKS_PER_RUN * config.seed + number * tasks
        seeds = [first + i // group for i in range(config.copies)]
        with self._clock.phase("rollout"):
            episodes = self._player.play(seeds, self._key(number, Stream.TRAIN), seeds)
        fraction = min(self._tokens / self.total_agent_steps, 1.0)
        options = config.algorithm.warm_start
        replays = self._imitates() and options.replayed(fraction) > 0.0
        shown = self._demonstrate(options.steps + number) if replays else []
        with self._clock.phase("update"):
            every = config.algorithm.traces
            trace = self._traces / f"{number:06d}.jsonl" if every and number % every == 0 else None
            learned = self.learner.update(episodes, number, fraction, trace, shown)
        finished = [episode for episode in episodes if episode.outcome is not None]
        self._episodes += len(finished)
        self._dropped += len(episodes) - len(finished)
        self._tokens += max(sum(map(tokens_of, episodes)), 1)
        if not finished:
            raise UserError("all episodes of an iteration were dropped: the policies' servers give no answers")
        means = episode_means(finished)
        figures = {"reward": means["success"]}
        figures |= {f"role/{name}": value for name, value in role_means(finished).items()}
        figures |= {f"episode/{name}": value for name, value in means.items()}
        return figures | {f"learn/{name}": value for name, value in learned.items()}

    def _key(self, number: int, stream: int) -> int:
        return fold_int(fold_int(fold_int(0, stream), self.config.seed), number)

    def evaluate(self) -> dict[str, float]:
        """Figures on held-out tasks, ``evaluation.seeds`` of them, acting greedily and by sampling."""
        figures: dict[str, float] = {}
        seeds = range(self.config.evaluation.seeds)
        for mode, greedy in (("greedy", True), ("sampled", False)):
            played = self._judge.play(seeds, self._key(0, Stream.EVALUATE), greedy=greedy)
            finished = [episode for episode in played if episode.outcome is not None]
            if finished:
                figures |= {f"{name}_{mode}": value for name, value in episode_means(finished).items()}
                figures |= {f"{name}_{mode}": value for name, value in success_by_hops(finished).items()}
        return figures

    def close(self) -> None:
        for player in (self._player, self._judge, self._teacher):
            player.close()


def _check_groups(config: AnyRunConfig) -> None:
    group = config.algorithm.group
    if config.copies % group:
        raise UserError(f"copies={config.copies} is not a multiple of algorithm.group={group}")


def language_plan(config: AnyRunConfig) -> dict[str, Any]:
    """What a run would do: the fields of ``marl.api.Plan``. Tokens per iteration are those of demonstrations."""
    scenario = load_scenario(config.scenario)
    if scenario.language is None:
        raise UserError(f"{scenario.name} is no language world: train it with --system {scenario.system}")
    _check_groups(config)
    world = scenario.language(config.world)
    learner = load_system(config.system).build(world, config.algorithm, config.seed, config.device)
    demonstrator = ScriptedPolicy(world.expert, learner.speakers.tokenizer)
    player = TurnPlayer(world.make, dict.fromkeys(world.roles, demonstrator))
    shown = player.play(range(-1, -33, -1), 0)
    words = sum(len(turn.text.split()) for episode in shown for c in episode.conversations for turn in c.turns)
    each = max(sum(map(tokens_of, shown)), words) * config.copies // len(shown)
    return {
        "agents": len(world.roles),
        "iterations": -(-config.algorithm.warm_start.steps // _IMITATION_STEPS) - (-config.total_steps // each),
        "agent_steps_per_iteration": each,
        "parameters": {
            unit.name: sum(p.numel() for p in unit.model.parameters_of(unit.roles[0]))
            for unit in learner.speakers.units
        },
    }


def tokens_of(episode: Episode) -> int:
    """Tokens that policies generated in an episode; of policies without ids none are known."""
    spans = [span for conversation in episode.conversations for span in conversation.transcript.spans]
    return sum(span.end - span.start for span in spans) + episode.spent


def episode_means(episodes: Sequence[Episode]) -> dict[str, float]:
    """Means over finished episodes: success, cost, calls, tokens and whatever else the world measures."""
    columns: dict[str, list[float]] = {}
    for episode in episodes:
        outcome = episode.outcome
        assert outcome is not None
        row: dict[str, Any] = {
            "success": outcome.success,
            "cost": outcome.cost,
            "calls": outcome.calls,
            "tokens": tokens_of(episode),
            **outcome.metrics,
        }
        for name, value in row.items():
            columns.setdefault(name, []).append(float(value))
    return {name: float(np.mean(values)) for name, values in columns.items()}


def role_means(episodes: Sequence[Episode]) -> dict[str, float]:
    """Figures of each role by who called it, ``ROLE_by_CALLER/...``.

    Conversations an episode; turns, invalid turns, cost and share of right answers a conversation.
    """
    found: dict[str, list[ConversationResult]] = {}
    for episode in episodes:
        assert episode.outcome is not None
        for result in episode.outcome.conversations:
            found.setdefault(f"{result.agent}_by_{result.caller or 'user'}", []).append(result)
    figures: dict[str, float] = {}
    for name, results in sorted(found.items()):
        figures[f"{name}/conversations"] = len(results) / len(episodes)
        for part in ("turns", "invalid", "cost"):
            figures[f"{name}/{part}"] = float(np.mean([getattr(result, part) for result in results]))
        judged = [result.correct for result in results if result.correct is not None]
        if judged:
            figures[f"{name}/correct"] = float(np.mean(judged))
    return figures


def success_by_hops(episodes: Sequence[Episode]) -> dict[str, float]:
    """Success by the number of lookups that a question takes, where the world tells it."""
    found: dict[int, list[bool]] = {}
    for episode in episodes:
        assert episode.outcome is not None
        if "hops" in episode.outcome.metrics:
            found.setdefault(int(episode.outcome.metrics["hops"]), []).append(episode.outcome.success)
    return {f"success_hops_{hops}": float(np.mean(values)) for hops, values in sorted(found.items())}
