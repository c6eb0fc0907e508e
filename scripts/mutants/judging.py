"""Whether a test notices a mutant. Each is tried in a fork of a process that has imported the libraries already."""

from __future__ import annotations

import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import resource
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import CodeType
from typing import Literal

from scripts.mutants.mutations import Mutant

Verdict = Literal["killed", "survived", "unreached"]

#: Imported before the forks; nothing of ours, which a mutant may be part of.
_HEAVY = (
    "torch",
    "numba",
    "numpy",
    "pydantic",
    "gymnasium",
    "pettingzoo",
    "pytest",
    "hypothesis",
    "safetensors.torch",
    "networkx",
    "yaml",
    "rich.console",
    "typer",
    "matplotlib",
)
#: CPU-seconds beyond which a mutant runs forever, as a multiple of what its tests take.
_PATIENCE, _LEAST_S = 5.0, 60


def prepare() -> None:
    """Import what all forks need."""
    for name in _HEAVY:
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)


def judge(repo: Path, mutant: Mutant, source: str, tests: Sequence[str], seconds: float) -> Verdict:
    """Run tests on a mutant until one fails.

    Args:
        repo: the repository's root.
        mutant: what is changed.
        source: the changed file.
        tests: that reach it.
        seconds: of CPU time that they take without it.
    """
    if not tests:
        return "unreached"
    for part in stages(mutant.path, tests):
        child = os.fork()
        if child == 0:
            _try(repo, mutant, source, part, seconds)
        if _exit_code(child, _PATIENCE * max(_LEAST_S, _PATIENCE * seconds)) != 0:
            return "killed"
    return "survived"


def _exit_code(child: int, patience_s: float) -> int:
    """Of a fork; one that waits forever is ended, and so is whatever it left behind.

    Args:
        child: the fork's number.
        patience_s: seconds of the clock, for a fork that waits and so spends no CPU time.
    """
    ended, until = 0, time.monotonic() + patience_s
    status = int(signal.SIGKILL)
    while not ended and time.monotonic() < until:
        ended, status = os.waitpid(child, os.WNOHANG)
        if not ended:
            time.sleep(0.02)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if not ended:
        _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def stages(path: str, tests: Sequence[str]) -> list[list[str]]:
    """Tests of the two files most likely to kill, and the others: to import all of them costs more than most tests.

    Args:
        path: of the mutated file; tests that are named after it come first, then files with many of the tests.
        tests: that reach the line.
    """
    files = Counter(test.partition("::")[0] for test in tests)
    stem = path.rpartition("/")[2].removesuffix(".py")
    likely = sorted(files, key=lambda file: (f"test_{stem}.py" not in file, -files[file], file))[:2]
    near = [test for test in tests if test.partition("::")[0] in likely]
    return [part for part in (near, [test for test in tests if test not in near]) if part]


def _try(repo: Path, mutant: Mutant, source: str, tests: Sequence[str], seconds: float) -> None:
    """The fork's life: never returns."""
    code = 1
    try:
        os.setsid()
        limit = int(max(_LEAST_S, _PATIENCE * seconds))
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        silent = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(silent, stream)
        os.chdir(repo)
        sys.path.insert(0, str(repo))
        sys.dont_write_bytecode = True
        name = mutant.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        sys.meta_path.insert(0, _Changed(name, repo / mutant.path, source))
        import pytest

        code = int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "--no-header", *tests]))
    finally:
        os._exit(code)


class _Changed(importlib.abc.MetaPathFinder):
    """Finds one module, with another source than its file has."""

    def __init__(self, name: str, path: Path, source: str):
        self._name, self._path, self._source = name, path, source

    def find_spec(self, name: str, path: object = None, target: object = None) -> importlib.machinery.ModuleSpec | None:
        if name != self._name:
            return None
        loader = _Loader(name, str(self._path), self._source)
        inside = [str(self._path.parent)] if self._path.name == "__init__.py" else None
        return importlib.util.spec_from_file_location(
            name, self._path, loader=loader, submodule_search_locations=inside
        )


class _Loader(importlib.machinery.SourceFileLoader):
    def __init__(self, name: str, path: str, source: str):
        super().__init__(name, path)
        self._source = source

    def get_code(self, fullname: str) -> CodeType | None:
        return compile(self._source, self.path, "exec", dont_inherit=True)
