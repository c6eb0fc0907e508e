"""What the recipes for language hierarchies share: their options, and the learner that they hand advantages to."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Protocol

from pydantic import BeforeValidator, ConfigDict, Field, model_validator
from torch import Tensor

from marl.config import Frozen
from marl.envs.chat import LanguageEnv
from marl.learning.language.token_losses import Tokens
from marl.learning.language.token_trees import TokenRow
from marl.policies.language.base import LanguagePolicy
from marl.policies.language.transformer import TransformerConfig
from marl.rollout.language.token_batch import TokenBatch
from marl.rollout.language.turns import Episode, TurnPlayer

Positive = Annotated[float, Field(gt=0.0)]


class TinyPolicyConfig(Frozen):
    """A small transformer from scratch."""

    kind: Literal["tiny"] = Field(default="tiny", description="who speaks")
    transformer: TransformerConfig = TransformerConfig()
    max_tokens: int = Field(default=12, ge=1, le=4096, description="tokens of one turn")
    vocabulary: int = Field(default=512, ge=300, le=100_000, description="size of a tokenizer of bytes")
    lora_rank: int | None = Field(
        default=None, ge=1, le=1024, description="rank of adapters per role on a body that imitation alone trains"
    )


class HfPolicyConfig(Frozen):
    """A local folder of weights that transformers can load."""

    kind: Literal["hf"] = Field(default="hf", description="who speaks")
    folder: Path = Field(description="folder with config.json, weights and tokenizer")
    lora_rank: int | None = Field(default=8, ge=1, le=1024, description="rank of adapters per role; null: all weights")
    dtype: Literal["float32", "bfloat16", "float16"] = Field(default="float32", description="numbers it computes in")
    max_tokens: int = Field(default=256, ge=1, le=100_000, description="tokens of one turn")
    cache_gigabytes: float = Field(
        default=2.0, ge=0.0, description="of keys and values that are kept between turns; what is beyond is read again"
    )
    template: str | None = Field(
        default=None, description="a file with a chat template in the place of the folder's, or 'plain' for one of ours"
    )
    template_options: dict[str, Any] = Field(
        default_factory=dict, description="further variables of the chat template, such as enable_thinking"
    )
    parser: str | None = Field(
        default=None, description="module:function of your own that reads calls: text -> list of name and arguments"
    )


class OpenAIPolicyConfig(Frozen):
    """An OpenAI-compatible server."""

    kind: Literal["openai"] = Field(default="openai", description="who speaks")
    base_url: str = Field(description="such as http://localhost:8000/v1")
    model: str = Field(description="name of the model, as the server knows it")
    key_variable: str = Field(default="OPENAI_API_KEY", description="environment variable that holds the key")
    timeout_seconds: Positive = Field(default=60.0, description="of one request")
    retries: int = Field(default=3, ge=0, le=20, description="of a request that fails")
    max_tokens: int = Field(default=256, ge=1, le=100_000, description="tokens of one turn")
    require_ids: bool = Field(default=False, description="refuse replies without token ids")
    extra_body: dict[str, Any] = Field(
        default_factory=dict, description="further fields of each request, such as top_p or chat_template_kwargs"
    )
    parser: str | None = Field(default=None, description="as of the kind hf")
    weights: Path | None = Field(
        default=None, description="folder of the weights it serves: they learn here from the token ids it returns"
    )
    publish: Path | None = Field(default=None, description="where new weights are written for it; needed to learn")
    reload_url: str = Field(default="", description="asked to load them, such as .../v1/load_lora_adapter of vLLM")
    lora_rank: int | None = Field(default=8, ge=1, le=1024, description="as of the kind hf")

    @model_validator(mode="after")
    def _whole(self) -> OpenAIPolicyConfig:
        if (self.weights is None) != (self.publish is None):
            raise ValueError("weights and publish belong together: what the server serves, and where it finds new ones")
        return self


class ScriptedPolicyConfig(Frozen):
    """The world's scripted demonstrator."""

    kind: Literal["scripted"] = Field(default="scripted", description="who speaks")


def _tiny_unless_said(value: Any) -> Any:
    return {"kind": "tiny", **value} if isinstance(value, dict) else value


PolicyConfig = Annotated[
    TinyPolicyConfig | HfPolicyConfig | OpenAIPolicyConfig | ScriptedPolicyConfig,
    Field(discriminator="kind"),
    BeforeValidator(_tiny_unless_said),
]


