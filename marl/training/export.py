"""A learned policy as an ONNX graph, for programs without Python or torch.

The graph is what ``LearnedPolicy.act`` does between observations and actions as an environment has them: scaling of
what is seen, mask, memory, network, and the start, shape and bounds of actions.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from marl.coordination.pipeline import Pipeline
from marl.envs.batched import Tree
from marl.envs.native import choices
from marl.envs.spaces import BitWindow
from marl.errors import UserError
from marl.policies.heads import Gaussian
from marl.policies.joint import JointPolicy, Unit
from marl.scenario import load_scenario
from marl.training.policy import LearnedPolicy, is_greedy

#: Of the operators in the graphs; onnxruntime 1.16 and newer run it.
OPSET = 18
_PACKAGES = ("onnx", "onnxscript")
#: Rows of the example that is traced; a graph takes any number.
_ROWS = 2


@dataclass(frozen=True)
class Port:
    """One input or output of a graph: its name, its numpy dtype, and its shape, where ``n`` is the number of agents."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True)
class Graph:
    """A written graph: the file, whose decisions it makes, and what goes in and out."""

    path: Path
    agents: tuple[str, ...]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]


def export_onnx(policy: LearnedPolicy, path: Path, greedy: bool | None = None) -> list[Graph]:
    """Write a policy's graph; one for each of its networks, named after them, where there are several.

    Inputs, all with n rows: ``observation``, or ``observation.KEY`` of a Dict; ``action_mask`` (bool, all choices one
    after the other) where the world has masks; ``hidden`` where the policy has a memory, zeros at first; ``agent`` (the
    place in its group) where it looks at it; and, where actions are sampled, ``uniform`` in [0, 1) or ``normal``
    numbers. Outputs: ``action``, and ``next_hidden``.
    Raises ``UserError`` for policies that ask their world, for a missing package, and for networks that ONNX lacks.

    Args:
        policy: as ``marl.load`` returns it.
        path: of the file.
        greedy: the likeliest actions instead of sampled ones; None: as the policy is evaluated.
    """
    missing = [name for name in _PACKAGES if find_spec(name) is None]
    if missing:
        raise UserError(f"to export, the package '{missing[0]}' is needed: pip install 'marl-platform[onnx]'")
    coordination = policy.config.coordination
    asks = [name for name in ("safety", "intent") if getattr(coordination, name).enabled]
    if asks:
        mend = f"export {policy.name}-safety, without its supervisor" if asks == ["safety"] else "it cannot be exported"
        raise UserError(f"policy '{policy.name}' asks its world before it acts (coordination.{asks[0]}): {mend}")
    greedy = is_greedy(policy.config) if greedy is None else greedy
    scenario = load_scenario(policy.config.scenario)
    with closing(scenario.make(policy.config.world, 1, torch.device("cpu"))) as env:
        space = Pipeline(env, coordination).observation_space
        network = policy.network(env, space)
        masks = env.reset(0).action_mask
    masked = frozenset(masks if isinstance(masks, dict) else () if masks is None else env.spec.groups)
    graphs = []
    for unit in network.units:
        file = path if len(network.units) == 1 else path.with_name(f"{path.stem}-{unit.name}{path.suffix}")
        decision = _Decision(network, unit, space[unit.group], unit.group in masked, greedy)
        graphs.append(_written(decision, file, policy))
    return graphs


