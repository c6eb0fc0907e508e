"""The shape of a network, as it stands in a run's configuration."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from marl.config import Frozen

Width = Annotated[int, Field(ge=1)]


class Prior(Frozen):
    """What is known of actions before anything is learned."""

    column: int = Field(ge=0, description="of the Box [actions, F]")
    weight: float = Field(description="of this column in an action's score, at the beginning")
    legal: int | None = Field(
        None,
        ge=0,
        description="the column that is 0 where an action is impossible: such actions are never taken, and the other "
        "weights begin at 0, so that an actor begins with exactly this ranking; null: neither",
    )


class NetworkConfig(Frozen):
    """One network: an encoder, hidden layers, and optionally a memory."""

    encoder: Literal["mlp", "cnn", "choices", "auto"] = Field(
        "mlp",
        description="mlp: all is flattened; cnn: windows are convolved first; choices: the rows of a Box [actions, F] "
        "are scored one by one by the same layers; auto: cnn where there are images of bytes, else mlp",
    )
    inputs: tuple[str, ...] | None = Field(
        None, min_length=1, description="the parts of an observation that the network reads; null: all"
    )
    channels: tuple[Width, ...] = Field(
        (16, 32), min_length=1, description="cnn: output channels of the 3x3 convolutions of stride 2"
    )
    hidden: tuple[Width, ...] = Field((64, 64), min_length=1, description="widths of the fully connected layers")
    activation: Literal["relu", "tanh"] = Field("relu", description="between the hidden layers")
    temperature: float = Field(
        1.0,
        gt=0,
        le=100,
        description="discrete actions: scores are divided by it, so that small values make bold actors",
    )
    prior: Prior | None = Field(
        None,
        description="choices: actors begin by ranking actions by one column of what they see, and learn to correct it",
    )
    relabel: str | None = Field(
        None,
        description="a part of the observation, integers [A], which of the network's outputs stands for each discrete "
        "action: where a world turns what agents see",
    )
    layer_norm: bool = Field(False, description="LayerNorm on vector inputs, after hidden layers and after the memory")
    recurrent: Literal["none", "gru"] = Field("none", description="memory between the hidden layers and the output")
    gru_size: Width = Field(64, description="numbers that the memory holds")


DEFAULT_NETWORK = NetworkConfig.model_validate({})
