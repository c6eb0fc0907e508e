import numpy as np
import pytest
import torch
from gymnasium import spaces
from torch import Tensor

from marl.envs.spaces import BitWindow
from marl.errors import UserError
from marl.policies.config import NetworkConfig
from marl.policies.encoders import make_encoder

SPACE = spaces.Dict(
    {
        "goal": spaces.Box(-1.0, 1.0, (2, 2), np.float32),
        "plan": spaces.Dict({"path": BitWindow(1, 5, 5), "phase": spaces.Discrete(4, start=1)}),
        "signals": spaces.MultiBinary(3),
        "window": BitWindow(2, 5, 7),
    }
)


def observations(*leading: int, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)

    def integers(high: int, *shape: int) -> Tensor:
        return torch.randint(0, high, (*leading, *shape), generator=generator)

    return {
        "goal": torch.rand(*leading, 2, 2, generator=generator),
        "plan": {"path": integers(32, 1, 5).to(torch.int16), "phase": integers(4) + 1},
        "signals": integers(2, 3).to(torch.int8),
        "window": integers(128, 2, 5).to(torch.int16),
    }


def encoder(space, seed: int = 0, **config):
    return make_encoder(space, NetworkConfig(**config), torch.Generator().manual_seed(seed))


def flattened(observation) -> Tensor:
    """Vectors first, then windows, each in the order of the space."""
    window, path = (
        SPACE["window"].unpack(observation["window"]),
        SPACE["plan"]["path"].unpack(observation["plan"]["path"]),
    )
    one_hot = torch.eye(4)[observation["plan"]["phase"] - 1]
    parts = [observation["goal"].flatten(-2), one_hot, observation["signals"], path.flatten(-3), window.flatten(-3)]
    return torch.cat([part.float() for part in parts], dim=-1)


@pytest.mark.parametrize("activation", [torch.relu, torch.tanh])
def test_mlp_encoder_is_a_network_on_everything_flattened(activation):
    made = encoder(SPACE, hidden=(8, 6), activation=activation.__name__)
    observation = observations(3, 4)
    hidden = activation(flattened(observation) @ made.first.weight.t() + made.first.bias)
    expected = activation(made.rest[1](hidden))
    assert made.features == 6
    torch.testing.assert_close(made(observation), expected)


@pytest.mark.parametrize("config", [{"encoder": "mlp"}, {"encoder": "cnn"}, {"encoder": "cnn", "layer_norm": True}])
@pytest.mark.parametrize("leading", [(), (3,), (2, 3)])
def test_encoders_take_any_leading_shape(config, leading):
    made = encoder(SPACE, **config)
    observation = observations(*leading)
    features = made(observation)
    assert features.shape == (*leading, 64)
    assert features.isfinite().all()


def test_cnn_encoder_sees_windows_and_vectors():
    made = encoder(SPACE, encoder="cnn")
    before = observations(1)
    for change in ("goal", "window"):
        after = {**before, change: observations(1, seed=1)[change]}
        assert not torch.equal(made(before), made(after))


def test_a_single_box_needs_no_dict():
    made = encoder(spaces.Box(-1.0, 1.0, (3,), np.float32))
    assert made(torch.zeros(5, 3)).shape == (5, 64)


def test_a_single_window_needs_no_dict():
    made = encoder(BitWindow(2, 5, 7))
    assert made(torch.zeros(5, 2, 5, dtype=torch.int16)).shape == (5, 64)


