"""Words as a batched world: texts are said, or spelt by numbers, so that systems of tensors play it too."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from marl.envs.batched import EnvSpec, Metric
from marl.envs.spoken import SpokenWorld
from scenarios.miniatures.config import WordsConfig
from scenarios.miniatures.table import LOOK, Table
from scenarios.miniatures.words import MAX_TURNS, ROLE, WordsEnv

METRICS = {
    "success": Metric("share", "higher", "the answer was right"),
    "calls": Metric("1", "lower", "looks"),
    "optimal_calls": Metric("1", "neither", "looks that the question takes"),
    "invalid_actions": Metric("1", "lower", "texts that were neither an answer nor a look"),
    "turns": Metric("1", "lower", "turns"),
}


class Words(SpokenWorld):
    """B episodes of ``WordsEnv``.

    action: int64 ``[B, 1, D]``, one choice for each place of the text: 0 ends it, then the letters, then ``look``.
    observation: float32 ``[B, 1, F]``, one-hot: the question, the letter that is known, whether one has looked, and
    refusals so far as a share. reward: of the language world. Too many refusals truncate.
    """

    def __init__(self, config: WordsConfig, held_out: bool, copies: int, device: torch.device):
        self.table = table = Table(config)
        self._words = (*table.letters, LOOK)
        self._places = config.lengths[1] + bool(config.look)
        self._size = config.questions + config.letters + 2
        spec = EnvSpec(
            agents=(ROLE,),
            groups={"agents": (0,)},
            observation_space={"agents": spaces.Box(0.0, 1.0, (self._size,), np.float32)},
            action_space={"agents": spaces.MultiDiscrete([len(self._words) + 1] * self._places)},
            state_space=spaces.Box(0.0, 1.0, (self._size,), np.float32),
            horizon=MAX_TURNS,
            state_per_agent=False,
            metrics=METRICS,
            primary_metric="success",
            shared_reward=True,
        )
        super().__init__(lambda: WordsEnv(table, held_out), spec, copies, device)
        self._history = torch.zeros((copies, MAX_TURNS, self._places), dtype=torch.int64)
        self._replayable = True

    def views(self) -> tuple[Tensor, None]:
        seen = np.zeros((self.copies, 1, self._size), np.float32)
        questions = self.table.config.questions
        for copy, env in enumerate(self._envs):
            assert isinstance(env, WordsEnv)
            seen[copy, 0, env.question] = 1.0
            known = env.looks or (self.table.config.look and not self.table.hidden(env.question))
            if known:
                seen[copy, 0, questions + self.table.letters.index(env.letter)] = 1.0
            seen[copy, 0, -2:] = env.looks, env.result.invalid / MAX_TURNS
        return torch.from_numpy(seen), None

    def chosen(self, copy: int, actions: Tensor) -> float:
        self._history[copy, self._count[copy]] = actions[copy, 0]
        return self._act(copy, actions[copy, 0].tolist())

    def _act(self, copy: int, choices: list[int]) -> float:
        words: list[str] = []
        for choice in choices:
            if choice == 0:
                break
            words.append(self._words[choice - 1])
        return self._speak(copy, " ".join(words))

    def say(self, texts: Sequence[str]) -> None:
        super().say(texts)
        self._replayable = False

    def snapshot(self) -> dict[str, Tensor]:
        """Seeds, episodes and the choices made since their beginning; ``RuntimeError`` if texts were said."""
        if not self._replayable:
            raise RuntimeError("a world that was spoken to cannot be restored from choices")
        names = ("seed", "episode", "count", "history")
        return {name: getattr(self, f"_{name}").clone() for name in names}

    def restore(self, snapshot: dict[str, Tensor], source: Tensor | None = None, target: Tensor | None = None) -> None:
        source = torch.arange(len(snapshot["seed"])) if source is None else source
        target = torch.arange(self.copies) if target is None else target
        for there, here in zip(source.tolist(), target.tolist(), strict=True):
            self._seed[here], self._episode[here] = snapshot["seed"][there], snapshot["episode"][there]
            self._begin(here)
            self._count[here], self._history[here] = snapshot["count"][there], snapshot["history"][there]
            for step in range(int(self._count[here])):
                self._act(here, self._history[here, step].tolist())
