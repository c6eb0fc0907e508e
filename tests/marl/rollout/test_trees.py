"""Trees of candidates, in a world small enough to follow by hand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from marl.envs.chat import ConversationResult, LanguageEnv, Message, Outcome, Turn, TurnResult
from marl.policies.language.base import Request
from marl.rollout.language.token_batch import token_batch
from marl.rollout.language.trees import TreePlayer
from marl.rollout.language.turns import TurnRecord
from marl.systems.at_grpo import AtGrpoConfig, advantages
from marl.systems.language.options import Context
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.expert import Expert
from scenarios.agent_hierarchy.hierarchy import Hierarchy
from scenarios.agent_hierarchy.world import HierarchyEnv


class Steps(LanguageEnv):
    """Three turns of one agent; it succeeds if it never says ``down``, which is no legal call and costs 0.5 at once."""

    def __init__(self) -> None:
        self.possible_agents = ["a"]

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> None:
        self.said: list[str] = []
        self.messages: list[Message] = [{"role": "user", "content": "go"}]

    def turn(self) -> Turn | None:
        return None if len(self.said) == 3 else Turn("a", 0, None, 0, self.messages, (), len(self.said))

    def step(self, action: str | None) -> None:
        self.said.append(action or "")
        self.messages += [{"role": "assistant", "content": action}, {"role": "tool", "content": "ok"}]

    def turn_result(self) -> TurnResult:
        down = self.said[-1] == "down"
        return TurnResult(-0.5 * down, down)

    def outcome(self) -> Outcome:
        ups = self.said.count("up")
        return Outcome(ups == 3, float(3 - ups), 3, [ConversationResult("a", None, 0, 3, 3 - ups)], {})

    def close(self) -> None:
        """Holds nothing."""


class Script:
    """Says the given texts, one after the other, and remembers after which ones it was asked."""

    trainable = True

    def __init__(self, *texts: str | None):
        self.texts, self.asked = list(texts), []

    def complete(self, requests: Sequence[Request], greedy: bool = False) -> list[str | None]:
        found: list[str | None] = []
        for request in requests:
            self.asked.append([m["content"] for m in request.turn.messages if m["role"] == "assistant"])
            text = self.texts.pop(0)
            if text is not None:
                request.transcript.hear([7])
                request.transcript.say([1 if text == "up" else 2], [-0.5])
            found.append(text)
        return found

    def forget(self) -> None:
        """Nothing is cached."""


def judge(outcome: Outcome, turn: TurnRecord) -> float:
    return float(outcome.success) + turn.reward


def test_a_tree_by_hand() -> None:
    script = Script(
        "down", "up",  # two candidates for the first turn
        "up", "up", "up", "up",  # both followed to the end, side by side: turn 2, then turn 3
        "up", "down", "up", "up",  # the second turn, after "up", and how it ends
        "down", "up",  # the third turn ends the episode
    )  # fmt: skip
    found = TreePlayer(Steps, {"a": script}, judge).play([5, 5], 0, [9, 9])
    assert script.asked[6:8] == [["up"], ["up"]] and script.asked[10:] == [["up", "up"]] * 2
    assert [one.conversations[0].turns[0].text for one in found] == ["down", "up", "up", "down", "down", "up"]
    assert [one.outcome.success for one in found if one.outcome] == [False, True, True, False, False, True]
    assert [one.spent for one in found] == [2, 2, 1, 1, 0, 0]
    assert len({one.group for one in found}) == 3 and found[0].group == found[1].group
    third = found[4].conversations[0].transcript
    assert third.ids == [7, 1, 7, 1, 7, 2] and third.spans == [(5, 6)]  # what led there is read, not learned
    batch = token_batch(found, {"a": 0}, {"a"})
    assert batch.invalid.tolist() == [1, 0, 0, 1, 1, 0]
    assert batch.turn_time.tolist() == [0, 0, 1, 1, 2, 2]
    for invalid, half in ((0.0, 0.75), (0.3, 0.9)):  # a candidate's own mistakes count, also in the last turn
        config = AtGrpoConfig.model_validate({"scale": 1.0, "reward": {"invalid": invalid, "cost": 0.0}})
        turn = advantages(batch, config, Context(0.0, 0)).turn
        assert torch.allclose(turn, half * torch.tensor([-1.0, 1.0, 1.0, -1.0, -1.0, 1.0]))


def test_candidates_without_an_answer_are_left_out() -> None:
    script = Script(None, "up", "up", "up", "up", None, None, "up", "up")
    found = TreePlayer(Steps, {"a": script}, judge).play([5, 5], 0, [9, 9])
    # The second turn: one candidate was not followed to the end, the other had no answer; the tree ends there.
    assert [one.outcome is None for one in found] == [True, False, True, True]
    assert TreePlayer(Steps, {"a": Script(None, None)}, judge).play([1, 1], 0, [0, 0])[0].outcome is None


def test_copies_of_a_world_go_their_own_ways() -> None:
    hierarchy = Hierarchy(HierarchyConfig())
    expert = Expert(hierarchy, flawless=True)

    class Sampled:
        trainable = True

        def complete(self, requests: Sequence[Request], greedy: bool = False) -> list[str | None]:
            texts = []
            for request in requests:
                text = "nonsense" if request.key % 3 == 0 else expert(request.turn, request.key)
                request.transcript.say([len(text)], [0.0])
                texts.append(text)
            return list(texts)

        def forget(self) -> None:
            """Nothing is cached."""

    players = [TreePlayer(lambda: HierarchyEnv(hierarchy), dict.fromkeys(hierarchy.roles, Sampled()), judge)] * 2
    found = [player.play([1, 1, 1, 2, 2, 2], 3, [1, 1, 1, 2, 2, 2]) for player in players]
    said = [[(one.conversations[0].messages[-2:], one.outcome) for one in each] for each in found]
    assert said[0] == said[1]
    assert all(one.outcome is not None and len(one.conversations) == 1 for one in found[0])
    assert len(found[0]) % 3 == 0 and any(one.outcome.success for one in found[0] if one.outcome)
