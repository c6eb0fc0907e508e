"""Code and servers that files name: only what the user named as well is imported or contacted."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_scenario import tiny_config

from marl import plugins
from marl.cli import main
from marl.config import dump, read_layer
from marl.errors import UserError
from marl.plugins import load_reference, trust, trust_named_in
from marl.scenario import Scenario
from marl.training.run_folder import read_config
from scenarios.agent_hierarchy.config import HierarchyConfig
from scenarios.agent_hierarchy.hierarchy import Hierarchy

MARK = "this-code-was-run"


@pytest.fixture(autouse=True)
def nothing_is_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(plugins, "_packages", set())
    monkeypatch.setattr(plugins, "_hosts", set())
    monkeypatch.chdir(tmp_path)


def plant(name: str) -> None:
    """A module beside the present folder that leaves a mark when it is imported."""
    Path(f"{name}.py").write_text(f"open('{MARK}', 'w').close()\n")


def foreign_run(folder: Path, **changes: str) -> Path:
    """A run folder as somebody else may have sent it."""
    text = dump(tiny_config())
    for key, value in changes.items():
        (old,) = [line for line in text.splitlines() if line.startswith(f"{key}:")]
        text = text.replace(old, f"{key}: {value}")
    folder.mkdir()
    (folder / "config.yaml").write_text(text)
    return folder


@pytest.mark.parametrize("key", ["scenario", "system"])
@pytest.mark.parametrize(
    "words",
    [["train", "--resume", "run"], ["watch", "run"], ["evaluate", "lifelong_mapf", "--policies", "run"]],
    ids=lambda words: words[0],
)
def test_a_foreign_run_folder_runs_no_code(key: str, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    plant("planted_module")
    foreign_run(Path("run"), **{key: "planted_module:THING"})
    assert main(words) == 2
    said = capsys.readouterr().err
    assert "'planted_module:THING' is code that a file names and you did not" in said
    assert "--trust planted_module" in said and said.count("\n") == 1
    assert not Path(MARK).exists()


def test_a_trusted_module_is_run(capsys: pytest.CaptureFixture[str]) -> None:
    plant("planted_too")
    foreign_run(Path("run"), scenario="planted_too:THING")
    assert main(["train", "--resume", "run", "--trust", "planted_too"]) == 2
    assert "module 'planted_too' has no 'THING': define a Scenario" in capsys.readouterr().err
    assert Path(MARK).exists()


def test_what_was_typed_is_trusted_and_file_names_are_not() -> None:
    trust_named_in(["--set", "world.graph={tools: [one.of.mine:search]}", "two:SYSTEM", "--policies=runs/three:X"])
    trust_named_in(["--map", "maps/four.yaml:one", "five.yaml:one", "0:16", "policy.base_url=http://six.example:80/v1"])
    assert plugins._packages == {"one", "two"}
    assert plugins._hosts == {"six.example"}


def test_a_loaded_module_gives_declared_objects_but_no_functions() -> None:
    assert isinstance(load_reference("tiny_scenario:TINY", Scenario), Scenario)
    with pytest.raises(UserError, match="'os:system' is code that a file names"):
        load_reference("os:system", object)
    trust("os")
    assert callable(load_reference("os:system", object))


def test_a_graph_from_elsewhere_gets_no_tools_of_its_own() -> None:
    plant("planted_tool")
    Path("graph.yaml").write_text("entry: a\nroles: {a: {tools: ['planted_tool:search']}}\n")
    with pytest.raises(UserError, match="--trust planted_tool"):
        Hierarchy(HierarchyConfig(graph="graph.yaml"))
    assert not Path(MARK).exists()


def test_a_file_cannot_send_conversations_and_keys_to_a_server() -> None:
    """``key_variable`` may name any secret of the environment, and ``base_url`` who gets it."""
    layer = Path("layer.yaml")
    layer.write_text("algorithm: {roles: {north: {kind: openai, base_url: 'https://evil.example/v1'}}}\n")
    with pytest.raises(UserError, match=r"layer\.yaml names the server 'https://evil.example/v1'.*--trust"):
        read_layer(layer)
    trust("https://evil.example/other")
    assert read_layer(layer).values
    for url in ("http://localhost:8000/v1", "http://127.0.0.1/v1"):
        layer.write_text(f"algorithm: {{policy: {{kind: openai, base_url: '{url}'}}}}\n")
        assert read_layer(layer).values
    plugins._hosts.clear()
    for url in ("http://localhost@evil.example", "http://[", "//evil.example", "3"):
        layer.write_text(f"algorithm: {{policy: {{kind: openai, base_url: '{url}'}}}}\n")
        with pytest.raises(UserError, match="names the server"):
            read_layer(layer)


def test_the_file_of_a_run_is_judged_before_its_scenario() -> None:
    run = foreign_run(Path("run"))
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text(text + "policy: {base_url: 'https://evil.example'}\n")
    with pytest.raises(UserError, match="names the server"):
        read_config(run)
