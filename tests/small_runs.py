"""Small training runs of each kind of world, as words after ``marl train``: for tests that kill and resume them."""

from __future__ import annotations


def _words(scenario: str, *options: str, **settings: object) -> list[str]:
    sets = [word for key, value in settings.items() for word in ("--set", f"{key.replace('__', '.')}={value}")]
    return [scenario, *options, *sets]


#: Of tensors, of SUMO in worker processes, of language; checkpoints fall into the middle of episodes.
SMALL_RUNS: dict[str, list[str]] = {
    "tensors": _words(
        "lifelong_mapf",
        *("--agents", "6", "--horizon", "48"),
        total_steps=6 * 8 * 16 * 60,
        copies=8,
        world__map_pool=2,
        world__generator="{kind: random, size: 10}",
        algorithm__rollout=16,
        algorithm__minibatches=1,
        algorithm__epochs=1,
        checkpoint__every_iterations=3,
    ),
    "sumo": _words(
        "cav_merging",
        *("--backend", "sumo", "--horizon", "35"),
        total_steps=6 * 2 * 8 * 24,
        copies=2,
        algorithm__rollout=8,
        algorithm__epochs=1,
        checkpoint__every_iterations=2,
    ),
    "language": _words(
        "agent_hierarchy",
        *("--system", "m_grpo"),
        copies=16,
        total_steps=6000,
        world__tasks__hops="[1]",
        world__tasks__entities=4,
        algorithm__group=4,
        algorithm__warm_start__steps=60,
        algorithm__warm_start__batch=8,
        algorithm__policy__transformer="{width: 16, heads: 2, kv_heads: 1, hidden: 32}",
        checkpoint__every_iterations=2,
        evaluation__every_iterations=0,
    ),
}
