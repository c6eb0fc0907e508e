"""What is read from elsewhere, as targets for fuzzing: random and mutated files and texts for every reader.

A reader either accepts what it is given or refuses it with a ``UserError`` of one short line, within two seconds of CPU
time; anything else is a fault. ``test_fuzzing.py`` makes some tries of each, ``scripts/reproduce trust readers`` many.
"""

from __future__ import annotations

import io
import json
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from hypothesis import strategies as st
from tiny_scenario import tiny_config

from marl.config import dump
from marl.envs.chat import Turn
from marl.errors import UserError
from marl.policies.language.base import Request, Transcript
from marl.policies.language.openai import OpenAIPolicy
from marl.rollout.traces import read_traces
from marl.training import checkpoint
from marl.training.run_folder import CONFIG, read_config
from marl.training.tracking import read_metrics
from marl.yaml_io import read_yaml
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.graph import GRAPHS, load_graph
from scenarios.agent_hierarchy.hierarchy import Hierarchy
from scenarios.agent_hierarchy.tasks import read_tasks
from scenarios.agent_hierarchy.world import HierarchyEnv
from scenarios.cav_merging.sumo.networks import find_network, read_network
from scenarios.lifelong_mapf.maps.grid import GridMap
from scenarios.lifelong_mapf.maps.sources import load_maps
from scenarios.lifelong_mapf.maps.tasks import load_tasks

Reader = Callable[[Path, Any], None]
_CPU_S = 2.0
_LONGEST = 1000


class Target(NamedTuple):
    """tries: what is read. read: (an empty folder's path, a try) -> nothing, or ``UserError``."""

    name: str
    tries: st.SearchStrategy[Any]
    read: Reader


def attempt(target: Target, folder: Path, tried: Any) -> bool:
    """Whether the try was accepted. Raises what the reader must not raise, and ``AssertionError`` for bad refusals."""
    began = time.process_time()
    try:
        target.read(folder, tried)
        accepted = True
    except UserError as error:
        accepted = False
        text = str(error)
        assert "\n" not in text and len(text) < _LONGEST, text
    assert time.process_time() - began < _CPU_S, "it took too long"
    return accepted


# Tries

_ODD = [
    "\0",
    "\ufeff",
    "\x1b[2J",
    "\u2028",
    "\ud800",
    "é",
    "\u0663",
    "-",
    "1e999",
    "nan",
    "9" * 500,
    "[" * 3000,
    "{" * 3000,
]
_HARM = [
    "../../etc/passwd",
    "/dev/zero",
    "!!python/object/apply:os.system ['true']",
    '<!DOCTYPE a [<!ENTITY b "bbbbbbbb"><!ENTITY c "&b;&b;&b;">]>',
    '<!DOCTYPE a SYSTEM "file:///etc/passwd">',
    "&b;",
    "<![CDATA[",
    "<x " * 200,
    "*a",
    "&a [*a]",
    '"__proto__"',
    "os:system",
]


def mutated(*seeds: str) -> st.SearchStrategy[str]:
    """Texts near the seeds: pieces cut, doubled, put elsewhere, numbers changed, odd and harmful ones put in."""
    piece = st.sampled_from(_ODD + _HARM) | st.text(max_size=6) | st.integers().map(str)
    cut = st.tuples(st.integers(0, 10_000), st.integers(0, 10_000), piece, st.integers(0, 3))

    def apply(seed: str, cuts: list[tuple[int, int, str, int]]) -> str:
        for first, second, put, kind in cuts:
            begin, end = sorted((first % (len(seed) + 1), second % (len(seed) + 1)))
            end = min(end, begin + 40)
            middle = {0: put, 1: seed[begin:end] * 2, 2: "", 3: put + seed[begin:end]}[kind]
            seed = seed[:begin] + middle + seed[end:]
        return seed

    return st.builds(apply, st.sampled_from(seeds), st.lists(cut, min_size=1, max_size=5))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)


def file_of(*seeds: str) -> st.SearchStrategy[bytes]:
    """Contents of a text file: mutated seeds, random text, random bytes."""
    return st.one_of(
        mutated(*seeds).map(lambda text: text.encode("utf-8", "surrogatepass")),
        st.text(max_size=60).map(str.encode),
        st.binary(max_size=60),
    )


