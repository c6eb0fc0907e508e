"""What the supervisor of cars promises, against agents that want to crash."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from marl.coordination.safety import UNDECIDED, Safety
from scenarios.cav_merging.actions import Action
from scenarios.cav_merging.config import CavConfig
from scenarios.cav_merging.world import CavMerging

COPIES = 8


def always(*wishes: Action):
    """The first of these actions that is legal, else idling."""

    def act(timestep, generator):
        chosen = torch.full(timestep.alive.shape, int(Action.IDLE))
        for wish in reversed(wishes):
            chosen = torch.where(timestep.action_mask[..., int(wish)], int(wish), chosen)
        return chosen

    return act


def anything(timestep, generator):
    return torch.multinomial(timestep.action_mask.float().flatten(0, 1), 1, generator=generator).view(COPIES, -1)


POLICIES = {
    "always accelerate": always(Action.FASTER),
    "always into the lane beside": always(Action.LANE_LEFT, Action.LANE_RIGHT, Action.FASTER),
    "always brake": always(Action.SLOWER),
    "anything": anything,
}


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    policy=st.sampled_from(sorted(POLICIES)),
    lanes=st.sampled_from((1, 2)),
    liking=st.booleans(),
)
def test_no_correction_is_worse_than_the_proposal(seed, policy, lanes, liking):
    """Replayed in the order of priority: the margin of what is executed, given what those before do."""
    env = CavMerging(CavConfig(geometry={"main_lanes": lanes}), COPIES)
    supervisor, timestep = Safety(env), env.reset(seed)
    generator = torch.Generator().manual_seed(seed)
    rows = torch.arange(COPIES)
    for _ in range(30):
        proposed = POLICIES[policy](timestep, generator)
        scores = torch.randn(*proposed.shape, len(Action), generator=generator) if liking else None
        executed = supervisor.correct(timestep, proposed, scores).executed
        order = torch.where(timestep.alive, env.priority(), -torch.inf).argsort(dim=1, descending=True, stable=True)
        committed = torch.full_like(proposed, UNDECIDED)
        for rank in range(env.agents):
            agent = order[:, rank].contiguous()
            acts = timestep.alive[rows, agent]
            both = torch.stack((proposed[rows, agent], executed[rows, agent]), 1)
            wish, done = env.margin(both, agent, committed).unbind(1)
            assert bool((~acts | (done >= wish)).all())
            # A proposal is only replaced where a conflict is predicted, and only by what is legal.
            assert bool((~acts | (both[:, 0] == both[:, 1]) | (wish < 0.0)).all())
            assert bool((~acts | timestep.action_mask[rows, agent, both[:, 1]]).all())
            committed[rows, agent] = torch.where(acts, both[:, 1], UNDECIDED)
        timestep = env.step(executed)
