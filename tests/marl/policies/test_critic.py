import numpy as np
import pytest
import torch
from gymnasium import spaces

from marl.errors import UserError
from marl.policies.config import NetworkConfig
from marl.policies.critic import Critic

SPACE = spaces.Box(-1.0, 1.0, (6,), np.float32)
MIXERS = ["deep_sets", "attention"]


def critic(seed: int = 0, per_agent: bool = True, mixer="none", **config) -> Critic:
    return Critic(SPACE, NetworkConfig(**config), torch.Generator().manual_seed(seed), per_agent, mixer)


def states(*leading: int) -> torch.Tensor:
    return torch.randn(*leading, 6, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("mixer", ["none", *MIXERS])
def test_a_state_per_agent_gives_a_value_per_agent(mixer):
    assert critic(mixer=mixer)(states(2, 3, 4))[0].shape == (2, 3, 4)


def test_a_state_per_copy_gives_a_value_per_copy():
    assert critic(per_agent=False)(states(2, 3))[0].shape == (2, 3)


@pytest.mark.parametrize("mixer", MIXERS)
def test_values_follow_a_permutation_of_the_agents(mixer):
    made, state = critic(mixer=mixer), states(2, 5)
    alive = torch.tensor([[True, True, False, True, False], [True, True, True, True, True]])
    order = torch.tensor([3, 0, 4, 2, 1])
    value, _ = made(state, alive=alive)
    permuted, _ = made(state[:, order], alive=alive[:, order])
    torch.testing.assert_close(permuted, value[:, order])


@pytest.mark.parametrize("mixer", MIXERS)
def test_the_living_change_each_others_values_and_the_dead_do_not(mixer):
    made, state = critic(mixer=mixer), states(1, 4)
    alive = torch.tensor([[True, True, True, False]])
    value, _ = made(state, alive=alive)
    dead, living = state.clone(), state.clone()
    dead[0, 3] += 1.0
    living[0, 2] += 1.0
    assert torch.equal(made(dead, alive=alive)[0][0, :3], value[0, :3])
    assert (made(living, alive=alive)[0][0, :2] != value[0, :2]).all()


@pytest.mark.parametrize("mixer", MIXERS)
def test_no_alive_mask_means_that_all_are(mixer):
    made, state = critic(mixer=mixer), states(2, 4)
    torch.testing.assert_close(made(state)[0], made(state, alive=torch.ones(2, 4, dtype=torch.bool))[0])


@pytest.mark.parametrize("mixer", MIXERS)
def test_values_and_gradients_are_finite_with_nobody_alive(mixer):
    made = critic(mixer=mixer)
    value, _ = made(states(2, 4), alive=torch.zeros(2, 4, dtype=torch.bool))
    value.sum().backward()
    assert value.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in made.parameters())


@pytest.mark.parametrize("mixer", MIXERS)
def test_dead_agents_get_no_gradient(mixer):
    made, state = critic(mixer=mixer), states(1, 4).requires_grad_()
    alive = torch.tensor([[True, True, True, False]])
    value, _ = made(state, alive=alive)
    (slope,) = torch.autograd.grad(value[alive].sum(), state)
    assert slope[0, :3].any(dim=-1).all()
    assert not slope[0, 3].any()


@pytest.mark.parametrize("mixer", MIXERS)
def test_empty_slots_change_nothing(mixer):
    made, state = critic(mixer=mixer), states(1, 5)
    alive = torch.tensor([[True, True, True, False, False]])
    torch.testing.assert_close(made(state, alive=alive)[0][:, :3], made(state[:, :3])[0])


def test_deep_sets_pools_the_mean_of_the_living():
    made, state = critic(mixer="deep_sets"), states(1, 3)
    repeated = state[:, [0, 1, 2, 0, 1, 2]]
    torch.testing.assert_close(made(repeated)[0][:, :3], made(state)[0])


@pytest.mark.parametrize("mixer", ["none", *MIXERS])
def test_unroll_equals_steps_with_the_memory_emptied_at_starts(mixer):
    made, state = critic(recurrent="gru", gru_size=8, mixer=mixer), states(5, 2, 3)
    generator = torch.Generator().manual_seed(1)
    start, alive = torch.rand(2, 5, 2, 3, generator=generator) < 0.5
    first = hidden = torch.randn(2, 3, 8, generator=generator)
    values = []
    for t in range(5):
        value, hidden = made(state[t], hidden * ~start[t].unsqueeze(-1), alive=alive[t])
        values.append(value)
    unrolled, last = made.unroll(state, first, start, alive)
    torch.testing.assert_close(unrolled, torch.stack(values))
    torch.testing.assert_close(last, hidden)
    assert made.hidden_size == 8


@pytest.mark.parametrize("mixer", ["none", *MIXERS])
def test_initial_weights_depend_on_the_generator_only(mixer):
    state = torch.random.get_rng_state()
    one, two = (critic(seed=3, mixer=mixer, recurrent="gru").state_dict() for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_mixer_needs_a_state_per_agent():
    with pytest.raises(UserError, match="mixer 'attention' needs a state per agent"):
        critic(per_agent=False, mixer="attention")


def test_attention_needs_a_width_that_its_heads_divide():
    with pytest.raises(UserError, match="not 30"):
        critic(mixer="attention", hidden=(64, 30))


def test_a_critic_has_no_labels() -> None:
    with pytest.raises(UserError, match="relabel says what an actor's outputs stand for"):
        Critic(spaces.Box(-1.0, 1.0, (3,)), NetworkConfig.model_validate({"relabel": "turned"}), torch.Generator())
