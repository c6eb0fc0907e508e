"""Scripts without ``if __name__ == "__main__":`` start worlds that have worker processes."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import subprocess
import sys
from pathlib import Path

import pytest
from simulators import Counter

from marl.envs.without_main import GUARD, check_guarded, needs_main, without_main

POOL = "from simulators import Counter\nfrom marl.envs.workers import WorkerPool\n"
RUN = "print('here')\npool = WorkerPool({}, 2, 1)\npool.reset()\npool.close()\n"


def ran(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    (folder / "owner.py").write_text(script)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run([sys.executable, str(folder / "owner.py")], env=environment, capture_output=True, text=True)


def test_a_script_without_a_guard_is_run_once(tmp_path: Path) -> None:
    done = ran(tmp_path, POOL + RUN.format("Counter"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "here\n", "")


def test_simulators_of_the_script_itself_need_the_guard(tmp_path: Path) -> None:
    own = "class Own(Counter):\n    pass\n"
    done = ran(tmp_path, POOL + own + RUN.format("Own"))
    *_, last = done.stderr.strip().splitlines()
    assert GUARD in last and "bootstrapping" not in done.stderr and done.stderr.count("Traceback") == 1
    guarded = "if __name__ == '__main__':\n" + "".join(f"    {line}\n" for line in RUN.format("Own").splitlines())
    done = ran(tmp_path, POOL + own + guarded)
    assert (done.returncode, done.stderr) == (0, "")


def test_main_is_hidden_for_as_long_as_it_is_not_needed() -> None:
    main = sys.modules["__main__"]
    with without_main(hidden=False):
        assert sys.modules["__main__"] is main
    with pytest.raises(KeyError), without_main(hidden=True):
        assert sys.modules["__main__"] is not main
        raise KeyError
    assert sys.modules["__main__"] is main
    assert not needs_main(pickle.dumps(Counter))


def test_a_worker_that_runs_the_script_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    check_guarded()
    monkeypatch.setattr(multiprocessing.current_process(), "_inheriting", True, raising=False)
    with pytest.raises(SystemExit):
        check_guarded()
