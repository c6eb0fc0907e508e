import numpy as np
import pytest
import torch
from gymnasium import spaces

from marl.envs.spaces import BitWindow
from marl.errors import UserError
from marl.learning.regularizers import masked_mean
from marl.learning.surrogates import ppo_clip
from marl.policies.actor import Actor
from marl.policies.config import NetworkConfig
from marl.policies.heads import Categorical, Gaussian

SPACE = spaces.Dict({"goal": spaces.Box(-1.0, 1.0, (2,), np.float32), "window": BitWindow(2, 5, 5)})
DISCRETE = spaces.Discrete(5)


def observations(*leading: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "goal": torch.rand(*leading, 2, generator=generator),
        "window": torch.randint(0, 32, (*leading, 2, 5), generator=generator).to(torch.int16),
    }


def actor(action_space=DISCRETE, seed: int = 0, **config) -> Actor:
    return Actor(SPACE, action_space, NetworkConfig(**config), torch.Generator().manual_seed(seed))


def step(tree, t: int):
    return {name: part[t] for name, part in tree.items()}


def test_the_first_policy_is_nearly_uniform():
    head, hidden = actor()(observations(4, 3))
    assert hidden is None
    torch.testing.assert_close(head.log_probs.exp(), torch.full((4, 3, 5), 0.2), atol=0.03, rtol=0)


def test_a_prior_ranks_actions_until_something_is_learned() -> None:
    """At a temperature of .5 a weight of -3 makes a difference of 1 in the column one of 6 in the logarithm."""
    rows = torch.zeros(2, 5, 3)
    rows[:, :, 1] = torch.tensor([0.0, 1.0, 0.5, 2.0, 0.25])
    space = spaces.Box(-2.0, 2.0, (5, 3), np.float32)
    config = {"encoder": "choices", "temperature": 0.5, "prior": {"column": 1, "weight": -3.0}}
    made = Actor(space, DISCRETE, NetworkConfig.model_validate(config), torch.Generator().manual_seed(0))
    head, _ = made(rows)
    expected = torch.log_softmax(-6.0 * rows[..., 1], dim=-1)
    torch.testing.assert_close(head.log_probs, expected, atol=0.1, rtol=0)
    with pytest.raises(UserError, match=r"prior.column is 1, but .* has 1 columns"):
        Actor(
            spaces.Box(-2.0, 2.0, (5, 1), np.float32), DISCRETE, NetworkConfig.model_validate(config), torch.Generator()
        )
    with pytest.raises(UserError, match="set encoder to 'choices'"):
        actor(prior={"column": 0, "weight": 1.0})


def test_re_evaluation_of_a_rollout_gives_ratio_one():
    made, observation = actor(), observations(6, 4, 3)
    mask = torch.rand(6, 4, 3, 5, generator=torch.Generator().manual_seed(1)) < 0.6
    mask[..., 0] = True
    uniforms = torch.rand(6, 4, 3, generator=torch.Generator().manual_seed(2))
    actions, log_probs = [], []
    for t in range(6):
        head, _ = made(step(observation, t), None, mask[t])
        actions.append(head.sample(uniforms[t]))
        log_probs.append(head.log_prob(actions[-1]))
    action = torch.stack(actions)
    again, _ = made(observation, None, mask)
    assert mask.gather(-1, action.unsqueeze(-1)).all()
    torch.testing.assert_close(again.log_prob(action), torch.stack(log_probs), atol=1e-6, rtol=0)


@pytest.mark.parametrize("layer_norm", [False, True])
def test_unroll_equals_steps_with_the_memory_emptied_at_starts(layer_norm):
    made, observation = actor(recurrent="gru", gru_size=16, layer_norm=layer_norm), observations(7, 4, 3)
    start = torch.rand(7, 4, 3, generator=torch.Generator().manual_seed(1)) < 0.3
    first = hidden = torch.randn(4, 3, 16, generator=torch.Generator().manual_seed(2))
    scores = []
    for t in range(7):
        head, hidden = made(step(observation, t), hidden * ~start[t].unsqueeze(-1))
        scores.append(head.log_probs)
    unrolled, last = made.unroll(observation, first, start)
    torch.testing.assert_close(unrolled.log_probs, torch.stack(scores))
    torch.testing.assert_close(last, hidden)
    assert made.hidden_size == 16


def test_memory_carries_over_steps_but_not_over_starts():
    made, observation = actor(recurrent="gru"), observations(3, 2)
    other = {name: part.clone() for name, part in observation.items()}
    other["goal"][0] += 1.0
    start = torch.tensor([[True, True], [False, True], [False, False]])
    one, two = (made.unroll(seen, None, start)[0].log_probs for seen in (observation, other))
    assert not torch.equal(one[1:, 0], two[1:, 0])
    assert torch.equal(one[1:, 1], two[1:, 1])


def test_no_hidden_state_means_zeros():
    made, observation = actor(recurrent="gru"), observations(3)
    torch.testing.assert_close(made(observation)[1], made(observation, torch.zeros(3, 64))[1])


def test_without_memory_the_hidden_state_is_handed_back():
    made, carried = actor(), torch.zeros(3, 0)
    assert made.hidden_size == 0
    assert made(observations(3), carried)[1] is carried
    assert made.unroll(observations(2, 3), carried, torch.zeros(2, 3, dtype=torch.bool))[1] is carried


def test_dead_agents_contribute_no_gradient():
    made, alive = actor(), torch.tensor([[True, False, True]])
    action, advantage = torch.tensor([[1, 2, 3]]), torch.tensor([[1.0, 50.0, -1.0]])

    def gradient(observation):
        head, _ = made(observation)
        log_ratio = head.log_prob(action) - head.log_prob(action).detach()
        loss = masked_mean(ppo_clip(log_ratio, advantage, 0.2) - 0.01 * head.entropy(), alive)
        return torch.autograd.grad(loss, list(made.parameters()))

    seen = observations(1, 3)
    other = {name: part.clone() for name, part in seen.items()}
    other["goal"][0, 1], other["window"][0, 1] = 7.0, 31
    for one, two in zip(gradient(seen), gradient(other), strict=True):
        assert torch.equal(one, two)


