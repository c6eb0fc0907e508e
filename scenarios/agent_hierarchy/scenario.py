"""The declaration of the scenario: what the platform and the command line know about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch

from marl.config import CoordinationConfig
from marl.envs.batched import BatchedEnv
from marl.envs.chat import LanguageWorld
from marl.errors import UserError
from marl.scenario import Axis, Benchmark, Option, Recorder, Scenario
from scenarios.agent_hierarchy.answerable import cautions, hierarchy_of, unplanned
from scenarios.agent_hierarchy.baselines import BASELINES
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.discrete import DiscreteHierarchy
from scenarios.agent_hierarchy.expert import Expert
from scenarios.agent_hierarchy.graph import graph_names
from scenarios.agent_hierarchy.render import HierarchyRecorder
from scenarios.agent_hierarchy.spoken import SpokenHierarchy
from scenarios.agent_hierarchy.world import HierarchyEnv

_PACKAGE = Path(__file__).parent
_CORPUS_EPISODES = 200


def _make(config: HierarchyConfig, copies: int, device: torch.device) -> BatchedEnv:
    hierarchy = hierarchy_of(config)
    return (DiscreteHierarchy if hierarchy.tasks is None else SpokenHierarchy)(hierarchy, copies, device)


def _language(config: HierarchyConfig) -> LanguageWorld:
    hierarchy = hierarchy_of(config)
    expert = Expert(hierarchy)
    untaught = unplanned(hierarchy)

    def shown() -> HierarchyEnv:
        return HierarchyEnv(hierarchy, planned=True)

    def corpus() -> list[str]:
        """Everything that is said in some demonstrations; of a file without plans, its own texts."""
        if untaught:
            assert hierarchy.tasks is not None
            return [text for task in hierarchy.tasks.training for text in (task.question, task.answer)]
        env = shown()
        texts: list[str] = []
        for seed in range(_CORPUS_EPISODES):
            env.reset(seed=-1 - seed)
            while (turn := env.turn()) is not None:
                texts += [message["content"] for message in turn.messages[-2:]]
                texts.append(expert(turn, seed * 1000 + len(texts)))
                env.step(texts[-1])
        return texts

    return LanguageWorld(
        roles=tuple(hierarchy.roles),
        levels=hierarchy.levels,
        make=lambda: HierarchyEnv(hierarchy),
        expert=expert,
        vocabulary=hierarchy.vocabulary() if config.grammar == "compact" else None,
        corpus=corpus,
        context=config.context,
        demonstrations=shown,
        untaught=untaught,
        cautions=tuple(cautions(hierarchy)),
    )


def _instance(config: HierarchyConfig) -> dict[str, Any]:
    graph = config.graph if isinstance(config.graph, str) else "own"
    if config.tasks.file is not None:
        return {"graph": graph, "tasks": config.tasks.file.name}
    return {"graph": graph, "hops": "-".join(map(str, sorted(set(config.tasks.hops))))}


def _held_out(config: HierarchyConfig) -> HierarchyConfig:
    return config.model_copy(update={"held_out": True})


def _coordinated(config: HierarchyConfig, coordination: CoordinationConfig) -> HierarchyConfig:
    """Guidance, intent and safety of a run, which this world does by itself."""
    for name, asked, module, enabled in (
        ("announce", config.announce, "intent", coordination.intent.enabled),
        ("guard", config.guard, "safety", coordination.safety.enabled),
    ):
        if asked and not enabled:
            raise UserError(f"world.{name}=true: a run switches it by coordination.{module}.enabled=true")
    intent, safety = coordination.intent, coordination.safety
    if intent.noise > 1.0:
        raise UserError(f"coordination.intent.noise={intent.noise:g} is the chance of a wrong word here: at most 1")
    if safety.margin != 0.0 or safety.early_margin is not None or safety.early_penalty is not None:
        raise UserError("a guard of calls has no margin and nothing to anneal: leave margin and early_* out")
    if safety.rule is not None:
        raise UserError("a guard of calls has no other rule: leave coordination.safety.rule out where agents talk")
    return config.model_copy(
        update={
            "announce_delay": intent.delay,
            "announce_loss": intent.loss,
            "announce_noise": intent.noise,
            "plan": config.plan and coordination.guidance.enabled,
            "announce": coordination.intent.enabled,
            "guard": coordination.safety.enabled,
            "guard_price": coordination.safety.penalty,
        }
    )


def _recorder(env: BatchedEnv) -> Recorder:
    return HierarchyRecorder(cast(SpokenHierarchy, env))


SCENARIO = Scenario(
    name="agent_hierarchy",
    summary="language: a planner delegates questions to sub-agents with tools",
    config=HierarchyConfig,
    make=_make,
    instance=_instance,
    presets=_PACKAGE / "presets",
    default_preset="quick",
    options=(
        Option("--graph", "world.graph", "who may call whom: a name, or a YAML file of your own"),
        Option("--tasks", "world.tasks.file", "a JSON file of questions, answers and knowledge"),
        Option("--grammar", "world.grammar", "how calls are written: compact or json"),
    ),
    baselines=BASELINES,
    system="m_grpo",
    extras={"llm": "models of kind hf", "mcp": "tools of MCP servers"},
    recorder=_recorder,
    maps=graph_names,
    held_out=_held_out,
    bound=(
        "world.graph",
        "world.tasks.file",
        "world.grammar",
        "world.context",
        "world.plan",
        "coordination.guidance.enabled",
        "coordination.intent",
        "coordination.safety",
    ),
    served={"world.grammar": "json", "world.context": 16_000},
    checkpoints=_PACKAGE / "checkpoints",
    language=_language,
    coordinated=_coordinated,
    benchmark=Benchmark(
        settings={"copies": 64},
        axes={"copies": Axis("episodes in flight", {copies: {"copies": copies} for copies in (8, 32, 128, 512)})},
    ),
)
