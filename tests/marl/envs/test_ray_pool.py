"""Pools of Ray actors: the same bits as processes, dead nodes and faults replaced and counted once.

Needs the extra ``ray``. The cluster has two nodes on this machine.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from simulators import Asked, Counter, Herd, NeverStarts

from marl import api
from marl.envs import ray_pool
from marl.envs.foreign import from_parallel
from marl.envs.pools import make_pool
from marl.envs.random_play import random_actions
from marl.envs.ray_pool import RayPool
from marl.errors import UserError
from marl.testing.tensors import first_difference

ray = pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A head, and nodes that tests add and remove."""
    from ray.cluster_utils import Cluster

    # A node that is gone is noticed after three missed beats, and a busy one is not taken for it.
    beats = {"health_check_period_ms": 1000, "health_check_timeout_ms": 5000, "health_check_failure_threshold": 3}
    head = {"num_cpus": 1, "include_dashboard": False, "_system_config": beats}
    made = Cluster(initialize_head=True, head_node_args=head)
    ray.init(made.address, log_to_driver=False, logging_level="ERROR")
    yield made
    ray.shutdown()
    made.shutdown()


@pytest.fixture
def pool(cluster: Any) -> Iterator[RayPool]:
    pool = RayPool(Counter, 5, 2)
    pool.seeds[:] = np.arange(5) + 100
    pool.reset()
    yield pool
    pool.close()
    pool.close()


def test_results_are_those_of_processes(pool: RayPool) -> None:
    assert pool.layout.info == "counter" and pool.pids == []
    for step in range(1, 4):
        pool.actions[:] = [[step, 1], [0, step], [2, 2], [step, step], [1, 0]]
        assert not pool.step().any()
    assert pool.outputs["sum"].tolist() == [9.0, 6.0, 12.0, 12.0, 3.0]
    assert not pool.reset(np.array([False, True, False, False, False])).any()
    pool.actions[:] = 1
    pool.step(np.array([False, True, True, False, False]))
    assert pool.outputs["sum"].tolist() == [9.0, 2.0, 14.0, 12.0, 3.0]
    assert pool.outputs["seed"].tolist() == [100, 101, 102, 103, 104] and pool.restarts == 0
    assert [state.copies for state in pool.states()] == [3, 2]
    assert all(socket.gethostname() in state.place for state in pool.states())


def test_a_fault_is_replaced_and_one_that_comes_back_is_an_error(pool: RayPool) -> None:
    pool.actions[:, 0] = [1, 1, 1, -3, 1]
    assert [pool.step().tolist() for _ in range(3)] == [[False, False, False, True, True]] * 3
    assert pool.restarts == 3 and [state.replaced for state in pool.states()] == [0, 3]
    with pytest.raises(UserError, match=r"worker 1 failed 4 times in a row.*no such action.*\[103, 104\]"):
        pool.step()
    with pytest.raises(RuntimeError, match="closed"):
        pool.step()


@pytest.mark.parametrize("fault", [-1, -2])
def test_who_dies_or_hangs_is_replaced(cluster: Any, fault: int) -> None:
    pool = RayPool(Counter, 2, 2, timeout_s=3.0)
    try:
        pool.reset()
        pool.actions[:] = [[1, 1], [fault, 1]]
        pool.seeds[:] = 7
        assert pool.step().tolist() == [False, True] and pool.restarts == 1
        pool.actions[:] = 1
        assert not pool.step().any()
        assert pool.outputs["sum"].tolist() == [4.0, 2.0] and pool.outputs["seed"].tolist() == [0, 7]
    finally:
        pool.close()


def test_a_dead_node_costs_the_episodes_on_it_once(cluster: Any) -> None:
    """The second worker's node is removed in mid-episode; a new actor on the other node goes on with new episodes."""
    node = cluster.add_node(num_cpus=8)
    cluster.wait_for_nodes()
    pools: list[RayPool] = []
    try:
        pool = RayPool(Counter, 4, 2)
        pools.append(pool)
        pool.seeds[:] = np.arange(4)
        pool.reset()
        pool.actions[:] = 1
        pool.step()
        on_it = [_is_on(pool, worker, node) for worker in (0, 1) for _ in (0, 1)]
        assert sorted(on_it) == [False, False, True, True]
        gone = [_process(pool, worker) for worker in (0, 1) if on_it[2 * worker]]
        cluster.remove_node(node, allow_graceful=False)
        for process in gone:  # Ray takes away the node's own process only; where the power fails, all are gone
            os.kill(int(process.name), signal.SIGKILL)
        pool.seeds[:] = np.arange(4) + 10
        lost = pool.step().tolist()
        assert lost == on_it and pool.restarts == 1
        assert not pool.step().any() and pool.restarts == 1
        assert pool.outputs["sum"].tolist() == [2.0 if away else 6.0 for away in on_it]
        assert pool.outputs["seed"].tolist() == [10 + k if away else k for k, away in enumerate(on_it)]
    finally:
        for pool in pools:
            pool.close()


