"""Defaults and bounds of all systems' options: they are what published figures were made with, so none changes unseen.

``PYTHONPATH=.:tests python tests/marl/systems/test_options.py`` writes the file anew after a change that is meant.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from marl.config import CoordinationConfig
from marl.systems.language.gradient import Reinforcement
from marl.systems.language.options import CostPhaseConfig, KlConfig, LanguageConfig, WarmStartConfig
from marl.systems.language.reference import Reference
from marl.systems.registry import SYSTEMS

GOLDEN = Path(__file__).parents[2] / "golden" / "options.json"


def options() -> dict[str, Any]:
    """Name of a class -> its options as JSON schema, without titles; texts only by whether there is one."""
    found: dict[str, Any] = {}
    for kind in [*(system.config for system in SYSTEMS.values()), CoordinationConfig]:
        schema = kind.model_json_schema()
        for name, part in {**schema.pop("$defs", {}), kind.__name__: schema}.items():
            found[name] = _plain(part.get("properties", {}))
    return dict(sorted(found.items()))


def _plain(node: Any) -> Any:
    if isinstance(node, dict):
        kept = {key: value for key, value in node.items() if key not in ("title", "description")}
        described = {"described": True} if "description" in node else {}
        return {key: _plain(value) for key, value in kept.items()} | described
    return [_plain(item) for item in node] if isinstance(node, list) else node


def test_defaults_and_bounds_are_those_of_the_file() -> None:
    known, now = json.loads(GOLDEN.read_text("utf-8")), json.loads(json.dumps(options()))
    assert known.keys() == now.keys()
    for name, properties in known.items():
        assert now[name] == properties, name


def test_the_rate_of_reinforcement_rises_and_falls() -> None:
    """Over four updates to the rate, and from there to zero with the part of the run that is done."""
    config = LanguageConfig(rate=0.8, warmup=4)
    learner = Reinforcement([], config, Reference([], config))
    assert [learner.rate(number, 0.0) for number in (0, 1, 3, 4, 9)] == pytest.approx([0.2, 0.4, 0.8, 0.8, 0.8])
    assert learner.rate(9, 0.75) == pytest.approx(0.2)
    still = LanguageConfig(rate=0.8, warmup=0, anneal=False)
    assert Reinforcement([], still, Reference([], still)).rate(0, 0.75) == pytest.approx(0.8)


def test_replay_ends_in_the_middle_of_the_run() -> None:
    options = WarmStartConfig(replay=0.4)
    assert [options.replayed(part) for part in (0.0, 0.25, 0.5, 0.75, 1.0)] == pytest.approx([0.4, 0.2, 0.0, 0.0, 0.0])


def test_the_last_phase_is_dearer_and_never_cheaper() -> None:
    config = LanguageConfig(cost_phase=CostPhaseConfig(begin=0.6, cost=0.2))
    assert [config.cost_weight(part) for part in (0.0, 0.59, 0.6, 1.0)] == [0.03, 0.03, 0.2, 0.2]
    LanguageConfig(cost_phase=CostPhaseConfig(begin=1.0, cost=0.01))  # never begins
    LanguageConfig(cost_phase=CostPhaseConfig(begin=0.5, cost=0.03))
    with pytest.raises(ValueError, match=r"cost_phase\.cost is less than reward\.cost"):
        LanguageConfig(cost_phase=CostPhaseConfig(begin=0.99, cost=0.02))


def test_a_divergence_has_its_price_in_one_place() -> None:
    config = LanguageConfig(kl=KlConfig(weight=0.1, place="reward"))
    assert config.kl_in("reward") and not config.kl_in("loss")
    assert not LanguageConfig().kl_in("loss") and not LanguageConfig().kl_in("reward")


if __name__ == "__main__":
    GOLDEN.write_text(json.dumps(options(), indent=1) + "\n", encoding="utf-8")
