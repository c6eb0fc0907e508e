import pytest
from pydantic import ValidationError

from marl.policies.config import NetworkConfig


def test_the_default_is_a_small_mlp():
    config = NetworkConfig()
    assert (config.encoder, config.hidden, config.activation, config.recurrent) == ("mlp", (64, 64), "relu", "none")


@pytest.mark.parametrize(
    "wrong",
    [{"hidden": ()}, {"hidden": (0,)}, {"activation": "gelu"}, {"gru_size": 0}, {"widths": (64,)}, {"channels": ()}],
)
def test_what_makes_no_network_is_refused(wrong):
    with pytest.raises(ValidationError):
        NetworkConfig(**wrong)
