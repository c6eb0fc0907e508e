"""The command lines of the documentation, and how a test may shorten them.

A line is run as it stands but for what ``shorten`` adds at its end: fewer steps and seeds, never another command.
The files that a line names as its reader's own are made by ``FILES``.
"""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from scenarios.cav_merging.sumo.networks import find_network

REPO = Path(__file__).parent.parent
#: Pages whose blocks another test runs as they stand.
ELSEWHERE = {
    "docs/export.md": "tests/marl/training/test_export.py",
    "docs/guides/own_model.md": "tests/test_guides.py",
    "docs/guides/own_task.md": "tests/test_guides.py",
    "docs/two_algorithms.md": "tests/test_docs.py",
    "docs/your_own.md": "tests/test_docs.py",
    "docs/your_own_modules.md": "tests/test_docs.py",
}
#: The number of command lines on each page with console blocks. A new line is counted here, and run by the test.
LISTED = {
    "README.md": 14,
    "docs/export.md": 1,
    "docs/guides/own_model.md": 2,
    "docs/guides/own_task.md": 3,
    "docs/two_algorithms.md": 3,
    "docs/your_own.md": 7,
    "docs/your_own_modules.md": 7,
    "scenarios/miniatures/README.md": 3,
    "scenarios/pettingzoo/README.md": 5,
    "scenarios/traffic_signals/README.md": 3,
    "scenarios/vmas_tasks/README.md": 3,
}
#: Scripts that install packages or run for minutes: read by bash, not run.
ONLY_READ = ("scripts/demo", "scripts/test")

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"`((?:marl|scripts/\w+)(?: [^`]*)?)`")
#: Words that stand for something of the reader's, such as FILE and MODULE:FACTORY.
_PLACEHOLDER = re.compile(r"\b[A-Z]{2,}\b|\bNAME\b")


class Block(NamedTuple):
    """A console block: its page, its number among the page's blocks, and its command lines."""

    page: str
    number: int
    lines: tuple[str, ...]


def pages() -> list[Path]:
    """README, docs and the READMEs of the scenarios."""
    return [REPO / "README.md", *sorted(REPO.glob("docs/**/*.md")), *sorted(REPO.glob("scenarios/*/README.md"))]


def blocks() -> list[Block]:
    """All console blocks; lines that go on after a backslash are joined."""
    found = []
    for path in pages():
        page = path.relative_to(REPO).as_posix()
        consoles = [body for kind, body in _BLOCK.findall(path.read_text(encoding="utf-8")) if kind in _SHELLS]
        for number, body in enumerate(consoles):
            lines = [line.removeprefix("$ ").strip() for line in body.replace("\\\n", " ").splitlines()]
            found.append(Block(page, number, tuple(line for line in lines if line and not line.startswith("#"))))
    return found


_SHELLS = ("console", "bash", "sh", "shell")


def inline_commands() -> Iterator[tuple[str, str]]:
    """(page, command) of the commands in running text and tables that can be run as they stand."""
    for path in pages():
        text = _BLOCK.sub("", path.read_text(encoding="utf-8"))
        for command in _INLINE.findall(text):
            if not _PLACEHOLDER.search(command):
                yield path.relative_to(REPO).as_posix(), " ".join(command.split())


def words_of(line: str) -> list[str]:
    """The words of a command line without its comment. A pipe or the like would be more than one command."""
    words = shlex.split(line, comments=True)
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    assert not any(set(word) <= set("|&;<>()") for word in lexer), f"more than one command: {line}"
    return words


def _set(*texts: str) -> list[str]:
    return [word for text in texts for word in ("--set", text)]