class WarmStartConfig(Frozen):
    """Imitation of the world's demonstrator before reinforcement learning."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    steps: Annotated[int, Field(ge=0)] = 240
    """Gradient steps; 0: none."""
    batch: Annotated[int, Field(ge=1)] = 48
    """Demonstrated episodes per step."""
    rate: Positive = 3e-3
    """Learning rate of imitation."""
    pretrained_rate: Positive = 2e-4
    """The rate of real weights (kind hf, or openai with weights), and of adapters on them; lower where all learn."""
    warmup: Annotated[int, Field(ge=0)] = 20
    """Steps until the learning rate is reached; it falls linearly afterwards."""
    replay: Annotated[float, Field(ge=0.0)] = 0.0
    """Weight of imitation beside the advantages of the updates that follow, for sub-agents; it falls linearly to zero
    over the first half of the run. It keeps a choice open until what it depends on has been learned."""

    def replayed(self, fraction: float) -> float:
        """The weight of imitation when ``fraction`` of the run is done."""
        return self.replay * max(1.0 - 2.0 * fraction, 0.0)


class RewardConfig(Frozen):
    """What a row is worth. Every level earns the team's outcome; the other terms are its own."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    cost: Annotated[float, Field(ge=0.0)] = 0.03
    """A success is worth 1 minus this times the episode's cost."""
    format: Annotated[float, Field(ge=0.0)] = 0.0
    """Added for a row whose turns were all legal calls and that answered within its budgets."""
    own: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Share of a sub-agent's reward that is its own answer's correctness, where that can be verified, less the price of
    its own calls."""
    own_cost: Annotated[float, Field(ge=0.0)] | None = None
    """The price of its own calls in that share; null: the same as ``cost``. Where a dear tool is always right and a
    free one often, a low price lets the dear one crowd out the other before it is learned when that will do."""
    invalid: Annotated[float, Field(ge=0.0)] = 0.01
    """Subtracted once for each own turn that was no legal call, at that turn where turns have rewards."""


class CostPhaseConfig(Frozen):
    """After success, thrift: a higher price of calls in the last part of a run."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    begin: Annotated[float, Field(ge=0.0, le=1.0)] = 1.0
    """Part of the run after which it begins; 1: never."""
    cost: Annotated[float, Field(ge=0.0)] = 0.15
    """Replaces ``reward.cost``."""


class StoreConfig(Frozen):
    """Decoupled updates: rows of sub-agents go through a store before their learner takes them."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    file: Path | None = None
    """An SQLite file that two processes share; null: a store in this process, which resumes exactly."""
    side: Literal["main", "sub"] = "main"
    """With a file: main plays the episodes and trains the first role, sub trains the others."""
    batches: Annotated[int, Field(ge=1, le=1000)] = 1
    """Batches of the store that one update of a sub-agent takes."""
    capacity: Annotated[int, Field(ge=1, le=100_000)] = 64
    """Batches per sub-agent that wait at most; older ones are dropped and counted."""
    lag: Annotated[int, Field(ge=0)] = 4
    """Batches that may wait before main waits for a living sub."""
    patience_seconds: Positive = 60.0
    """Silence after which the other side is taken as gone."""


class KlConfig(Frozen):
    """A price for leaving the reference: the policy that reinforcement began with."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    weight: Annotated[float, Field(ge=0.0)] = 0.0
    """Of the divergence from the reference; 0: no reference is kept."""
    place: Literal["loss", "reward"] = "loss"
    """In the loss, as a mean over tokens beside the surrogate; or off the reward of each turn, summed over its tokens,
    before advantages are computed."""
    estimator: Literal["k1", "k2", "k3"] = "k3"
    """Of log-ratios d: k1 is d, k2 is d^2 / 2, k3 is exp(-d) - 1 + d. In the loss k1 has no gradient on average."""


class LanguageConfig(Frozen):
    """Options of all language systems."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    policy: PolicyConfig = TinyPolicyConfig()
    """Who speaks, unless ``roles`` says otherwise."""
    sharing: Literal["all", "level", "role"] = "level"
    """Which roles share weights: all of them, those at the same depth of the hierarchy, or none."""
    roles: dict[str, PolicyConfig] = Field(default_factory=dict)
    """Roles that are played by something else."""
    frozen: tuple[str, ...] = ()
    """Roles that do not learn."""
    group: Annotated[int, Field(ge=1)] = 8
    """Rollouts G of the same task; ``copies`` divided by it is the number of tasks per update."""
    rate: Positive = 7e-4
    """Learning rate of reinforcement."""
    warmup: Annotated[int, Field(ge=0)] = 10
    """Updates until the learning rate is reached."""
    anneal: bool = True
    """Let the learning rate fall linearly to zero over the run."""
    max_grad_norm: Positive = 1.0
    """Gradients are clipped to this norm."""
    epochs: Annotated[int, Field(ge=1, le=100)] = 1
    """Gradient steps per batch. With one, the ratio to the sampling policy is taken as 1: ``learn/log_ratio_max_*``
    tells how far from that it was."""
    clip: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.2
    """How far the ratio to the sampling policy may leave 1 before it gives no gradient any more."""
    clip_low: Annotated[float, Field(gt=0.0, lt=1.0)] | None = None
    """How far it may fall; null: as far as ``clip`` says."""
    clip_high: Positive | None = None
    """How far it may rise; null: as far as ``clip`` says."""
    kl: KlConfig = KlConfig()
    """A price for leaving the policy that reinforcement began with."""
    temperature: Positive = 1.0
    """Of sampling while training."""
    greedy: bool = True
    """Say the most probable tokens when evaluated by ``marl evaluate``, instead of sampling."""
    scale: Positive | None = None
    """Divide advantages by this constant instead of the group's standard deviation."""
    loss: Literal["token", "turn"] = "token"
    """Mean over all tokens; or over rows, of the mean over turns, of the mean over tokens."""
    reward: RewardConfig = RewardConfig()
    cost_phase: CostPhaseConfig = CostPhaseConfig()
    warm_start: WarmStartConfig = WarmStartConfig()
    store: StoreConfig | None = None
    """A store between the learners of planner and sub-agents; null: they learn together."""
    traces: Annotated[int, Field(ge=0)] = 0
    """Write the rows of every so many updates to ``traces/`` in the run's folder; 0: none."""
    tree_tokens: Annotated[int, Field(ge=16)] = 112
    """Tokens of one tree of sequences that share beginnings; changes speed, not the result."""
    pass_tokens: Annotated[int, Field(ge=16)] = 4096
    """Tokens whose gradient is computed at once; changes speed and memory, not the result."""

    @model_validator(mode="after")
    def _known(self) -> LanguageConfig:
        if self.cost_phase.begin < 1.0 and self.cost_phase.cost < self.reward.cost:
            raise ValueError("cost_phase.cost is less than reward.cost: make calls dearer in the last phase")
        return self

    @property
    def clips(self) -> tuple[float, float]:
        """How far the ratio may fall and rise."""
        low, high = self.clip_low, self.clip_high
        return self.clip if low is None else low, self.clip if high is None else high

    def kl_in(self, place: Literal["loss", "reward"]) -> bool:
        """Whether the divergence from a reference has a price there."""
        return self.kl.weight > 0.0 and self.kl.place == place

    def cost_weight(self, fraction: float) -> float:
        """The price of calls when ``fraction`` of the run is done."""
        return self.cost_phase.cost if fraction >= self.cost_phase.begin else self.reward.cost