def json_file_of(seed: Any, keys: tuple[str, ...]) -> st.SearchStrategy[bytes]:
    """Contents of a JSON file: as ``file_of``, and right keys with wrong values."""
    wrong = st.dictionaries(st.sampled_from(keys), JSON, max_size=4).map(lambda value: json.dumps({**seed, **value}))
    return file_of(json.dumps(seed)) | wrong.map(str.encode)


# Readers


def _file(name: str, read: Callable[[Path], Any]) -> Reader:
    def reader(folder: Path, content: bytes) -> None:
        path = folder / name
        path.write_bytes(content)
        read(path)

    return reader


_GRID = GridMap.open_everywhere("open", np.zeros((4, 5), bool))
_MAP = "type octile\nheight 3\nwidth 4\nmap\n....\n.@T.\nG.S.\n"
_SET = 'one: |-\n  ..#\n  a.A\n"two": |-\n  .@.\n  $!.\n'
_LETTERS = "one: |-\n  a.A\n  .b.\n  #.B\n"
_SCEN = "version 1\n0\tm.map\t5\t4\t0\t0\t4\t3\t7\n1\tm.map\t5\t4\t1\t0\t2\t2\t3.4\n"
_TASKS = {"schema_version": 1, "map": "warehouse", "agents": [{"start": [0, 0], "goals": [[1, 2], [0, 0]]}]}
_QUESTIONS = {
    "knowledge": [["e1", "r1", "e2"]],
    "stale": [],
    "tasks": [{"question": "e1 r1", "answer": "e2", "plan": ["e1", "r1"]}],
}
_TRACES = json.dumps({"episode": 0, "agent": "planner", "messages": [], "ids": [1], "advantage": [0.5]}) + "\n"
_METRICS = "iteration,agent_steps,reward\n1,64,0.5\n2,128,\n"
_RUN = dump(tiny_config())
_CALLS = (
    "ask e1 r0 north",
    '{"name":"cache","arguments":{"relation":"r1","entity":"e2"}}',
    '<tool_call>{"name":"answer","arguments":{"text":"e1"}}</tool_call>',
    "compute add 3 4",
)


def _speak(_: Path, texts: list[str]) -> None:
    """Two worlds, one of which mends faulty calls."""
    for guard in (False, True):
        env = HierarchyEnv(Hierarchy(HierarchyConfig(guard=guard, graph="planner_workers")))
        env.reset(seed=1)
        for text in texts:
            if env.turn() is not None:
                env.step(text)


_REPLY = {
    "choices": [
        {
            "message": {"content": "w1", "tool_calls": [{"function": {"name": "ask", "arguments": '{"task": "e1"}'}}]},
            "token_ids": [5, 2],
            "logprobs": {"content": [{"logprob": -0.5}, {"logprob": -1.0}]},
        }
    ],
    "prompt_token_ids": [1, 2],
}


def _in_place(value: Any, path: tuple[str, ...], odd: Any) -> Any:
    """``value`` with ``odd`` where the path leads (lists: to their first item)."""
    if not path:
        return odd
    if isinstance(value, list):
        return [_in_place(value[0], path, odd)] if value else odd
    if isinstance(value, dict):
        return {**value, path[0]: _in_place(value.get(path[0]), path[1:], odd)}
    return odd


_PLACES = [
    ("choices",),
    ("choices", "message"),
    ("choices", "message", "content"),
    ("choices", "message", "tool_calls"),
    ("choices", "message", "tool_calls", "function"),
    ("choices", "message", "tool_calls", "function", "name"),
    ("choices", "message", "tool_calls", "function", "arguments"),
    ("choices", "token_ids"),
    ("choices", "logprobs"),
    ("choices", "logprobs", "content"),
    ("choices", "logprobs", "content", "logprob"),
    ("prompt_token_ids",),
]
_REPLIES = st.one_of(
    file_of(json.dumps(_REPLY)),
    st.builds(_in_place, st.just(_REPLY), st.sampled_from(_PLACES), JSON | mutated('{"task": "e1 r1"}')).map(
        lambda value: json.dumps(value).encode()
    ),
)