def _process(pool: RayPool, worker: int) -> Path:
    return Path("/proc") / pool.states()[worker].place.rpartition(" ")[2]


def _is_on(pool: RayPool, worker: int, node: Any) -> bool:
    """Whether a worker's process belongs to a node: its raylet is the process's parent."""
    parent = int((_process(pool, worker) / "stat").read_text("utf-8").rpartition(")")[2].split()[1])
    return parent in [process.process.pid for process in node.all_processes["raylet"]]


def test_a_world_is_the_same_to_the_last_bit(cluster: Any) -> None:
    worlds = [from_parallel(Herd, 2, workers=1, where=where) for where in ("processes", "ray")]
    every = torch.arange(2)
    try:
        views = [world.reset(5) for world in worlds]
        for _ in range(40):
            assert first_difference(*views, worlds[0].spec, every, every) is None
            actions = random_actions(worlds[0], views[0])
            views = [world.step(actions) for world in worlds]
    finally:
        for world in worlds:
            world.close()


def test_inputs_of_questions_travel(cluster: Any) -> None:
    pool = RayPool(Asked, 3, 1)
    try:
        pool.inputs["x"][:] = [1, 2, 3]
        pool.ask("why")
        assert pool.outputs["sum"].tolist() == [4.0, 5.0, 6.0]
    finally:
        pool.close()


@pytest.mark.skipif(importlib.util.find_spec("libsumo") is None, reason="the extra 'sumo' is not installed")
def test_roads_in_sumo_are_the_same_to_the_last_bit(cluster: Any) -> None:
    every = torch.arange(1)
    worlds = [
        api.make("cav_merging", preset="medium", backend="sumo", workers=where, horizon=12)
        for where in ("processes", "ray")
    ]
    try:
        views = [world.reset(3) for world in worlds]
        for _ in range(14):
            assert first_difference(*views, worlds[0].spec, every, every) is None
            actions = random_actions(worlds[0], views[0])
            views = [world.step(actions) for world in worlds]
        assert [len(world.workers()) for world in worlds] == [1, 1]
    finally:
        for world in worlds:
            world.close()


# Mistakes


def test_what_cannot_be_sent_is_refused(cluster: Any) -> None:
    with pytest.raises(UserError, match="cannot be sent to Ray's nodes"):
        RayPool(lambda: Counter(), 1, 1)
    with pytest.raises(UserError, match="can be shared by 1 to 2 workers"):
        RayPool(Counter, 2, 3)


def test_unequal_versions_are_refused(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    own = ray_pool.versions()
    monkeypatch.setattr(ray_pool, "versions", lambda: own | {"numpy": "1.0"})
    with pytest.raises(UserError, match=rf"has numpy {np.__version__} beside 1.0 here: install the same versions"):
        RayPool(Counter, 1, 1)


def test_a_simulator_that_does_not_start_is_told(cluster: Any) -> None:
    with pytest.raises(UserError, match="a simulator worker does not start: worker 0"):
        make_pool(NeverStarts, 1, 1, "ray")


def test_a_cluster_that_is_down_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UserError, match=rf"no Ray cluster answers at ray://127.0.0.1:{port}.*refused"):
        make_pool(Counter, 1, 1, f"ray://127.0.0.1:{port}")
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{port}")
    with pytest.raises(UserError, match=f"no Ray cluster answers at 127.0.0.1:{port}"):
        make_pool(Counter, 1, 1, "ray")


def test_nothing_is_left(cluster: Any) -> None:
    pool = RayPool(Counter, 1, 1)
    process = _process(pool, 0)
    assert process.exists()
    pool.close()
    deadline = time.monotonic() + 30.0
    while process.exists():
        assert time.monotonic() < deadline, f"{process} is still there"
        time.sleep(0.05)
