"""The trainer of language worlds: imitation, then rollouts and updates, in the loop of ``Loop``.

The folder, figures and checkpoints are those of ``marl.training.tensor_trainer``. An agent-step of a language world is
one generated token, so ``total_steps`` compares systems at equal generated tokens; imitation generates none. ``copies``
episodes are played side by side, ``copies / group`` tasks in each iteration.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from marl.config import AnyRunConfig
from marl.envs.chat import ConversationResult, LanguageWorld
from marl.errors import UserError
from marl.policies.language.openai import OpenAIPolicy
from marl.policies.language.scripted import ScriptedPolicy
from marl.rollout.language.finite import check_episodes
from marl.rollout.language.turns import Episode, TurnPlayer
from marl.scenario import Scenario, load_scenario
from marl.seeding import Stream, fold_int
from marl.systems.language.exchange import SUB
from marl.systems.language.self_check import check_scoring
from marl.systems.language.speakers import Speakers
from marl.systems.registry import load_system
from marl.systems.system import System
from marl.training.idle import IdleWatch
from marl.training.language_checks import check_settings, check_taught, doubts
from marl.training.loop import Echo, Figures, Loop, prefixed
from marl.training.progress import Progress
from marl.training.run_folder import RunFolder
from marl.training.tracking import Tracker

#: Gradient steps of imitation between two rows of figures.
_IMITATION_STEPS = 20
#: Each run's tasks are numbered from a place of its own; those of demonstrations are negative.
_TASKS_PER_RUN = 1 << 36
#: Between two looks into a shared store in which nothing waits.
_POLL_SECONDS = 0.2


class LanguageTrainer(Loop):
    """One training run in one folder.

    Raises ``UserError`` if the configuration cannot be trained.
    """

    unit = "tokens"
    weights_depend_on = "policy"

    def __init__(self, config: AnyRunConfig, scenario: Scenario, system: System, folder: RunFolder, echo: Echo):
        if scenario.language is None:
            raise UserError(f"{scenario.name} is no language world: train it with --system {scenario.system}")
        check_settings(config)
        super().__init__(config, folder, echo)
        self._world = scenario.language(config.world)
        self._held_out = scenario.language(scenario.held_out(config.world))
        self.learner = system.build(self._world, config.algorithm, config.seed, config.device)
        self._player = self.learner.player(self._world.make)
        self._judge = TurnPlayer(self._held_out.make, self.learner.policies)
        shown = self._world.demonstrations or self._world.make
        self._teacher = TurnPlayer(shown, demonstrators(self._world, self.learner.speakers))
        for policy in self._servers():
            policy.echo = echo
        exchange = self.learner.exchange
        #: Learns from what another process plays.
        self._follows = exchange is not None and exchange.side == SUB
        self._ended = False
        imitates = self._imitates() and not self._follows
        self._imitations = -(-config.algorithm.warm_start.steps // _IMITATION_STEPS) if imitates else 0
        self._tokens = 0
        self._dropped = 0
        self._traces = folder.path / "traces"
        self._watch = IdleWatch()

    def _imitates(self) -> bool:
        return can_imitate(self._world, self.learner.speakers)

    @property
    def primary_metric(self) -> str:
        return "success"

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

    def _begin(self) -> None:
        if self._imitations or (self._imitates() and self.config.algorithm.warm_start.replay):
            check_taught(self.config, self._world)
        for doubt in doubts(self.config, self._world, self.learner.speakers.units):
            self._echo(f"warning: {doubt}")
        self._check_scoring()
        if self.learner.exchange is not None and not self._follows:
            began = time.strftime("%Y-%m-%d %H:%M:%S")
            # The clock alone is no name: two short runs can begin in one second.
            self.learner.exchange.claim(f"seed {self.config.seed}, begun {began}, {uuid.uuid4().hex[:8]}")
        self._echo_warm_start()

    def _check_scoring(self) -> None:
        units = self.learner.speakers.units
        check_scoring([unit.model for unit in units], self._world, [unit.key for unit in units], self._echo)

    def _echo_warm_start(self) -> None:
        """Say what real weights begin with: they could do without being shown how to speak."""
        units = [unit for unit in self.learner.speakers.units if unit.model.pretrained]
        if not units:
            return
        names, options = ", ".join(unit.name for unit in units), self.config.algorithm.warm_start
        if self._imitations:
            shown = f"{options.steps} steps of {options.batch} episodes"
            self._echo(f"warm start of {names}: {shown} of the demonstrator (algorithm.warm_start.steps=0: none)")
        else:
            why = "weights come from --init" if options.steps else "algorithm.warm_start.steps=0"
            why = why if self._imitates() else self._world.untaught
            why = "this side learns from a store" if self._follows else why
            self._echo(f"no warm start of {names}: {why}")

    def _take(self, tree: Mapping[str, Any]) -> None:
        """What is taken replaces imitation."""
        self.learner.take_weights(tree["algorithm"]["policy"])
        self._imitations = 0

    def load(self) -> None:
        super().load()
        self._check_scoring()
        if not self._exact:
            self._echo("this run shares a store with another process: it goes on, but not bit for bit")

    def _put(self, tree: Mapping[str, Any]) -> None:
        self.learner.load_state(tree["algorithm"])
        counters = tree["counters"]
        self._tokens, self._dropped = counters["tokens"], counters["dropped"]
        self._imitations = counters["imitations"]

    def _state(self) -> dict[str, Any]:
        return {"algorithm": self.learner.state()}

    def _counters(self) -> dict[str, Any]:
        return {"tokens": self._tokens, "dropped": self._dropped, "imitations": self._imitations}

    def _manifest(self) -> dict[str, Any]:
        return {"agent_steps": self._tokens, "exact_resume": self._exact}

    @property
    def _exact(self) -> bool:
        """Whether a resumed run equals an uninterrupted one."""
        return self.learner.exchange is None or bool(self.learner.exchange.exact)

    def _networks(self) -> Iterator[tuple[str, Iterable[Tensor]]]:
        yield from self.learner.networks()

    # Loop

    def run(self, progress: Progress, tracker: Tracker) -> bool:
        complete = super().run(progress, tracker)
        if complete and self.learner.exchange is not None:
            self.learner.exchange.sign(done=True)
        return complete

    def _learn(self) -> Figures:
        """One update; no figures if another process has given nothing to learn from yet."""
        if self._follows:
            learned = self._follow()
            if not learned:
                return {}
        elif self._iteration < self._imitations:
            learned = self._imitate()
        else:
            learned = self._reinforce()
        return {"dropped_episodes": self._dropped, **learned}

    def _evaluates(self) -> bool:
        """After imitation as well, to tell what reinforcement adds; a follower's policies are judged by the other."""
        enabled = bool(self.config.evaluation.every_iterations) and not self._follows
        return enabled and (super()._evaluates() or self._iteration == self._imitations)

    def _imitate(self) -> Figures:
        steps = self.config.algorithm.warm_start.steps
        first = self._iteration * _IMITATION_STEPS
        figures: Figures = {}
        for step in range(first, min(first + _IMITATION_STEPS, steps)):
            shown = self._demonstrate(step)
            with self._clock.phase("imitate"):
                figures = self.learner.imitate(shown, step)
        return prefixed("learn", figures)

    def _demonstrate(self, step: int) -> list[Episode]:
        """The demonstrations of one step; those of the updates after imitation are numbered on."""
        batch = self.config.algorithm.warm_start.batch
        begin = -1 - _TASKS_PER_RUN * self.config.seed - step * batch
        with self._clock.phase("demonstrate"):
            return self._teacher.play(range(begin, begin - batch, -1), self._key(step, Stream.WORLD))

    def _follow(self) -> Figures:
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
        return prefixed("learn", learned)

    def _reinforce(self) -> Figures:
        number = self._iteration - self._imitations
        config, group = self.config, self.config.algorithm.group
        tasks = config.copies // group
        first = _TASKS_PER_RUN * config.seed + number * tasks
        seeds = [first + i // group for i in range(config.copies)]
        with self._clock.phase("rollout"):
            episodes = self._player.play(seeds, self._key(number, Stream.TRAIN), seeds)
        check_episodes(episodes)
        fraction = min(self._tokens / self.total_agent_steps, 1.0)
        options = config.algorithm.warm_start
        replays = self._imitates() and options.replayed(fraction) > 0.0
        shown = self._demonstrate(options.steps + number) if replays else []
        with self._clock.phase("update"):
            every = config.algorithm.traces
            trace = self._traces / f"{number:06d}.jsonl" if every and number % every == 0 else None
            learned = self.learner.update(episodes, number, fraction, trace, shown)
        if idle := self._watch.saw(learned):
            self._echo(f"warning: {idle}")
        self._dropped += sum(episode.outcome is None for episode in episodes)
        finished = [episode for episode in episodes if episode.outcome is not None and episode.learn]
        self._episodes += len(finished)
        self._tokens += max(sum(map(tokens_of, episodes)), 1)
        if not finished:
            raise UserError(
                f"all episodes of an iteration were dropped: the policies' servers give no answers{self._why()}"
            )
        means = episode_means(finished)
        return {
            "reward": means["success"],
            **prefixed("role", role_means(finished)),
            **prefixed("episode", means | {"solved_groups": solved_groups(finished)}),
            **prefixed("learn", learned),
        }

    def _servers(self) -> list[OpenAIPolicy]:
        found = {id(policy): policy for policy in self.learner.policies.values() if isinstance(policy, OpenAIPolicy)}
        return list(found.values())

    def _why(self) -> str:
        """What their servers failed by, and how often."""
        counts = [f"{why} {number} times" for policy in self._servers() for why, number in policy.failures.items()]
        return f" ({', '.join(counts)})" if counts else ""

    def _key(self, number: int, stream: int) -> int:
        return fold_int(fold_int(fold_int(0, stream), self.config.seed), number)

    def evaluate(self) -> Figures:
        """Figures on held-out tasks, ``evaluation.seeds`` of them, acting greedily and by sampling."""
        figures: Figures = {}
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


def language_plan(config: AnyRunConfig, imitates: bool = True) -> dict[str, Any]:
    """What a run would do: the fields of ``marl.api.Plan``. Tokens per iteration are those of demonstrations.

    Args:
        config: of the run.
        imitates: it begins by imitation, not with the weights of another run.
    """
    scenario = load_scenario(config.scenario)
    if scenario.language is None:
        raise UserError(f"{scenario.name} is no language world: train it with --system {scenario.system}")
    check_settings(config)
    world = scenario.language(config.world)
    learner = load_system(config.system).build(world, config.algorithm, config.seed, config.device)
    taught = imitates and can_imitate(world, learner.speakers)
    if taught:
        check_taught(config, world)
    player = TurnPlayer(world.make, demonstrators(world, learner.speakers))
    shown = player.play(range(-1, -33, -1), 0)
    words = sum(len(turn.text.split()) for episode in shown for c in episode.conversations for turn in c.turns)
    each = max(sum(map(tokens_of, shown)), words) * config.copies // len(shown)
    return {
        "agents": len(world.roles),
        "iterations": taught * -(-config.algorithm.warm_start.steps // _IMITATION_STEPS)
        - (-config.total_steps // each),
        "agent_steps_per_iteration": each,
        "parameters": {
            unit.name: sum(p.numel() for p in unit.model.parameters_of(unit.roles[0]))
            for unit in learner.speakers.units
        },
        "warnings": tuple(doubts(config, world, learner.speakers.units)),
    }


def can_imitate(world: LanguageWorld, speakers: Speakers) -> bool:
    """Whether a run imitates: models made from scratch have to, real weights do where there is something to show."""
    return speakers.tokenizer is not None or not world.untaught


def demonstrators(world: LanguageWorld, speakers: Speakers) -> dict[str, ScriptedPolicy]:
    """Role -> the world's demonstrator, whose texts become ids as the role's own model spells them."""
    return {role: ScriptedPolicy(world.expert, speller) for role, speller in speakers.spellers.items()}


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


def solved_groups(episodes: Sequence[Episode]) -> float:
    """Share of tasks of which at least one rollout succeeded: pass@G."""
    found: dict[int, bool] = {}
    for episode in episodes:
        assert episode.outcome is not None
        found[episode.group] = found.get(episode.group, False) or episode.outcome.success
    return float(np.mean(list(found.values())))


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
