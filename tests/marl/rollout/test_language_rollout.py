"""Language rollouts: side by side and alone alike, and what they hand to the learner."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from marl.errors import UserError
from marl.policies.language.scripted import ScriptedPolicy
from marl.policies.language.tiny import TinyPolicy
from marl.policies.language.tokenizer import ChatTokenizer, word_tokenizer
from marl.policies.language.transformer import TransformerConfig
from marl.rollout.language.token_batch import token_batch
from marl.rollout.language.turns import Episode, TurnPlayer
from marl.rollout.traces import read_traces, write_traces
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.expert import Expert
from scenarios.agent_hierarchy.hierarchy import Hierarchy
from scenarios.agent_hierarchy.world import HierarchyEnv

HIERARCHY = Hierarchy(HierarchyConfig())
TOKENIZER = ChatTokenizer(word_tokenizer(HIERARCHY.vocabulary()))
ROLES = {role: number for number, role in enumerate(HIERARCHY.roles)}


def player(kind: str = "expert") -> TurnPlayer:
    if kind == "expert":
        policy: object = ScriptedPolicy(Expert(HIERARCHY), TOKENIZER)
    else:
        config = TransformerConfig(width=16, heads=2, kv_heads=1, hidden=16)
        policy = TinyPolicy(TOKENIZER, config, torch.Generator().manual_seed(0), max_tokens=5)
    return TurnPlayer(lambda: HierarchyEnv(HIERARCHY), dict.fromkeys(HIERARCHY.roles, policy))  # type: ignore[arg-type]


def said(episode: Episode) -> list[list[str]]:
    return [[turn.text for turn in conversation.turns] for conversation in episode.conversations]


def test_expert_succeeds_at_times_and_rows_are_sequences() -> None:
    episodes = player().play(range(40), key=3)
    assert 2 < sum(episode.outcome.success for episode in episodes if episode.outcome) < 30
    for episode in episodes:
        for conversation in episode.conversations:
            transcript = conversation.transcript
            assert len(transcript.spans) == len(conversation.turns)
            assert transcript.ids == TOKENIZER.prompt(conversation.messages[: transcript.read])[: len(transcript.ids)]


def test_members_of_a_group_share_the_task_and_differ_in_sampling() -> None:
    episodes = player("tiny").play([5, 5, 5, 5], key=1, groups=[9, 9, 9, 9])
    questions = {episode.conversations[0].messages[1]["content"] for episode in episodes}
    assert len(questions) == 1
    assert len({str(said(episode)) for episode in episodes}) > 1


def test_an_episode_does_not_depend_on_the_others() -> None:
    many = player("tiny").play(range(6), key=1)
    assert said(player("tiny").play(range(3), key=1)[2]) == said(many[2])


def test_batch_by_hand() -> None:
    episodes = player().play([1, 1, 2], key=0, groups=[4, 4, 7])
    episodes[2].outcome = None  # dropped
    batch = token_batch(episodes, ROLES, {"planner", "south"})
    assert batch.episodes == 2
    assert set(batch.group.tolist()) == {4}
    assert all(row.agent != "north" for row in batch.rows)
    assert batch.turns_of_row.tolist() == [len(row.turns) for row in batch.rows]
    assert batch.tokens_of_row.tolist() == [sum(e - s for s, e in row.transcript.spans) for row in batch.rows]
    assert batch.level.tolist() == [row.level for row in batch.rows]
    assert batch.caller[batch.level == 0].tolist() == [-1] * int((batch.level == 0).sum())
    first = (batch.turn_number == 0).nonzero().squeeze(1)
    assert torch.equal(batch.turn_anchor[first], batch.task)


def test_traces_hold_what_was_learned(tmp_path: Path) -> None:
    batch = token_batch(player().play(range(3), key=0), ROLES, set(ROLES))
    advantage = [torch.arange(float(n)) for n in batch.tokens_of_row.to(torch.int64).tolist()]
    path = tmp_path / "traces" / "000000.jsonl"
    write_traces(path, batch, torch.ones(len(batch.rows)), advantage)
    rows = read_traces(path)
    assert len(rows) == len(batch.rows)
    for row, mine in zip(rows, advantage, strict=True):
        assert len(row["ids"]) == len(row["loss_mask"]) == len(row["advantage"]) == len(row["log_probs"])
        assert [a for a, m in zip(row["advantage"], row["loss_mask"], strict=True) if m] == mine.tolist()
        assert json.dumps(row["messages"])
    path.write_text("no json")
    with pytest.raises(UserError, match="not every line is JSON"):
        read_traces(path)
