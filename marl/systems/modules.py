"""MAPPO-PIS and Follower: PPO as it is, with modules of coordination switched on.

"MAPPO-PIS", arXiv 2408.06656: automated cars tell each other what they will do (intents), and a supervisor replaces
what is predicted to collide (safety). "Learn to Follow", arXiv 2310.01207: every robot follows a path of its own that
is planned around crowds (guidance), and is paid for each cell of it. Both are names for settings: the modules live in
``marl.coordination`` and in the worlds, and work with any other system as well.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from marl.systems.mappo import IppoConfig, Mappo, MappoConfig, Share
from marl.systems.system import Check, System


class MappoPisConfig(MappoConfig):
    """MAPPO's options with the published limit of the gradient."""

    max_grad_norm: Annotated[float, Field(gt=0.0)] = 5.0
    """Gradients are clipped to this norm."""


class FollowerConfig(IppoConfig):
    """IPPO's options with the published discount, rate, entropy bonus and limit of the gradient."""

    gamma: Share = 0.9756
    """Discount per step."""
    actor_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 2.2e-4
    """Learning rate of the policy."""
    critic_rate: Annotated[float, Field(gt=0.0, le=1.0)] = 2.2e-4
    """Learning rate of the critic."""
    entropy: Annotated[float, Field(ge=0.0)] = 0.023
    """Weight of the entropy bonus."""
    max_grad_norm: Annotated[float, Field(gt=0.0)] = 4.0
    """Gradients are clipped to this norm."""


MAPPO_PIS = System(
    name="mappo_pis",
    summary="MAPPO with intents that are told and a supervisor of safety",
    paper="arXiv 2408.06656",
    config=MappoPisConfig,
    build=Mappo,
    claim="sharing intents and supervising safety make merging safer and faster than MAPPO alone.",
    formula=(
        "as MAPPO; the action of the agent first in priority stands, a conflicting one is replaced by argmax of the "
        "margin over legal actions; log pi stays that of the proposed action"
    ),
    check=Check(
        command="scripts/reproduce cav",
        figure="collisions, share merged and speed in SUMO, paired by seed, modules on and off",
        bound="fewer collisions and no slower, with 95 % intervals, for both modules",
        verdict="does not hold here",
        why=(
            "half of it holds: with the supervisor no or hardly any collisions are left; intents alone change them by "
            "+4.6 [-3.4, +12.5] points in the hard mode, and beside the supervisor cost 3.2 [0.1, 6.3] points merged"
        ),
    ),
    settings={"coordination.intent.enabled": True, "coordination.safety.enabled": True},
)
FOLLOWER = System(
    name="follower",
    summary="IPPO on a path of one's own, planned around crowds",
    paper="arXiv 2310.01207",
    config=FollowerConfig,
    build=Mappo,
    claim="the best throughput of learned policies for lifelong path finding, without any communication.",
    formula="as IPPO; r = .01 on the next cell of the path; cell cost = max avgdist / avgdist(c) + visits seen in c",
    check=Check(
        command="scripts/reproduce mapf_published",
        figure="goals per step on the published starts and goals, three seeds, against the published figures",
        bound="nowhere below the published figure, by 95 % intervals",
        verdict="holds",
        why=(
            "warehouse with 128 and 192 agents 3.70 and 4.99 against 3.15 and 3.94, random maps 1.01 to 1.09 times; on "
            "mazes .99 to 1.19 times. Guided PIBT, which needs no learning, is ahead of both"
        ),
    ),
    settings={"coordination.guidance.enabled": True},
)
