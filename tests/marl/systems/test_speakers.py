"""Who speaks for whom, what a learner keeps, and advantages that are no numbers."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from recipe_batches import case

from marl.envs.chat import LanguageWorld
from marl.errors import NotFiniteError
from marl.policies.language.tokenizer import ChatTokenizer
from marl.scenario import load_scenario
from marl.systems.language.learner import _check_advantages
from marl.systems.language.options import Advantages, LanguageConfig, OpenAIPolicyConfig
from marl.systems.language.rows import per_token
from marl.systems.language.speakers import build_speakers
from marl.systems.registry import SYSTEMS
from scenarios.agent_hierarchy.config import HierarchyConfig

pytest.importorskip("tokenizers")
SMALL = {"kind": "tiny", "transformer": {"width": 16, "layers": 1, "heads": 2, "kv_heads": 1, "hidden": 16}}


@pytest.fixture(scope="module")
def world() -> LanguageWorld:
    return load_scenario("agent_hierarchy").language(HierarchyConfig())  # type: ignore[misc]


def config_of(**options: Any) -> LanguageConfig:
    return LanguageConfig.model_validate({"policy": SMALL, **options})


@pytest.mark.parametrize("sharing", ["all", "level"])
def test_adapters_of_roles_that_share_have_one_body(world: LanguageWorld, sharing: str) -> None:
    """Each role learns an adapter of its own; the body is what a warm start teaches, by all who speak with it."""
    pytest.importorskip("peft")
    speakers = build_speakers(world, config_of(sharing=sharing, policy={**SMALL, "lora_rank": 2}), 0)
    assert [(unit.name, unit.roles, unit.taught) for unit in speakers.units] == [
        (role, (role,), ()) for role in world.roles
    ]
    together: dict[str, list[str]] = {}
    for role in world.roles:
        name = "body_all" if sharing == "all" else f"body_level_{world.levels[role]}"
        together.setdefault(name, []).append(role)
    assert {unit.name: list(unit.taught) for unit in speakers.frozen} == together
    for roles in together.values():
        assert len({id(speakers.policies[role]) for role in roles}) == 1
    assert len({id(policy) for policy in speakers.policies.values()}) == len(together)


def test_a_script_is_spelt_as_the_small_models_spell(world: LanguageWorld) -> None:
    last = world.roles[-1]
    speakers = build_speakers(world, config_of(roles={last: {"kind": "scripted"}}), 0)
    tiny = speakers.policies[world.roles[0]]
    assert speakers.spellers[world.roles[0]] is tiny.tokenizer  # type: ignore[attr-defined]
    assert speakers.spellers[last] is speakers.tokenizer is not None
    assert last not in speakers.trained


def test_a_learner_keeps_its_tokenizer(world: LanguageWorld) -> None:
    system = SYSTEMS["grpo"]
    learner = system.build(world, system.config.model_validate({"policy": SMALL}), 0, "cpu")
    tokenizer = learner.speakers.tokenizer
    kept = learner.state()["tokenizer"]
    assert isinstance(tokenizer, ChatTokenizer) and kept == tokenizer.dumps() and len(kept) > 100


@pytest.mark.parametrize("given", [{"weights": "w"}, {"publish": "p"}])
def test_a_servers_weights_and_where_new_ones_go_are_given_together(given: dict[str, str]) -> None:
    server = {"base_url": "http://localhost:1/v1", "model": "m"}
    assert OpenAIPolicyConfig.model_validate(server).weights is None
    assert OpenAIPolicyConfig.model_validate({**server, "weights": "w", "publish": "p"}).publish is not None
    with pytest.raises(ValidationError, match="weights and publish belong together"):
        OpenAIPolicyConfig.model_validate({**server, **given})


def test_the_first_row_whose_advantages_are_no_numbers_is_named() -> None:
    batch: Any = SimpleNamespace(
        rows=[SimpleNamespace(agent=agent) for agent in ("a", "b", "c")],
        episode=torch.tensor([4, 5, 6]),
        turn_row=torch.tensor([0, 1, 1, 2]),
    )
    fine, nan = torch.zeros(4), torch.tensor([0.0, 0.0, float("nan"), float("inf")])
    _check_advantages(Advantages(fine, torch.ones(3), {}), batch)
    wrong = [
        (Advantages(nan, torch.ones(3), {}), "agent 'b' in episode 5"),
        (Advantages(fine, torch.tensor([1.0, 1.0, float("nan")]), {}), "agent 'c' in episode 6"),
        (Advantages(fine, torch.ones(3), {}, [torch.zeros(2), torch.zeros(1), nan]), "agent 'c' in episode 6"),
        (Advantages(fine, torch.ones(3), {}, [nan, nan, nan]), "agent 'a' in episode 4"),
    ]
    for advantages, named in wrong:
        with pytest.raises(NotFiniteError, match=named):
            _check_advantages(advantages, batch)


def test_advantages_of_turns_are_those_of_their_tokens() -> None:
    made = case(3)
    turn = torch.arange(1.0, len(made.batch.turn_row) + 1)
    found = per_token(made.batch, Advantages(turn, torch.ones(len(made.rows)), {}))
    numbers = iter(turn.tolist())
    expected = [[number for length in row.lengths for number in [next(numbers)] * length] for row in made.rows]
    assert [row.tolist() for row in found] == expected
    tokens = [torch.zeros(sum(row.lengths)) for row in made.rows]
    assert per_token(made.batch, Advantages(turn, torch.ones(len(made.rows)), {}, tokens)) == tokens