def test_a_bounded_box_starts_in_the_middle_of_its_range_and_an_unbounded_one_at_zero():
    low, high = np.array([0.0, -np.inf], np.float32), np.array([30.0, np.inf], np.float32)
    head, _ = actor(spaces.Box(low, high))(observations(4))
    assert isinstance(head, Gaussian)
    torch.testing.assert_close(head.mode(), torch.tensor([15.0, 0.0]).expand(4, 2), atol=0.5, rtol=0)
    torch.testing.assert_close(head.std, torch.tensor([15.0, 1.0]).expand(4, 2))


def test_a_gaussian_learns_its_deviation():
    made = actor(spaces.Box(-1.0, 1.0, (2,), np.float32))
    head, _ = made(observations(4))
    head.log_prob(torch.zeros(4, 2)).sum().backward()
    assert made.log_std.grad is not None and made.log_std.grad.all()


def test_multi_discrete_actions_have_one_number_per_choice():
    head, _ = actor(spaces.MultiDiscrete([3, 4]))(observations(6))
    assert head.sample(torch.rand(6, *head.noise_shape)).shape == (6, 2)


def test_initial_weights_depend_on_the_generator_only():
    state = torch.random.get_rng_state()
    one, two, other = (actor(seed=seed, recurrent="gru").state_dict() for seed in (3, 3, 4))
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["output.weight"], other["output.weight"])


@pytest.mark.parametrize(
    "space",
    [spaces.Text(3), spaces.Box(0, 5, (2,), np.int64)],
)
def test_an_action_space_without_head_is_named(space):
    with pytest.raises(UserError, match=r"the action space .* has no head"):
        actor(space)


def test_the_whole_actor_can_be_exported():
    made = actor(recurrent="gru")

    class Scores(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.actor = made

        def forward(self, observation, hidden):
            head, hidden = self.actor(observation, hidden)
            assert isinstance(head, Categorical)
            return head.log_probs, hidden

    arguments = (observations(3), torch.zeros(3, 64))
    exported = torch.export.export(Scores(), arguments).module()
    for one, two in zip(exported(*arguments), Scores()(*arguments), strict=True):
        torch.testing.assert_close(one, two)


def test_outputs_stand_for_the_actions_that_the_observation_says() -> None:
    """The same picture with other labels gives the same numbers to other actions; the labels are not read otherwise."""
    space = spaces.Dict({**SPACE.spaces, "turned": spaces.Box(0, 4, (5,), np.int8)})
    config = NetworkConfig.model_validate({"relabel": "turned"})
    made = Actor(space, DISCRETE, config, torch.Generator().manual_seed(0))
    seen = observations(3)
    plain, _ = actor()(seen)
    labels = torch.tensor([0, 3, 4, 2, 1], dtype=torch.int8).expand(3, 5)
    head, _ = made({**seen, "turned": labels})
    torch.testing.assert_close(head.log_probs, plain.log_probs[:, [0, 3, 4, 2, 1]])


@pytest.mark.parametrize(
    ("part", "action", "message"),
    [
        (spaces.Box(0, 4, (5,), np.float32), DISCRETE, "an integer from 0 on for each discrete action"),
        (spaces.Box(0, 5, (5,), np.int8), DISCRETE, "an integer from 0 on"),
        (spaces.Box(0, 4, (5,), np.int8), spaces.Discrete(4), "an integer from 0 on"),
        (spaces.Box(0, 4, (5,), np.int8), spaces.Box(-1.0, 1.0, (5,), np.float32), "an integer from 0 on"),
        (None, DISCRETE, "no part 'turned' for 'relabel'"),
    ],
)
def test_labels_that_do_not_fit_are_refused(part: spaces.Space, action: spaces.Space, message: str) -> None:
    space = spaces.Dict(SPACE.spaces if part is None else {**SPACE.spaces, "turned": part})
    with pytest.raises(UserError, match=message):
        Actor(space, action, NetworkConfig.model_validate({"relabel": "turned"}), torch.Generator())


def test_impossible_actions_are_never_taken_and_an_actor_begins_with_exactly_its_prior() -> None:
    """Rows of impossible actions are zeros: by the prior alone such an action would cost nothing and be the best."""
    space = spaces.Box(-1.0, 1.0, (3, 3), np.float32)
    prior = {"column": 1, "weight": -3.0, "legal": 0}
    config = NetworkConfig.model_validate({"encoder": "choices", "temperature": 0.5, "prior": prior})
    actor = Actor(space, spaces.Discrete(3), config, torch.Generator().manual_seed(0))
    rows = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 0.5, 0.3], [1.0, 0.25, -0.7]]])
    head, _ = actor(rows)
    expected = torch.log_softmax(torch.tensor([-3.0 * 0.5, -3.0 * 0.25]) / 0.5, 0)
    torch.testing.assert_close(head.log_probs[0, 1:], expected)
    assert head.log_probs[0, 0] < -1e8
    assert torch.isfinite(head.entropy()).all()
    assert int(head.sample(torch.zeros(1))) == 1  # the least uniform number takes the first possible action
    with pytest.raises(UserError, match=r"prior\.legal is 3"):
        Actor(
            space,
            spaces.Discrete(3),
            NetworkConfig.model_validate({"encoder": "choices", "prior": {"column": 1, "weight": -3.0, "legal": 3}}),
            torch.Generator(),
        )
