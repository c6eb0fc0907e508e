"""Which tests run which lines, and how long each takes: measured once for a state of the code, and kept."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from scripts.mutants.mutations import files_of, statements

#: Tests that may kill a mutant: quick ones of the same floors, and those of training that hold them together.
TESTS = (
    "tests/marl/learning",
    "tests/marl/systems",
    "tests/marl/coordination",
    "tests/marl/rollout",
    "tests/marl/policies",
    "tests/marl/training/test_trainer.py",
    "tests/marl/training/test_language_trainer.py",
    "tests/marl/training/test_language_store.py",
)
#: What holds all that is set when a module is imported, so that no line of a function tells of it.
IMPORTED = ("tests/marl/systems/test_options.py::test_defaults_and_bounds_are_those_of_the_file",)
#: CPU-seconds of a test; longer ones are left out.
LONGEST_S = 8.0


class Covering:
    """Tests by what they run.

    seconds: CPU time of each test that passed. lines: file -> line -> its tests; line 0 stands for the whole file.
    """

    def __init__(self, seconds: dict[str, float], lines: dict[str, dict[int, list[str]]]):
        self.seconds, self._lines = seconds, lines

    def tests(self, path: str, source: str, line: int, budget_s: float) -> list[str]:
        """Tests that reach a line, quickest first, until the budget is spent.

        Args:
            path: of the file, relative to the repository.
            source: of the file.
            line: that is changed; what runs any line of its statement counts.
            budget_s: CPU-seconds of all of them together.
        """
        of_file = self._lines.get(path, {})
        around = [(last - first, first, last) for first, last in statements(source) if first <= line <= last]
        _, first, last = min(around, default=(0, line, line))
        found = {test for number in range(first, last + 1) for test in of_file.get(number, ())}
        if not found:  # what runs when the module is imported
            found = set(of_file.get(0, ()))
            first_of_all = [test for test in IMPORTED if found and test in self.seconds]
        else:
            first_of_all = []
        chosen: list[str] = []
        spent = 0.0
        for test in [*first_of_all, *sorted(found - set(first_of_all), key=lambda test: (self.seconds[test], test))]:
            spent += self.seconds[test]
            if spent > budget_s and chosen:
                break
            chosen.append(test)
        return chosen


def measure(repo: Path, tests: Sequence[str], kept: Path) -> None:
    """Run tests under coverage in this process; files of tests that were run before on the same code are not repeated.

    Args:
        repo: the repository's root.
        tests: files and folders, relative to it.
        kept: where results are kept.
    """
    code = _hash(files_of(repo, ("marl",)))
    files = {file.relative_to(repo).as_posix(): _hash([file]) for file in files_of(repo, tests) if "test_" in file.name}
    known = json.loads(kept.read_text("utf-8")) if kept.exists() else {}
    if known.get("code") != code:
        known = {"code": code, "files": {}}
    stale = [name for name, mark in files.items() if known["files"].get(name, {}).get("mark") != mark]
    if stale:
        for name, found in _run(repo, stale).items():
            known["files"][name] = {"mark": files[name], **found}
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text(json.dumps(known), encoding="utf-8")


def measured(kept: Path) -> Covering:
    """What ``measure`` has kept."""
    files = json.loads(kept.read_text("utf-8"))["files"].values()
    seconds: dict[str, float] = {}
    lines: dict[str, dict[int, list[str]]] = {}
    for file in files:
        seconds |= file["seconds"]
        for path, by_test in file["lines"].items():
            of_file = lines.setdefault(path, {})
            for test, numbers in by_test.items():
                for number in (0, *numbers):
                    of_file.setdefault(number, []).append(test)
    return Covering(seconds, lines)


def _hash(files: Sequence[Path]) -> str:
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


def _run(repo: Path, files: Sequence[str]) -> dict[str, dict[str, Any]]:
    """File of tests -> ``seconds`` of each test, and ``lines``: path -> test -> the lines that it runs."""
    import coverage

    os.chdir(repo)
    seen = coverage.Coverage(data_file=None, include=[str(path) for path in files_of(repo)])
    recorder = _Recorder(seen)
    seen.start()
    pytest.main(["-q", "-p", "no:cacheprovider", "-m", "not learning and not anchors", *files], plugins=[recorder])
    seen.stop()
    found: dict[str, dict[str, Any]] = {name: {"seconds": {}, "lines": {}} for name in files}
    passed = {test for test in recorder.passed if recorder.seconds[test] <= LONGEST_S}
    for test in passed:
        found[test.partition("::")[0]]["seconds"][test] = recorder.seconds[test]
    data = seen.get_data()
    for path in data.measured_files():
        for line, contexts in data.contexts_by_lineno(path).items():
            for test in passed.intersection(contexts):
                of_file = found[test.partition("::")[0]]["lines"].setdefault(
                    Path(path).relative_to(repo).as_posix(), {}
                )
                of_file.setdefault(test, []).append(line)
    return found


class _Recorder:
    """A pytest plugin: tells coverage which test runs, and how much CPU time it takes."""

    def __init__(self, seen: Any):
        self._seen = seen
        self.seconds: dict[str, float] = {}
        self.passed: set[str] = set()

    @pytest.hookimpl(hookwrapper=True)
    def pytest_runtest_protocol(self, item: Any, nextitem: Any) -> Iterator[None]:
        self._seen.switch_context(item.nodeid)
        began = time.process_time()
        yield
        self.seconds[item.nodeid] = time.process_time() - began
        self._seen.switch_context("")

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.when == "call" and report.passed:
            self.passed.add(report.nodeid)
