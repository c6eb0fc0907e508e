"""An exported graph decides as ``act`` does: over 1,000 observations of every kind of policy."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from random_policies import untrained
from spaces_scenario import CASES, SpacesConfig
from tiny_scenario import tiny_config

import marl
from marl import api
from marl.cli import main
from marl.config import resolve
from marl.coordination.pipeline import Pipeline
from marl.envs.native import choices, flat_mask, native_mask
from marl.errors import UserError
from marl.policies.joint import noise
from marl.scenario import load_scenario
from marl.seeding import Stream, fold, fold_int, standard_normal
from marl.systems.registry import load_system
from marl.training.export import Graph
from marl.training.policy import LearnedPolicy

REPO = Path(__file__).parents[3]
OBSERVATIONS = 1000

if any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")):
    if "CI" in os.environ:
        raise ImportError("continuous integration installs the extra 'onnx'")
    pytest.skip("the extra 'onnx' is not installed", allow_module_level=True)

import onnxruntime  # noqa: E402 - there only with the extra


def shown(space: spaces.Space[Any], name: str, observation: Any, out: dict[str, Any]) -> dict[str, Any]:
    if isinstance(observation, dict):
        for key, part in observation.items():
            shown(space, f"{name}.{key}", part, out)
    else:
        out[name] = np.asarray(observation)
    return out


def compare(policy: LearnedPolicy, graphs: list[Graph]) -> tuple[int, float]:
    """How many actions were compared, and the largest difference between numbers of the graphs and of ``act``.

    Observations are random members of what agents see; memories go on from call to call.
    """
    config = policy.config
    env = load_scenario(config.scenario).make(config.world, 1, torch.device("cpu"))
    space = Pipeline(env, config.coordination).observation_space
    masks = env.reset(0).action_mask
    draw = np.random.default_rng(0)
    count, worst = 0, 0.0
    for graph in graphs:
        session = onnxruntime.InferenceSession(graph.path)
        assert [port.name for port in graph.inputs] == [port.name for port in session.get_inputs()]
        slots = [env.spec.agents.index(agent) for agent in graph.agents]
        group = next(name for name, members in env.spec.groups.items() if slots[0] in members)
        acts, seen_space = env.spec.action_space[group], _unpacked(space[group])
        seen_space.seed(1)
        members = [env.spec.agents[index] for index in env.spec.groups[group]]
        policy.reset()
        hidden: dict[str, Any] = {}
        for call in range(-(-OBSERVATIONS // len(graph.agents))):
            observations = {agent: seen_space.sample() for agent in graph.agents}
            infos: dict[str, dict[str, Any]] = {agent: {"key": 1000 * call} for agent in graph.agents}
            if masks is not None and (not isinstance(masks, dict) or group in masks):
                for agent in graph.agents:
                    parts = [draw.random(n) < 0.6 for n in choices(acts)]
                    for part in parts:
                        part[draw.integers(len(part))] = True
                    infos[agent]["action_mask"] = native_mask(np.concatenate(parts), acts)
            expected = policy.act(observations, infos)
            feed = _feed(graph, observations, infos, acts, members, env.spec.agents, hidden, call)
            answers = session.run(None, feed)
            if len(answers) > 1:
                hidden["before"] = answers[1]
            for row, agent in enumerate(graph.agents):
                difference = np.abs(np.asarray(answers[0][row], float) - np.asarray(expected[agent], float)).max()
                worst, count = max(worst, float(difference)), count + 1
    env.close()
    return count, worst


def _feed(
    graph: Graph, observations: Any, infos: Any, acts: Any, members: Any, every: Any, hidden: Any, call: int
) -> dict[str, Any]:
    rows = [shown(None, "observation", observation, {}) for observation in observations.values()]  # type: ignore[arg-type]
    feed = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
    for port in graph.inputs:
        n = len(rows)
        if port.name == "action_mask":
            feed[port.name] = np.stack([flat_mask(info["action_mask"], acts) for info in infos.values()])
        elif port.name == "hidden":
            feed[port.name] = hidden.get("before", np.zeros((n, *port.shape[1:]), np.float32))
        elif port.name == "agent":
            feed[port.name] = np.array([members.index(agent) for agent in observations])
        elif port.name in ("uniform", "normal"):
            key = torch.tensor(fold_int(1000 * call, Stream.POLICY))
            keys = fold(key, torch.tensor([every.index(agent) for agent in observations]))
            drawn = noise(keys, tuple(int(width) for width in port.shape[1:]))
            feed[port.name] = (standard_normal(drawn) if port.name == "normal" else drawn).numpy()
        feed[port.name] = feed[port.name].astype(port.dtype)
    return feed


def _unpacked(space: Any) -> spaces.Space[Any]:
    if isinstance(space, spaces.Dict):
        return spaces.Dict({key: _unpacked(part) for key, part in space.spaces.items()})
    return space.unpacked() if hasattr(space, "unpacked") else space


TINY: dict[str, dict[str, Any]] = {
    "recurrent, by place": {
        "world": {"agents": 50},
        "algorithm": {"agent_index": True, "actor": {"recurrent": "gru"}},
    },
    "two groups, masks": {"world": {"unlike": True, "masks": True, "agents": 50}},
    "windows": {
        "world": {"observation": "dict", "agents": 50},
        "algorithm": {"actor": {"encoder": "cnn", "layer_norm": True}},
    },
    "packed windows": {"world": {"observation": "dict", "agents": 50}},
    "continuous": {"world": {"continuous": True, "agents": 50}},
    "one network each": {"world": {"agents": 2}, "algorithm": {"sharing": "none"}},
}


SAMPLED = ("recurrent, by place", "two groups, masks", "continuous")


@pytest.mark.parametrize(("name", "greedy"), [*((name, True) for name in TINY), *((name, False) for name in SAMPLED)])
def test_tiny_worlds(tmp_path: Path, name: str, greedy: bool) -> None:
    sections = {**TINY[name], "algorithm": {**TINY[name].get("algorithm", {}), "greedy": greedy}}
    policy = untrained(tiny_config(**sections), tmp_path / "run")
    graphs = api.export(str(tmp_path / "run"), tmp_path / "policy.onnx")
    assert len(graphs) == (2 if name in ("two groups, masks", "one network each") else 1)
    count, worst = compare(policy, graphs)
    assert count >= 1000 * len(graphs) and worst <= 1e-6


KINDS = {
    "start": (spaces.Dict({"a": spaces.Discrete(3, start=1), "b": spaces.MultiBinary(2)}), spaces.Discrete(4, start=2)),
    "several choices": (spaces.MultiDiscrete([2, 3]), spaces.MultiDiscrete([[2, 3], [4, 2]], start=[[1, 0], [0, 5]])),
    "bounds": (spaces.Box(0, 255, (9, 8, 3), np.uint8), spaces.Box(0.0, 1.0, (2, 2), np.float32)),
    "yes or no": (spaces.Box(-1, 1, (2,), np.float32), spaces.MultiBinary((2, 2))),
}


@pytest.mark.parametrize("name", KINDS)
def test_spaces(tmp_path: Path, name: str) -> None:
    case = len(CASES)
    masks = "none" if isinstance(KINDS[name][1], spaces.Box) else "infos"
    CASES[case] = (*KINDS[name], masks)
    layers = {
        "scenario": "spaces_scenario:SPACES",
        "system": "ippo",
        "total_steps": 1000,
        "copies": 2,
        "world": {"case": case},
        "coordination": {"guidance": {"enabled": False}},
        "algorithm": {"greedy": name != "several choices", "actor": {"encoder": "cnn" if name == "bounds" else "mlp"}},
    }
    policy = untrained(resolve(SpacesConfig, load_system("ippo").config, [layers]), tmp_path / "run", spread=0.1)
    graphs = api.export(str(tmp_path / "run"), tmp_path / "policy.onnx")
    assert len(graphs) == 2
    count, worst = compare(policy, graphs[:1])
    assert count >= 1000 and worst <= 1e-6


def test_a_shipped_policy_by_the_command_and_the_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (REPO / "docs" / "export.md").read_text("utf-8")
    assert f"opset {api.OPSET}" in page
    (command,) = re.findall(r"```console\nmarl (.*)\n```", page)
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(command)) == 0
    said = capsys.readouterr().out
    assert f"opset {api.OPSET}" in said and "in  observation.path: uint8 [n, 1, 11, 11]" in said
    assert "out action: int64 [n]" in said
    ((name, code),) = re.findall(r"```python\n# file: (\S+)\n(.*?)```", page, re.DOTALL)
    assert len(code.strip().splitlines()) <= 13  # ten lines and the imports
    (tmp_path / name).write_text(code, "utf-8")
    done = subprocess.run(
        [sys.executable, name],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(REPO), os.environ.get("PYTHONPATH", "")])},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0 and "throughput" in done.stdout, done.stderr


@pytest.mark.parametrize("name", ["lifelong_mapf/follower", "lifelong_mapf/scorer-safety", "cav_merging/hard-safety"])
def test_shipped_policies(tmp_path: Path, name: str) -> None:
    graphs = api.export(name, tmp_path / "policy.onnx")
    policy = marl.load(name.removesuffix("-safety"))
    assert isinstance(policy, LearnedPolicy)
    count, worst = compare(policy.supervised(False), graphs)
    assert count >= 1000 and worst == 0.0


def test_what_has_no_graph_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"\(coordination\.safety\): export hard-safety, without its supervisor"):
        api.export("cav_merging/hard", tmp_path / "a.onnx")
    with pytest.raises(UserError, match="speaks: an ONNX graph decides by numbers"):
        api.export("agent_hierarchy/quick", tmp_path / "a.onnx")
    with pytest.raises(UserError, match=r"cannot be written"):
        api.export("cav_merging/hard-safety", tmp_path / "none" / "a.onnx")
    monkeypatch.setattr("marl.training.export.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"the package 'onnx' is needed: pip install 'marl-platform\[onnx\]'"):
        api.export("cav_merging/hard-safety", tmp_path / "a.onnx")