class _Decision(nn.Module):
    """One network's decisions as a function of named tensors, in the order of ``ports``."""

    def __init__(self, policy: JointPolicy, unit: Unit, space: spaces.Space[Any], masked: bool, greedy: bool):
        super().__init__()
        self.actor = policy.actor(unit)
        self._space, self._acts, self._greedy = space, policy.spec.action_space[unit.group], greedy
        self.agents = tuple(policy.spec.agents[index] for index in unit.index)
        self._size = len(policy.spec.groups[unit.group])
        self.ports = [*_seen_ports(space, "observation")]
        if masked:
            self.ports.append(Port("action_mask", "bool", ("n", sum(choices(self._acts)))))
        if policy.hidden_size(unit):
            self.ports.append(Port("hidden", "float32", ("n", policy.hidden_size(unit))))
        if policy.agent_index:
            self.ports.append(Port("agent", "int64", ("n",)))
        if not greedy:
            kind = "normal" if isinstance(self._acts, spaces.Box) else "uniform"
            self.ports.append(Port(kind, "float32", ("n", *_noise(self._acts))))
        self.outputs = [Port("action", np.dtype(self._acts.dtype).name, ("n", *(self._acts.shape or ())))]
        if policy.hidden_size(unit):
            self.outputs.append(Port("next_hidden", "float32", ("n", policy.hidden_size(unit))))

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        given = {port.name: tensor for port, tensor in zip(self.ports, tensors, strict=True)}
        seen = _observation(self._space, "observation", given)
        if "agent" in given:
            own = seen if isinstance(seen, dict) else {"observation": seen}
            seen = {**own, "agent_index": torch.eye(self._size)[given["agent"]]}
        head, hidden = self.actor(seen, given.get("hidden"), given.get("action_mask"))
        if self._greedy:
            action = head.mode()
        elif isinstance(head, Gaussian):
            action = head.mean + head.std * given["normal"]  # ONNX has no inverse error function
        else:
            action = head.sample(given["uniform"])
        native = _native(action, self._acts)
        return (native,) if hidden is None else (native, hidden)


def _noise(space: spaces.Space[Any]) -> tuple[int, ...]:
    """How many random numbers an action takes."""
    if isinstance(space, spaces.Discrete):
        return ()
    return (int(torch.Size(space.shape).numel()) if isinstance(space, spaces.Box) else len(choices(space)),)


def _seen_ports(space: spaces.Space[Any], name: str) -> Iterator[Port]:
    if isinstance(space, spaces.Dict):
        for key, part in space.spaces.items():
            yield from _seen_ports(part, f"{name}.{key}")
    else:
        shown = space.unpacked() if isinstance(space, BitWindow) else space
        yield Port(name, np.dtype(shown.dtype).name, ("n", *(shown.shape or ())))


def _observation(space: spaces.Space[Any], name: str, given: dict[str, Tensor]) -> Tree:
    if isinstance(space, spaces.Dict):
        return {key: _observation(part, f"{name}.{key}", given) for key, part in space.spaces.items()}
    return space.pack(given[name]) if isinstance(space, BitWindow) else given[name]


def _native(action: Tensor, space: spaces.Space[Any]) -> Tensor:
    """``marl.envs.native.to_native`` of n actions, as a graph."""
    if isinstance(space, spaces.Discrete):
        return action + int(space.start)
    shape = (-1, *(space.shape or ()))
    dtype = getattr(torch, np.dtype(space.dtype).name)
    if isinstance(space, spaces.MultiDiscrete):
        return (action.reshape(shape) + torch.from_numpy(np.asarray(space.start, np.int64))).to(dtype)
    if isinstance(space, spaces.Box):
        low, high = (torch.from_numpy(np.asarray(bound, space.dtype)) for bound in (space.low, space.high))
        return torch.minimum(torch.maximum(action.reshape(shape).to(dtype), low), high)
    return action.reshape(shape).to(dtype)


def _written(decision: _Decision, path: Path, policy: LearnedPolicy) -> Graph:
    inputs = tuple(torch.zeros(_ROWS, *port.shape[1:], dtype=getattr(torch, port.dtype)) for port in decision.ports)  # type: ignore[arg-type]  # only the first is "n"
    rows = torch.export.Dim("n", min=1, max=1 << 20)
    described = {
        "policy": policy.name,
        "scenario": policy.config.scenario,
        "system": policy.config.system,
        "agents": json.dumps(decision.agents),
    }
    try:
        with _quiet():
            program = torch.onnx.export(
                decision.eval(),
                inputs,
                dynamo=True,
                opset_version=OPSET,
                input_names=[port.name for port in decision.ports],
                output_names=[port.name for port in decision.outputs],
                dynamic_shapes=(tuple({0: rows} for _ in inputs),),
                verbose=False,
            )
            assert program is not None
            program.model.metadata_props.update(described)
            program.save(path, external_data=False)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    except torch.onnx.errors.OnnxExporterError as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise UserError(f"the network of policy '{policy.name}' has no ONNX graph: {reason[:200]}") from error
    return Graph(path, decision.agents, tuple(decision.ports), tuple(decision.outputs))


@contextmanager
def _quiet() -> Iterator[None]:
    """The exporter reports every pass; what goes wrong is raised."""
    loggers: Sequence[logging.Logger] = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