def test_layer_norm_makes_features_independent_of_the_unit_and_offset_of_the_vector():
    made = encoder(spaces.Box(-1e6, 1e6, (4,), np.float32), layer_norm=True)
    vector = torch.tensor([[1.0, 2.0, 3.0, 5.0]])
    torch.testing.assert_close(made(vector), made(1000 * vector + 7), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_initial_weights_depend_on_the_generator_only(kind):
    torch.manual_seed(1)
    one = encoder(SPACE, seed=3, encoder=kind).state_dict()
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    two, other = encoder(SPACE, seed=3, encoder=kind).state_dict(), encoder(SPACE, seed=4, encoder=kind).state_dict()
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_hidden_layers_are_orthogonal_with_zero_bias():
    made = encoder(SPACE, hidden=(64, 16))
    first, second = made.first, made.rest[1]
    torch.testing.assert_close(first.weight @ first.weight.t(), 2 * torch.eye(64), atol=1e-5, rtol=0)
    torch.testing.assert_close(second.weight @ second.weight.t(), 2 * torch.eye(16), atol=1e-5, rtol=0)
    assert not first.bias.any() and not second.bias.any()


def test_a_space_without_encoder_is_named():
    space = spaces.Dict({"plan": spaces.Dict({"note": spaces.Text(5)})})
    with pytest.raises(UserError, match=r"observation 'plan\.note' is a Text"):
        encoder(space)


def test_an_empty_observation_is_refused():
    with pytest.raises(UserError, match="has no parts"):
        encoder(spaces.Dict({}))


def test_cnn_without_window_is_refused():
    with pytest.raises(UserError, match="encoder 'cnn' needs a BitWindow"):
        encoder(spaces.Box(0.0, 1.0, (3,), np.float32), encoder="cnn")


def test_choices_pass_the_same_layers_one_by_one() -> None:
    space = spaces.Dict({"choices": spaces.Box(-1.0, 1.0, (5, 3), np.float32), "goal": SPACE["goal"]})
    made = encoder(space, encoder="choices", inputs=("choices",), hidden=(4,))
    rows = torch.rand(2, 7, 5, 3, generator=torch.Generator().manual_seed(1))
    features = made({"choices": rows, "goal": None})
    assert (made.choices, made.features, features.shape) == (5, 4, (2, 7, 5, 4))
    layer = made.hidden[0]
    torch.testing.assert_close(features, torch.relu(rows @ layer.weight.t() + layer.bias))
    torch.testing.assert_close(made({"choices": rows.flip(2)}), features.flip(2))


def test_inputs_choose_parts_and_unknown_ones_are_named() -> None:
    observation = observations(3)
    some = encoder(SPACE, inputs=("goal", "window"), hidden=(8,))
    alone = encoder(spaces.Dict({"goal": SPACE["goal"], "window": SPACE["window"]}), hidden=(8,))
    torch.testing.assert_close(some(observation), alone(observation))
    with pytest.raises(UserError, match="no part 'goals' for 'inputs'; did you mean 'goal'"):
        encoder(SPACE, inputs=("goals",))
    with pytest.raises(UserError, match="reads one Box"):
        encoder(SPACE, encoder="choices")


IMAGE = spaces.Box(0, 255, (8, 6, 3), np.uint8)


@pytest.mark.parametrize("kind", ["mlp", "cnn"])
def test_bytes_are_scaled_and_other_numbers_are_not(kind: str) -> None:
    """An image of bytes is worth what the same image of floats in [0, 1] is."""
    pixels = torch.randint(0, 256, (4, 8, 6, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    floats = spaces.Box(0.0, 1.0, (8, 6, 3), np.float32)
    torch.testing.assert_close(encoder(IMAGE, encoder=kind)(pixels), encoder(floats, encoder=kind)(pixels / 255.0))
    counts = spaces.Box(0, 9, (8, 6, 3), np.uint8)
    few = pixels % 10
    torch.testing.assert_close(encoder(counts, encoder=kind)(few), encoder(floats, encoder=kind)(few.float()))


def test_channels_may_stand_first_or_last_and_beside_other_parts() -> None:
    pixels = torch.randint(0, 256, (2, 5, 8, 6, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    first = spaces.Box(0, 255, (3, 8, 6), np.uint8)
    last = encoder(IMAGE, encoder="cnn")(pixels)
    torch.testing.assert_close(last, encoder(first, encoder="cnn")(pixels.permute(0, 1, 4, 2, 3)))
    assert last.shape == (2, 5, 64)
    mixed = spaces.Dict({"seen": IMAGE, "speed": spaces.Box(-1, 1, (2,), np.float32), "near": BitWindow(1, 5, 5)})
    made = encoder(mixed, encoder="cnn")
    assert len(made.towers) == 2 and made.inputs.vector_size == 2
    rows = {"seen": pixels[0], "speed": torch.zeros(5, 2), "near": torch.zeros(5, 1, 5, dtype=torch.int16)}
    one = made(rows)
    assert not torch.equal(one, made({**rows, "seen": pixels[1]}))
    assert not torch.equal(one, made({**rows, "speed": torch.ones(5, 2)}))


def test_several_choices_are_one_hot_each_and_nobodys_view_is_none_of_them() -> None:
    space = spaces.MultiDiscrete([[2, 3]], start=[[1, 0]])
    made = encoder(space).inputs
    row = made.vector(torch.tensor([[[2, 1]], [[0, 0]]]))
    assert row.tolist() == [[0, 1, 0, 1, 0], [1, 0, 1, 0, 0]]
    zeros = encoder(spaces.Discrete(3, start=1)).inputs.vector(torch.zeros(1, dtype=torch.int64))
    assert zeros.shape == (1, 3)