class Advantages(NamedTuple):
    """What a recipe makes of a batch.

    turn: float ``[U]``, per turn. weight: float ``[R]``, how often each row counts. figures: to be logged.
    token: instead of ``turn``, each row's advantages at its own tokens. row: float ``[R]``, what a loss of its own
    compares whole rows by, those of a question and an agent with each other (``Tokens.value``).
    """

    turn: Tensor
    weight: Tensor
    figures: Mapping[str, float]
    token: Sequence[Tensor] | None = None
    row: Tensor | None = None


class Values(Protocol):
    """A critic that learns from a batch as it judges it."""

    def advantages(self, batch: TokenBatch, now: Tensor, at_end: Tensor) -> tuple[list[Tensor], dict[str, float]]:
        """Advantages of each row's own tokens, and figures.

        Args:
            now: float ``[U]``, earned at once by each turn.
            at_end: float ``[R]``, earned at the end of each row.
        """


class Scoring(Protocol):
    """Asks the present weights without gradients (``marl.systems.language.scores.Scores``)."""

    def score(self, rows: Sequence[tuple[str, TokenRow]]) -> list[Tensor]:
        """Log-probabilities of the learned tokens of rows, each with the role whose weights are meant."""

    def spell(self, text: str) -> tuple[int, ...]:
        """The ids of a text."""


#: What a recipe remembers from update to update, by name; part of a run's state.
Memory = dict[str, Tensor]


@dataclass(frozen=True)
class Context:
    """What an advantage may depend on beside the batch.

    fraction: the part of the run that is done. key: of random choices. critic: where the options have one. memory: to
    be read and written. models: to be asked.
    """

    fraction: float
    key: int
    critic: Values | None = None
    memory: Memory = field(default_factory=dict)
    models: Scoring | None = None


#: (batch, options, context) -> advantages: what makes a recipe.
AdvantageFunction = Callable[[TokenBatch, "LanguageConfig", Context], Advantages]


class Player(Protocol):
    """Plays the episodes that a system learns from (``marl.rollout.language.turns.TurnPlayer``)."""

    def play(self, seeds: Sequence[int], key: int, groups: Sequence[int]) -> list[Episode]:
        """Episodes of the tasks that seeds choose; key: of all sampling. groups: which ones share a task."""

    def close(self) -> None:
        """Close the worlds."""


#: (makes an environment, role -> policy, options) -> the player of a system.
PlayerFactory = Callable[[Callable[[], LanguageEnv], Mapping[str, LanguagePolicy], "LanguageConfig"], Player]


def rollouts(make: Callable[[], LanguageEnv], policies: Mapping[str, LanguagePolicy], config: LanguageConfig) -> Player:
    """Independent episodes, one per seed."""
    return TurnPlayer(make, policies)


#: (tokens, options, memory of the unit) -> a scalar, a sum over tokens that the normaliser divides afterwards.
RecipeLoss = Callable[[Tokens, "LanguageConfig", Memory], Tensor]


@dataclass(frozen=True)
class LanguageRecipe:
    """A language system's parts.

    advantages: of its rows. entry_only: only the first role learns. player: plays its episodes. loss: of its tokens,
    given the options and a memory for each unit; None: the clipped surrogate and, where asked for, the divergence from
    the reference. reference: its loss needs the weights that reinforcement began with.
    """

    advantages: AdvantageFunction
    entry_only: bool = False
    player: PlayerFactory = rollouts
    loss: RecipeLoss | None = None
    reference: bool = False