def _hear(_: Path, reply: bytes) -> None:
    """A server's reply; what it said is then written down as JSON, as the world and the traces do."""
    policy = OpenAIPolicy("http://localhost/v1", "m", retries=0)
    turn = Turn("planner", 0, None, 0, [{"role": "user", "content": "e1 r1"}], (), 0)
    request = Request(turn, Transcript(), 0)
    with mock.patch.object(urllib.request, "urlopen", lambda *_, **__: io.BytesIO(reply)):
        (said,) = policy.complete([request])
    assert said is None or isinstance(said, str)
    assert all(type(token) is int for token in request.transcript.ids)
    assert all(type(log_prob) is float for log_prob in request.transcript.log_probs)
    if said is not None:
        said.encode()


def _load_checkpoint(folder: Path, tried: tuple[bool, bool, bytes]) -> None:
    """manifest or tensors replaced; sealed: with checksums that match, as a forger would."""
    manifest, sealed, content = tried
    place = folder / "c"
    checkpoint.save(place, {"x": torch.zeros(4), "n": [1, 0.5, {"k": None}]}, {"step": 1})
    path = place / (checkpoint.MANIFEST if manifest else checkpoint.TENSORS)
    body = json.loads((place / checkpoint.MANIFEST).read_text())
    if manifest and content.startswith(b"{"):
        try:
            body.update(json.loads(content))
        except (ValueError, RecursionError):
            sealed = False
    if manifest and not sealed:
        path.write_bytes(content)
    else:
        if not manifest:
            path.write_bytes(content)
            digest = checkpoint.hashlib.sha256(content).hexdigest()
            body["files"][checkpoint.TENSORS] = {"bytes": len(content), "sha256": digest if sealed else "0"}
        body["sha256"] = checkpoint._checksum(body)
        (place / checkpoint.MANIFEST).write_text(json.dumps(body))
    checkpoint.load(place)


_HEADER = '{"000000":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}'
_SAFETENSORS = len(_HEADER).to_bytes(8, "little").decode("latin-1") + _HEADER + "\0" * 16
_MANIFESTS = json_file_of({}, ("format", "format_version", "info", "tree", "tensors", "files", "sha256")) | file_of(
    '{"tree": {"dict": [["x", {"tensor": "000000"}], ["n", {"list": [1, {"float": "0x1p0"}]}]]}}'
)
_CHECKPOINTS = st.tuples(st.just(True), st.booleans(), _MANIFESTS) | st.tuples(
    st.just(False),
    st.booleans(),
    mutated(_SAFETENSORS).map(lambda text: text.encode("latin-1", "replace")) | st.binary(max_size=60),
)


TARGETS = [
    Target("MovingAI map (.map)", file_of(_MAP), _file("m.map", lambda path: load_maps(str(path)))),
    Target("MovingAI scenario (.scen)", file_of(_SCEN), _file("s.scen", lambda path: load_tasks(str(path), _GRID))),
    Target("POGEMA map set (.yaml)", file_of(_SET), _file("p.yaml", lambda path: load_maps(str(path)))),
    Target(
        "letters of a POGEMA map",
        file_of("one: |-\n  a.A\n  .b.\n  #.B\n"),
        _file("p.yaml", lambda path: load_tasks(str(path))),
    ),
    Target(
        "path-finding tasks (.json)",
        json_file_of(_TASKS, ("schema_version", "map", "agents", "x")),
        _file("t.json", lambda path: load_tasks(str(path))),
    ),
    Target("configuration (.yaml)", file_of(_RUN), _file("c.yaml", read_yaml)),
    Target("run folder (config.yaml)", file_of(_RUN), _file(CONFIG, lambda path: read_config(path.parent))),
    Target("run folder (metrics.csv)", file_of(_METRICS), _file("metrics.csv", read_metrics)),
    Target(
        "road network (.net.xml)",
        file_of(find_network("merge").read_text()),
        _file("n.net.xml", read_network),
    ),
    Target(
        "questions (.json)",
        json_file_of(_QUESTIONS, ("knowledge", "stale", "tasks")),
        _file("q.json", read_tasks),
    ),
    Target(
        "role graph (.yaml)",
        file_of((GRAPHS / "planner_workers.yaml").read_text()),
        _file("g.yaml", lambda path: load_graph(str(path))),
    ),
    Target("agents' texts and tool calls", st.lists(mutated(*_CALLS) | st.text(max_size=40), max_size=8), _speak),
    Target("servers' replies (chat JSON)", _REPLIES, _hear),
    Target("checkpoint", _CHECKPOINTS, _load_checkpoint),
    Target("traces (.jsonl)", file_of(_TRACES), _file("t.jsonl", read_traces)),
]
