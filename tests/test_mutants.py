"""The mutation tests: what is made wrong, which tests are tried on it, and that the page says of every survivor why."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray", reason="mutants need the extra 'test'")

from scripts.benchmarks.runner import PAGES
from scripts.mutants.__main__ import page
from scripts.mutants.covering import Covering
from scripts.mutants.judging import judge
from scripts.mutants.mutations import SCOPE, Mutant, mutated, places, sample, statements

REPO = Path(__file__).resolve().parents[1]
SOURCE = '''\
"""A module."""

from __future__ import annotations

import torch


@torch.no_grad()
def larger(a: int | None, b: int = 3) -> int | None:
    """Not 1 + 1."""
    return max(
        a or 0,
        b,
    ) if b > 0 else -1
'''


def test_annotations_and_words_are_left_alone_and_all_else_is_not() -> None:
    lines = SOURCE.splitlines()
    found = [(line, lines[line - 1][column:].split()[0].strip("),")) for line, column in places(SOURCE)]
    assert found == [
        (9, "3"),
        (12, "or"),
        (12, "0"),
        (14, "b"),  # not b > 0
        (14, ">"),
        (14, "0"),
        (14, "-1"),
        (14, "1"),
    ]


def test_a_sample_is_the_same_for_a_seed_and_of_different_places() -> None:
    """Every mutant changes its file in the line that it names."""
    scope = ("marl/learning/advantages.py", "marl/learning/regularizers.py")
    first, again, other = (sample(REPO, 12, seed, scope) for seed in (0, 0, 1))
    assert first == again != other and len({(one.path, one.before, one.after) for one in first}) == 12
    for mutant in first:
        source = (REPO / mutant.path).read_text("utf-8")
        changed = mutated(source, f"core/{mutant.operator}", mutant.occurrence)
        pairs = zip(source.splitlines(), changed.splitlines(), strict=False)  # a decorator leaves a line less
        assert next(number for number, (a, b) in enumerate(pairs, 1) if a != b) == mutant.line


def test_a_change_elsewhere_leaves_a_sample_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text(SOURCE, "utf-8")
    before = {one.name for one in sample(tmp_path, 5, 0, ("m.py",))}
    (tmp_path / "m.py").write_text(SOURCE.replace('"""A module."""', '"""A module."""\n\nMORE = None'), "utf-8")
    assert {one.name for one in sample(tmp_path, 5, 0, ("m.py",))} == before


def test_the_quickest_tests_of_a_statement_come_first_until_the_budget_is_spent() -> None:
    covering = Covering({"a": 3.0, "b": 1.0, "c": 2.0}, {"m.py": {0: ["a", "b", "c"], 9: ["b"], 12: ["a", "c"]}})
    assert covering.tests("m.py", SOURCE, 14, 10.0) == ["c", "a"]
    assert covering.tests("m.py", SOURCE, 14, 4.0) == ["c"]
    assert covering.tests("m.py", SOURCE, 5, 10.0) == ["b", "c", "a"]  # runs at import: whatever uses the module
    assert covering.tests("other.py", SOURCE, 5, 10.0) == []
    assert (11, 14) in list(statements(SOURCE))


@pytest.mark.parametrize(
    ("after", "verdict"), [("return a - b", "killed"), ("return b + a", "survived"), ("return (", "killed")]
)
def test_a_mutant_is_killed_if_a_test_fails(tmp_path: Path, after: str, verdict: str) -> None:
    (tmp_path / "adder_that_is_mutated.py").write_text("def add(a, b):\n    return a + b\n", "utf-8")
    test = "from adder_that_is_mutated import add\n\n\ndef test_add():\n    assert add(2, 3) == 5\n"
    (tmp_path / "test_adder_that_is_mutated.py").write_text(test, "utf-8")
    mutant = Mutant("adder_that_is_mutated.py", 2, "Some", 0, "return a + b", after)
    source = f"def add(a, b):\n    {after}\n"
    assert judge(tmp_path, mutant, source, ["test_adder_that_is_mutated.py"], 1.0) == verdict
    assert judge(tmp_path, mutant, source, [], 0.0) == "unreached"
    assert "a + b" in (tmp_path / "adder_that_is_mutated.py").read_text("utf-8")  # nothing is written


def test_the_page_is_that_of_the_record_and_says_of_every_survivor_why() -> None:
    record = json.loads((PAGES / "mutants.json").read_text("utf-8"))
    assert (PAGES / "mutants.md").read_text("utf-8") == "\n".join(page(record)) + "\n"
    assert record["seed"] == 0 and record["tried"] == 300 and record["killed"] >= 0.9 * record["tried"]
    floors = record["floors"]
    assert set(floors) == set(SCOPE)
    assert sum(floor["tried"] for floor in floors.values()) == record["tried"]
    assert sum(floor["killed"] for floor in floors.values()) == record["killed"]
    survivors = record["survivors"]
    assert len(survivors) == record["tried"] - record["killed"]
    assert all(row["verdict"] in ("survived", "unreached") and len(row["reason"]) > 20 for row in survivors)
    assert all((REPO / row["path"]).is_file() for row in survivors)
