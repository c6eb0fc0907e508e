"""Tuning the guidance: on one's own map, for one's own numbers of agents; what it writes can be used."""

import numpy as np
import pytest

from marl import api
from marl.errors import UserError
from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.guidance.base import GuidanceConfig, GuidanceNumbers
from scenarios.lifelong_mapf.guidance.vectors import Weights
from scenarios.lifelong_mapf.tunables import TUNABLES

GUIDANCE = TUNABLES["guidance"]
OWN_MAP = "type octile\nheight 5\nwidth 6\nmap\n......\n.@@.@.\n......\n.@.@@.\n......\n"


def test_a_map_of_ones_own_is_tuned_for_and_the_file_is_used(tmp_path):
    (tmp_path / "own.map").write_text(OWN_MAP)
    search = {"generations": 1, "population": 4, "instances": 1, "judged": 1}
    options = {"map": str(tmp_path / "own.map"), "agents": 6, "horizon": 12}
    done = api.tune("lifelong_mapf", "guidance", search=search, out=tmp_path / "t", **options)
    weights = GuidanceConfig(vector=str(done.file)).weights()
    assert weights == Weights(**done.values)
    assert {(row.instances["map"], row.instances["agents"]) for row in done.results.rows} == {
        ("own.map", 6),
        ("own.map", 3),
        ("own.map", 1),
    }
    played = api.evaluate("lifelong_mapf", ["guided_pibt"], seeds=[0], guidance=str(done.file), **options)
    assert played.rows[0].mean > 0


def test_parameters_are_those_of_the_guidance_and_within_its_limits():
    parameters = GUIDANCE.parameters(MapfConfig())
    assert {p.name for p in parameters} == set(GuidanceNumbers.model_fields) == set(Weights._fields)
    for end in ("low", "high", "start"):
        GuidanceConfig(**{p.name: getattr(p, end) for p in parameters})


def test_the_search_begins_where_the_configuration_is():
    config = MapfConfig(guidance={"vector": "warehouse", "static_weight": 9.5})
    start = {p.name: p.start for p in GUIDANCE.parameters(config)}
    assert start["static_weight"] == 6.0  # the largest that is searched
    assert start["decay"] == pytest.approx(GuidanceConfig(vector="warehouse").weights().decay)


@pytest.mark.parametrize(
    ("options", "reason"),
    [({"on_target": "finish"}, "on_target=restart"), ({"tasks": "few.json"}, "without --tasks")],
)
def test_what_cannot_be_tuned_for_is_refused(options, reason):
    with pytest.raises(UserError, match=reason):
        GUIDANCE.worlds(MapfConfig(**options))


@pytest.mark.parametrize(("agents", "counts"), [(64, [64, 32, 16, 8]), (6, [6, 3, 1]), (1, [1])])
def test_quiet_days_are_tuned_for_as_well(agents, counts):
    assert [world.agents for world in GUIDANCE.worlds(MapfConfig(agents=agents))] == counts


def test_the_score_weighs_throughput_against_latency():
    def metrics(throughput, p95, oldest):
        values = {"throughput": throughput, "latency_p95_steps": p95, "oldest_goal_steps": oldest}
        return {name: np.array([float(value)]) for name, value in values.items()}

    reference = metrics(2, 100, 200)

    def score(*values):
        return float(GUIDANCE.score(metrics(*values), reference)[0])

    assert score(2, 100, 200) == pytest.approx(0, abs=1e-9)
    assert score(2.2, 100, 200) == pytest.approx(np.log(1.1), abs=1e-3)
    assert score(2.2, 80, 200) > score(2.2, 100, 200)
    assert score(2.2, 120, 200) < 0  # ten per cent more goals are not worth that some take a fifth longer
    assert score(2, 100, 256) < 0
    assert np.isfinite(score(0, 256, 256))
