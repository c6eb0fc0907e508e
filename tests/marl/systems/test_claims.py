"""What systems declare of themselves: claims with a check that can be made, pages that say the same."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from marl import api
from marl.listing import listing
from marl.systems.registry import SYSTEMS
from scripts.benchmarks.systems import pages

REPO = Path(__file__).parents[3]
TABLES = runpy.run_path(str(REPO / "scripts" / "reproduce"))["TABLES"]


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_system_says_what_it_does_and_how_it_is_checked(name: str) -> None:
    system = SYSTEMS[name]
    assert system.claim.endswith(".") and system.formula
    if system.check is not None:
        program, table, *names = system.check.command.split()
        assert program == "scripts/reproduce" and table in TABLES
        assert not names or names == [name]
        assert all(system.check)


def test_pages_are_what_the_systems_say() -> None:
    made = pages.pages()
    assert {path.name for path in pages.FOLDER.glob("*.md")} == made.keys()
    for name, lines in made.items():
        assert (pages.FOLDER / name).read_text("utf-8") == "\n".join(lines).rstrip("\n") + "\n", name


def test_a_page_counts_code_and_names_shared_parts() -> None:
    file = REPO / "marl" / "systems" / "otc.py"
    assert pages.recipe_lines(file) == 11
    assert "marl.learning.language.group_norm.group_norm" in pages.shared(file)


def test_list_systems_shows_claim_and_verdict() -> None:
    rows = listing("systems")
    at = [name for name, _ in rows].index("otc")
    assert rows[at + 1][1].startswith("claim: up to 73 %")
    assert rows[at + 2][1] == "check: holds (scripts/reproduce hierarchy)"


def test_a_system_switches_its_modules_on_and_the_user_them_off() -> None:
    on = api.configure("cav_merging", preset="hard", system="mappo_pis").coordination
    assert on.intent.enabled and on.safety.enabled
    plain = api.configure("cav_merging", preset="hard").coordination
    assert not plain.intent.enabled
    off = api.configure(
        "cav_merging", preset="hard", system="mappo_pis", overrides=["coordination.intent.enabled=false"]
    ).coordination
    assert off.safety.enabled and not off.intent.enabled


def test_follower_has_the_published_numbers() -> None:
    config = api.configure("lifelong_mapf", preset="default", system="follower")
    assert config.coordination.guidance.enabled
    assert (SYSTEMS["follower"].config().gamma, config.algorithm.max_grad_norm) == (0.9756, 4.0)
