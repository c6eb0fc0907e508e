"""The page of promises: what it names exists, and its counts are those of the record."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

REPO = Path(__file__).parent.parent
PAGE = (REPO / "docs" / "trust.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("page", "least"), [("trust.md", 30), ("coordination.md", 4)])
def test_every_named_test_exists(page: str, least: int) -> None:
    text = (REPO / "docs" / page).read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text))
    assert len(named) > least
    for file, name in named:
        assert f"\ndef {name}(" in (REPO / file).read_text(encoding="utf-8"), f"{file}::{name}"


def test_faults_are_those_of_the_record() -> None:
    record = json.loads((REPO / "docs" / "benchmarks" / "trust.json").read_text(encoding="utf-8"))["faults"]
    assert record["found_by_marl"] == record["planted"]
    words = f"Of the {record['planted']} planted faults PettingZoo's `parallel_api_test` (100 cycles)"
    assert words in PAGE
    assert f"stop at {record['found_by_pettingzoo']}" in PAGE
