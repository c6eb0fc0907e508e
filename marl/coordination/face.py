"""A world with its coordination modules as a PettingZoo environment."""

from __future__ import annotations

from typing import Any

from marl.config import CoordinationConfig
from marl.coordination.pipeline import Pipeline
from marl.envs.batched import BatchedEnv
from marl.envs.pettingzoo import ParallelFace


def coordinated_face(env: BatchedEnv, coordination: CoordinationConfig, **options: Any) -> ParallelFace:
    """The PettingZoo face of a world, which shows what the modules add to observations and rewards.

    A supervisor (``coordination.safety``) does not correct what is given to ``step``: a learned policy asks it for its
    own actions (``LearnedPolicy.act(observations, env=face)``).
    Raises ``UserError`` for modules that the world cannot serve.

    Args:
        env: a world with one copy.
        coordination: the modules and their options.
        options: more of ``ParallelFace``, such as ``newcomers``, ``rebuild`` and ``name``.
    """
    pipeline = Pipeline(env, coordination)
    return ParallelFace(env, pipeline.view, pipeline.observation_space, pipeline=pipeline, **options)
