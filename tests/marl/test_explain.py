"""``marl explain`` and the help of a scenario: what a newcomer can find out without reading code."""

from __future__ import annotations

from pathlib import Path

import pytest

from marl.cli import main
from marl.config import SafetyConfig
from marl.errors import UserError
from marl.explain import Explained
from marl.scenario import load_scenario, scenario_names
from marl.systems.registry import SYSTEMS

SHOWN = "cli_scenario:SHOWN"


def shown(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(list(words)) == 0
    return capsys.readouterr().out


def row(text: str, name: str) -> str:
    """What stands beside a name in the answer about one key; empty without such a row."""
    return next((line.split(None, 1)[1] for line in text.splitlines() if line.startswith(f"  {name} ")), "")


@pytest.mark.parametrize("command", ["train", "evaluate", "tune", "bench", "explain"])
def test_help_lists_the_options_of_the_scenario_on_the_line(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(shown(capsys, command, SHOWN, "--help").split())
    for option in load_scenario(SHOWN).options:
        assert option.flag in text and option.key in text
    assert "Options of tiny" in text and "how many agents (world.agents: 2)" in text
    without = shown(capsys, command, "--help")
    assert "--line-length" not in without and "Name a SCENARIO" in without


def test_help_of_watch_goes_by_the_policy_or_the_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    assert "--line-length" in shown(capsys, "watch", "walk", "--scenario", SHOWN, "--help")
    assert "--grammar" in shown(capsys, "watch", "agent_hierarchy/quick", "--help")


def test_help_shows_the_values_of_the_preset_on_the_line(capsys: pytest.CaptureFixture[str]) -> None:
    text = " ".join(shown(capsys, "train", "lifelong_mapf", "--preset", "follower", "--help").split())
    agents = Explained("lifelong_mapf", preset="follower").key("world.agents")[0].value
    assert agents != "null" and f"number of agents (world.agents: {agents})" in text


def test_help_of_an_unknown_scenario_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "lifelong_mapff", "--help"]) == 2
    assert "did you mean 'lifelong_mapf'" in capsys.readouterr().err


def test_a_key_of_the_platform(capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "explain", "coordination.intent.rounds")
    assert text.splitlines()[0] == "coordination.intent.rounds"
    assert row(text, "meaning") == "drafts that are exchanged before the decision"
    assert (row(text, "type"), row(text, "range"), row(text, "default")) == ("integer", ">= 0 and <= 8", "1")
    assert row(text, "value") == row(text, "from") == ""


def test_types_in_words() -> None:
    tree = {key.name: key for key in Explained("agent_hierarchy").tree()}
    assert tree["coordination.intent.predictor"].kind == "one of rollout, learned"
    assert tree["world.tasks.file"].kind == "path or null"
    assert tree["world.tasks.hops"].kind == "list of integer"
    assert tree["coordination.guidance.enabled"].kind == "true or false"
    assert tree["algorithm.rate"].limits == "> 0.0" and tree["system"].default is None
    assert tree["algorithm.policy"].kind.startswith("keys of kind tiny or keys of kind hf")


@pytest.mark.parametrize(
    ("words", "key", "value", "source"),
    [
        ([], "copies", "4", "preset quick"),
        ([], "world.agents", "2", "preset quick"),
        ([], "world.length", "5", "default of scenario tiny"),
        ([], "algorithm.gamma", "0.99", "default of system mappo"),
        ([], "checkpoint.keep", "3", "default of the platform"),
        ([], "system", "mappo", "default of scenario tiny"),
        (["--agents", "5"], "world.agents", "5", "--agents"),
        (["--set", "world.agents=6"], "world.agents", "6", "--set"),
        (["--agents", "5", "--set", "world.agents=6"], "world.agents", "6", "--set"),
        (["--config", "own.yaml"], "world.agents", "3", "own.yaml"),
        (["--config", "own.yaml"], "copies", "64", "default of the platform"),
        (["--config", "own.yaml", "--agents", "4"], "world.agents", "4", "--agents"),
        (["--system", "ippo"], "system", "ippo", "--system"),
        (["--set", "world={agents: 7}"], "world.agents", "7", "--set"),
        (["--set", "world={agents: 7}"], "world.length", "5", "default of scenario tiny"),
    ],
)
def test_where_a_value_came_from(
    words: list[str],
    key: str,
    value: str,
    source: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.yaml").write_text("world: {agents: 3}\n")
    text = shown(capsys, "explain", SHOWN, key, *words)
    assert (row(text, "value"), row(text, "from")) == (value, source)
    if key == "world.agents":
        assert row(text, "option") == "--agents"


def test_the_key_may_stand_before_or_after_options(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["world.agents", "--agents", "5"], ["--agents", "5", "world.agents"], ["--agents=5", "world.agents"]):
        assert row(shown(capsys, "explain", SHOWN, *words), "value") == "5"
    assert main(["explain", SHOWN, "world.agents", "world.length"]) == 2


def test_what_coordination_decides_is_said() -> None:
    on = Explained("agent_hierarchy", overrides=["coordination.intent.enabled=true"])
    found = on.key("world.announce")[0]
    assert (found.value, found.source) == ("true", "follows from coordination")


def test_the_tree(capsys: pytest.CaptureFixture[str]) -> None:
    lines = shown(capsys, "explain").splitlines()
    place = lines.index(next(line for line in lines if line.startswith("coordination:")))
    assert lines[place + 1].startswith("  guidance: ") and "    enabled: true " in lines[place + 2]
    assert any(line.startswith("total_steps: 10000000 ") for line in lines)
    whole = shown(capsys, "explain", SHOWN).splitlines()
    assert any(line.startswith("  length: 5") and line.endswith("[default of scenario tiny]") for line in whole)
    part = shown(capsys, "explain", SHOWN, "coordination.safety").splitlines()
    assert part[0].strip().startswith("safety:") and len(part) == 1 + len(SafetyConfig.model_fields)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["coordination.intent.round"], "there is no key 'coordination.intent.round'; did you mean"),
        (["cordination"], "neither a scenario nor a key of the configuration; did you mean 'coordination'"),
        (["lifelong_mapff"], "did you mean 'lifelong_mapf'"),
        (["world.agents"], "world and algorithm are those of a scenario: marl explain SCENARIO KEY"),
        ([SHOWN, "world.agentz"], "there is no key 'world.agentz'; did you mean 'world.agents'"),
        ([SHOWN, "--agents", "x"], "'world.agents' is 'x' in --agents"),
        (["copies", "--set", "copies=3"], "values belong to a scenario"),
        (["agent_hierarchy", "algorithm.policy.folder"], "is a key only with algorithm.policy.kind=hf"),
    ],
)
def test_mistakes(words: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", *words]) == 2
    err = capsys.readouterr().err
    assert sentence in err and err.count("\n") == 1


def test_every_key_says_what_it_means() -> None:
    """Of the scenarios that can be imported here, and of every system."""
    trees = {f"system {name}": Explained(system=name) for name in SYSTEMS}
    for name in scenario_names():
        try:
            trees[name] = Explained(name)
        except (ImportError, UserError):  # an extra that is not installed
            continue
    silent = [f"{owner}: {key.name}" for owner, tree in trees.items() for key in tree.tree() if not key.meaning]
    assert silent == []
