"""Every command line of README, docs and the scenarios' READMEs is run, shortened only by ``doc_commands.shorten``."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from doc_commands import ELSEWHERE, FILES, LISTED, ONLY_READ, REPO, Block, blocks, inline_commands, shorten, words_of
from virtual_screen import virtual_screen

from marl import api
from marl.cli import app, main
from marl.scenario import scenario_names

BLOCKS = blocks()
COMMANDS = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
#: What a scenario needs beside the platform.
NEEDS = {
    "cav_merging": "libsumo",
    "pettingzoo": "mpe2",
    "traffic_signals": "sumo_rl",
    "vmas_tasks": "vmas",
    "agent_hierarchy": "transformers",
}


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def scenario_of(words: list[str]) -> str:
    """The scenario that a command is about; of ``watch`` that of its run or policy."""
    named = [word for word in words[1:2] if word in scenario_names()]
    if named or words[0] != "watch":
        return named[0] if named else ""
    return words[words.index("--scenario") + 1] if "--scenario" in words else api.scenario_of(words[1])


def installed(scenario: str) -> bool:
    """Whether a scenario's optional package is there; continuous integration has all of them but VMAS."""
    package = NEEDS.get(scenario, "torch")
    found = importlib.util.find_spec(package) is not None
    assert found or package == "vmas" or os.environ.get("CI") != "true", f"{package} is missing"
    return found


def run(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Run one line as its reader would, in this process."""
    words = words_of(line)
    if words[0] != "marl":
        run_script(words)
        return
    words = words[1:]
    scenario = scenario_of(words)
    for name in words:
        make = FILES.get((scenario, name))
        if make is not None and not Path(name).exists():
            make(Path(name))
    code = main(shorten(words, scenario))
    err = capsys.readouterr().err
    if not installed(scenario):
        assert code == 2 and "is not installed" in err
    elif "--sumo-gui" in words and "DISPLAY" not in os.environ:
        assert code == 2 and "DISPLAY is not set" in err
    else:
        assert code == 0, f"{line}\n{err}"


def run_script(words: list[str]) -> None:
    """Scripts are asked for their help; those that set a machine up are read by bash."""
    path = REPO / words[0]
    assert path.is_file() and os.access(path, os.X_OK), f"{words[0]} is no script"
    if words[0] in ONLY_READ:
        subprocess.run(["bash", "-n", str(path)], check=True, timeout=60)
        return
    check_reproduce(words)


def check_reproduce(words: list[str]) -> None:
    """``scripts/reproduce TABLE [STAGE]``: the table is there, and a module of its folder names the stage."""
    assert words[0] == "scripts/reproduce", f"{words}: no rule for this script in tests/doc_commands.py"
    source = (REPO / "scripts" / "reproduce").read_text(encoding="utf-8")
    tables = dict(re.findall(r'^    "(\w+)": "([\w.]+)",$', source, re.MULTILINE))
    if len(words) == 1:
        return
    assert words[1] in tables, f"scripts/reproduce has no table '{words[1]}'"
    module = REPO / "scripts" / "benchmarks" / f"{tables[words[1]].replace('.', '/')}.py"
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(module.parent.glob("*.py")))
    for word in words[2:]:
        stage = word.partition("=")[0]
        if re.fullmatch(r"-{0,2}[a-z_]+(-[a-z_]+)*", stage):
            assert re.search(rf"[\"']{re.escape(stage)}[\"']|def {re.escape(stage)}\b", text), f"{words}: no '{stage}'"


def test_every_command_line_is_counted() -> None:
    counted = Counter({block.page: 0 for block in BLOCKS})
    for block in BLOCKS:
        counted[block.page] += len(block.lines)
    assert dict(counted) == LISTED, "a page has other command lines than tests/doc_commands.py lists: list the new ones"
    for page, test in ELSEWHERE.items():
        assert Path(page).name in (REPO / test).read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "block",
    [block for block in BLOCKS if block.page not in ELSEWHERE],
    ids=lambda block: f"{block.page.removesuffix('.md').replace('/', '-')}-{block.number}",
)
def test_a_block_runs_as_written(
    block: Block, capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest
) -> None:
    for line in block.lines:
        if "--sumo-gui" in line:
            request.getfixturevalue("screen")
        run(line, capsys)


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> object:
    """A virtual screen where there is a program for it, else none at all."""
    monkeypatch.delenv("DISPLAY", raising=False)
    program = shutil.which("Xvfb")
    if program is None:
        yield
        return
    with virtual_screen(program, monkeypatch):
        yield


def test_commands_in_running_text_exist() -> None:
    """Those of ``marl`` are taken by the command line, those of ``scripts/reproduce`` name a table and a stage."""
    seen = 0
    for page, command in inline_commands():
        words = words_of(command)
        if words[0].startswith("scripts/"):
            assert (REPO / words[0]).exists(), f"{page}: {command}"
            if words[0] == "scripts/reproduce":
                check_reproduce(words)
        elif len(words) > 1:
            assert words[1] in COMMANDS, f"{page}: {command}"
            if len(words) > 2 and words[1] in ("train", "evaluate", "bench"):
                assert words[2] in scenario_names(), f"{page}: {command}"
                presets = [words[i + 1] for i, word in enumerate(words) if word == "--preset"]
                api.configure(words[2], preset=presets[0] if presets else None)
        seen += 1
    assert seen > 30


def test_examples_in_the_help_run(capsys: pytest.CaptureFixture[str]) -> None:
    """``See 'marl list presets'`` and the like."""
    examples = set()
    for words in ([], *([command] for command in sorted(COMMANDS))):
        assert main([*words, "--help"]) == 0
        text = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().out).split())
        examples |= set(re.findall(r"'marl ([a-z][a-z -]*)'", text)) | set(re.findall(r"with: marl ([a-z]+)", text))
    assert {"list scenarios", "list systems", "list presets", "list tunables", "demo"} <= examples
    for example in sorted(examples):
        words = example.split()
        assert words[0] in COMMANDS
        if words[0] == "list":
            assert main(words) == 0


def test_the_command_is_the_module() -> None:
    """The tests above call ``main``; once, a line goes the whole way."""
    done = subprocess.run([sys.executable, "-m", "marl", "list", "maps"], capture_output=True, text=True, check=True)
    assert "warehouse" in done.stdout
