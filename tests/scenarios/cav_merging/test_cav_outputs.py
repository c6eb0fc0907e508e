"""SUMO's own files of an evaluation: the table counted again from them, row by row."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest

from marl import api
from marl.cli import main
from marl.evaluation.results import Results
from scenarios.cav_merging.config import DECISION_S, CavConfig
from scenarios.cav_merging.sumo.outputs import KINDS

pytestmark = pytest.mark.usefixtures("needs_sumo")

SEEDS, HORIZON = (3, 4), 100


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Results]:
    folder = tmp_path_factory.mktemp("sumo")
    policies = ["fifo_merge+safety", "random"]
    options = {"backend": "sumo", "sumo_output": str(folder)}
    return folder, api.evaluate("cav_merging", policies, preset="hard", seeds=SEEDS, **options)


def files(folder: Path, seed: int) -> dict[str, ElementTree.Element]:
    """Kind -> root of an instance's files, found by the folder's table."""
    with (folder / "episodes.csv").open(newline="") as table:
        (name,) = [row["files"] for row in csv.DictReader(table) if (row["seed"], row["episode"]) == (str(seed), "0")]
    return {kind: ElementTree.parse(folder / f"{name}.{kind}.xml").getroot() for kind in KINDS}


def recount(roots: dict[str, ElementTree.Element]) -> dict[str, float]:
    """The figures of an episode without collisions, from the moments at which decisions ended, and its trips."""
    speeds: dict[str, list[float]] = defaultdict(list)
    lanes: dict[str, list[str]] = defaultdict(list)
    for moment in roots["fcd"]:
        steps = round(float(moment.get("time", "0")) * 10)
        for car in moment:
            lanes[car.attrib["id"]].append(car.attrib["lane"])
            if steps > 0 and steps % 2 == 0:
                speeds[car.attrib["id"]].append(float(car.attrib["speed"]))
    every = np.concatenate(list(speeds.values()))
    ramp = [way for way in lanes.values() if way[0] == "ramp_0"]
    merged = [way for way in ramp if any(lane not in ("ramp_0", "merge_0") for lane in way)]
    ends = [float(trip.get("arrival", "-1")) for trip in roots["tripinfo"]]
    return {
        "mean_speed_mps": float(every.mean()),
        "travel_time_s": len(every) * DECISION_S / len(lanes),
        "merged_share": len(merged) / len(ramp),
        "flow_veh_per_h": sum(end >= 0 for end in ends) / (HORIZON * DECISION_S) * 3600,
        "collision_rate": float(len(roots["collision"]) > 0),
    }


def test_the_table_is_counted_again_from_sumos_files(evaluated: tuple[Path, Results]) -> None:
    folder, results = evaluated
    figures = results.raw[0, "fifo_merge+safety"]
    for k, seed in enumerate(SEEDS):
        counted = recount(files(folder / "fifo_merge+safety", seed))
        assert figures["collision_rate"][k] == 0
        for name, value in counted.items():
            assert figures[name][k] == pytest.approx(value, rel=1e-5), (name, seed)


def test_collisions_are_those_of_sumos_file(evaluated: tuple[Path, Results]) -> None:
    """Those between cars: SUMO knows nothing of cars that run off the acceleration lane."""
    folder, results = evaluated
    rates = results.raw[0, "random"]["collision_rate"]
    found = [len(files(folder / "random", seed)["collision"]) > 0 for seed in SEEDS]
    assert any(found) and all(rate == 1 for rate, seen in zip(rates, found, strict=True) if seen)


def test_files_change_nothing_and_nobody_drives_in_none(evaluated: tuple[Path, Results]) -> None:
    folder, results = evaluated
    plain = api.evaluate("cav_merging", ["random"], preset="hard", seeds=SEEDS, backend="sumo")
    for name, values in plain.raw[0, "random"].items():
        np.testing.assert_array_equal(values, results.raw[0, "random"][name])
    for one in ("fifo_merge+safety", "random"):
        assert len(list((folder / one).glob("*.xml"))) == len(SEEDS) * len(KINDS)
    roots = files(folder / "random", SEEDS[0])
    assert roots["tripinfo"].find("tripinfo/emissions") is not None and len(roots["emission"]) > 0
    assert roots["ssm"].tag == "SSMLog" and roots["statistic"].find("vehicles") is not None


def test_rows_of_episodes(evaluated: tuple[Path, Results], tmp_path: Path) -> None:
    _, results = evaluated
    results.write_csv(tmp_path / "rows.csv")
    with (tmp_path / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["policy"], row["seed"], row["episode"]) for row in rows] == [
        (policy, str(seed), "0") for policy in ("fifo_merge+safety", "random") for seed in SEEDS
    ]
    assert rows[1]["preset"] == "hard" and rows[1]["backend"] == "sumo"
    assert float(rows[1]["mean_speed_mps"]) == results.raw[0, "fifo_merge+safety"]["mean_speed_mps"][1]
    assert rows[2]["interventions_per_step"] == ""  # the rule without a supervisor has no such figure


def test_where_files_cannot_be_written_it_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    words = ["evaluate", "cav_merging", "--policies", "random", "--seeds", "0:1", "--sumo-output", str(taken)]
    assert main(words) == 2
    assert "cannot hold SUMO's files" in capsys.readouterr().err
    with pytest.raises(ValueError, match="sumo_output needs backend sumo"):
        CavConfig(sumo_output="x")