#: What makes a run of a scenario short.
TRAIN: Mapping[str, list[str]] = {
    "lifelong_mapf": [
        "--horizon",
        "16",
        *_set("total_steps=1", "copies=2", "algorithm.rollout=8", "world.map_pool=1", "evaluation.every_iterations=0"),
    ],
    "cav_merging": _set("total_steps=1", "copies=4", "algorithm.rollout=8", "algorithm.minibatches=1"),
    "agent_hierarchy": _set(
        "total_steps=1",
        "copies=8",
        "algorithm.group=4",
        "algorithm.warm_start.steps=2",
        "algorithm.warm_start.batch=4",
        "evaluation.every_iterations=0",
    ),
    "pettingzoo": _set(
        "total_steps=1", "copies=1", "algorithm.rollout=4", "algorithm.minibatches=1", "world.workers=none"
    ),
    "traffic_signals": ["--seconds", "50", *_set("total_steps=1", "copies=1", "algorithm.rollout=5")],
    "miniatures": _set("total_steps=1", "copies=8"),
    "vmas_tasks": _set(
        "total_steps=1", "copies=2", "algorithm.rollout=4", "algorithm.minibatches=1", "world.horizon=8"
    ),
}
#: What makes an episode of it short.
EPISODE: Mapping[str, list[str]] = {
    "lifelong_mapf": ["--horizon", "8"],
    "cav_merging": ["--horizon", "8"],
    "agent_hierarchy": _set("world.max_turns=8"),
    "pettingzoo": ["--horizon", "6", *_set("world.workers=none")],
    "traffic_signals": ["--seconds", "50"],
    "miniatures": _set("world.coverage.horizon=8"),
    "vmas_tasks": ["--horizon", "8"],
}


def shorten(words: list[str], scenario: str) -> list[str]:
    """The words after ``marl`` with what makes them short; raises ``KeyError`` for a command without a rule.

    scenario: the one that the command is about.
    """
    command = words[0]
    if command in ("list", "check", "explain") or "--resume" in words:
        return words
    if command == "train":
        return [*words, *TRAIN[scenario]]
    if command == "evaluate":
        kept = [word for i, word in enumerate(words) if word != "--seeds" and words[i - 1] != "--seeds"]
        return [*kept, "--seeds", "0:2", *EPISODE[scenario]]
    if command == "tune":
        return [*words, "--generations", "1", "--population", "4", "--instances", "1", *EPISODE[scenario]]
    if command == "watch":
        return [*words, *EPISODE[scenario]]
    if command == "bench":
        parts = [] if "--parts" in words else ["--parts", "world"]
        return [*words, *parts, "--repeats", "1", "--seconds", "0", "--set", "copies=2", *EPISODE[scenario]]
    raise KeyError(command)


def _map(path: Path) -> None:
    """20 x 20 cells with some walls, as MovingAI writes them."""
    rows = ["".join("@" if x % 5 == 2 and y % 4 else "." for x in range(20)) for y in range(20)]
    path.write_text("\n".join(["type octile", "height 20", "width 20", "map", *rows]) + "\n", encoding="utf-8")


#: The README's names of the edges of an on-ramp.
EDGES = {"ramp": "E1", "main": "E2", "merge": "E3", "after": "E4"}


def merge_network(path: Path) -> None:
    """The shipped on-ramp with the names of the README's edges."""
    text = find_network("merge").read_text(encoding="utf-8")
    path.write_text(
        re.sub(r"\b(ramp|main|merge|after)(?=_\d|\")", lambda found: EDGES[found[1]], text), encoding="utf-8"
    )


def _merge_demand(path: Path) -> None:
    flows = '<flow id="a" from="E2" to="E4" vehsPerHour="1500"/><flow id="b" from="E1" to="E4" vehsPerHour="500"/>'
    path.write_text(f"<routes>{flows}</routes>", encoding="utf-8")


def _lights(path: Path) -> None:
    """sumo-rl's single junction under another name."""
    package = importlib.util.find_spec("sumo_rl")
    assert package is not None and package.origin is not None
    source = Path(package.origin).parent / "nets" / "single-intersection"
    suffix = "".join(path.suffixes[-2:])
    path.write_bytes((source / f"single-intersection{suffix}").read_bytes())


#: (scenario, name of a file that the reader has) -> what makes it.
FILES: Mapping[tuple[str, str], Callable[[Path], None]] = {
    ("lifelong_mapf", "my_map.map"): _map,
    ("cav_merging", "my.net.xml"): merge_network,
    ("cav_merging", "my.rou.xml"): _merge_demand,
    ("traffic_signals", "my.net.xml"): _lights,
    ("traffic_signals", "my.rou.xml"): _lights,
}
