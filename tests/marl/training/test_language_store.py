"""Decoupled updates: a store in the process changes nothing, a shared one joins two processes and outlives either."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from test_language_trainer import equal, final_state, small

from marl.api import plan
from marl.config import AnyRunConfig
from marl.errors import UserError
from marl.rollout.language.store import SharedStore
from marl.systems.language.exchange import Exchange
from marl.training import checkpoint
from marl.training.run import resume, train
from marl.training.run_folder import METRICS
from marl.training.tracking import read_metrics


def quick(store: str | None, **overrides: Any) -> AnyRunConfig:
    """A scripted planner, so that there is always somebody who asks the searchers."""
    values = {
        "algorithm.warm_start.steps": 5,
        "algorithm.roles": "{planner: {kind: scripted}}",
        "total_steps": 1500,
        "world.max_turns": 8,
        **overrides,
    }
    return small(**values, **({} if store is None else {"algorithm.store": store}))


def test_a_store_in_the_process_changes_nothing(tmp_path: Path) -> None:
    plain = {"algorithm.roles": "{}", "algorithm.warm_start.steps": 30}
    with_store = final_state(train(quick("{}", **plain), tmp_path / "with", live=False))
    without = final_state(train(quick(None, **plain), tmp_path / "without", live=False))
    assert equal(with_store["algorithm"]["policy"], without["algorithm"]["policy"])
    assert with_store["algorithm"]["exchange"]["versions"]["level_1"] >= 1


def test_what_waits_in_it_is_part_of_a_resumed_run(tmp_path: Path) -> None:
    config = quick("{batches: 2}")
    run = train(config, tmp_path / "run", live=False)
    whole, store = final_state(run), checkpoint.CheckpointStore(run)
    waits = [row.get("learn/store_waiting_level_1", 0.0) for row in read_metrics(run / METRICS)]
    assert 1.0 in waits[:-2]
    keep = waits.index(1.0) + 1  # a batch waits in this checkpoint
    for step in store.steps():
        if step > keep:
            for file in store.path(step).iterdir():
                file.unlink()
            store.path(step).rmdir()
    resume(run, live=False)
    assert equal(whole, final_state(run))


def test_two_runs_of_one_second_are_two_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    claims: list[str] = []
    monkeypatch.setattr(Exchange, "claim", lambda self, run: claims.append(run))
    monkeypatch.setattr(time, "strftime", lambda form: "one second")
    for name in ("a", "b"):
        train(quick(f"{{file: {tmp_path / 'store.sqlite'}}}", total_steps=1), tmp_path / name, live=False)
    assert len(set(claims)) == 2


def test_main_goes_on_alone_and_sub_learns_what_is_left(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    main = train(quick(f"{{file: {file}, capacity: 2}}", total_steps=4000), tmp_path / "main", live=False)
    last = read_metrics(main / METRICS)[-1]
    assert last["agent_steps"] >= 4000 and last["learn/store_waiting_level_1"] == 2.0
    assert last["learn/store_dropped_level_1"] > 0.0 and last["learn/weights_version_level_1"] == 0.0
    saved = checkpoint.CheckpointStore(main)
    assert checkpoint.load(saved.path(saved.steps()[-1]))[1]["exact_resume"] is False
    sub = train(quick(f"{{file: {file}, side: sub}}"), tmp_path / "sub", live=False)
    rows = read_metrics(sub / METRICS)
    assert len(rows) == 2 and rows[0]["learn/grad_norm_level_1"] > 0.0
    ours, theirs = final_state(sub)["algorithm"]["policy"], final_state(main)["algorithm"]["policy"]
    assert not equal(ours["level_1"], theirs["level_1"])  # it learned, from what main had begun with
    with pytest.raises(UserError, match="belongs to another run"):
        train(quick(f"{{file: {file}}}"), tmp_path / "again", live=False)
    assert not (tmp_path / "again").exists()


def test_two_processes_and_one_that_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    options = quick(f"{{file: {file}}}", total_steps=10_000_000)
    (tmp_path / "main.yaml").write_text(json.dumps(options.model_dump(mode="json")))
    command = [sys.executable, "-m", "marl", "train", "agent_hierarchy", "--config", str(tmp_path / "main.yaml")]
    main = subprocess.Popen(
        [*command, "--out", str(tmp_path / "main")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path.cwd())},
    )

    def kill_once_both_learn() -> None:
        store = SharedStore(file)
        while main.poll() is None and store.newest("level_1", 2) is None:
            time.sleep(0.05)
        main.kill()

    killer = threading.Thread(target=kill_once_both_learn)
    killer.start()
    # The other side may take long to start on a busy machine; only afterwards is silence short.
    while not file.is_file() or SharedStore(file).newest("level_1", -1) is None:
        assert main.poll() is None
        time.sleep(0.05)
    config = quick(f"{{file: {file}, side: sub, patience_seconds: 4}}", total_steps=10_000_000)
    sub = train(config, tmp_path / "sub", live=False)
    killer.join()
    rows = read_metrics(sub / METRICS)
    assert len(rows) == final_state(sub)["algorithm"]["exchange"]["versions"]["level_1"] >= 3
    versions = [row.get("learn/weights_version_level_1", 0.0) for row in read_metrics(tmp_path / "main" / METRICS)]
    assert max(versions) >= 1.0  # main played with what sub had learned


def test_a_plan_leaves_the_file_alone(tmp_path: Path) -> None:
    assert plan(quick(f"{{file: {tmp_path / 'store.sqlite'}}}")).iterations > 0
    assert not (tmp_path / "store.sqlite").exists()


def test_roles_that_share_the_planner_s_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"set algorithm\.sharing"):
        train(quick("{}", **{"algorithm.sharing": "all", "algorithm.roles": "{}"}), tmp_path / "run", live=False)
