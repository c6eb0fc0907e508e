"""``marl tune``: what it finds, how it resumes, what it refuses."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from marl import api
from marl.cli import main
from marl.errors import UserError
from marl.scenario import Parameter
from marl.training import tuning
from marl.yaml_io import read_yaml

SHOWN = "cli_scenario:SHOWN"
SHORT = {"generations": 8, "population": 6, "instances": 8, "judged": 4}
FIVE = SHORT | {"generations": 5, "instances": 2}


class KilledError(Exception):
    pass


def kill_at(generation: int) -> tuning.OnGeneration:
    def on_generation(done: int, total: int, score: float) -> None:
        if done == generation:
            raise KilledError

    return on_generation


def test_tuning_finds_what_helps(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    done = api.tune(
        SHOWN, "pace", search=SHORT, out=tmp_path / "t", progress=lambda n, total, score: seen.append((n, total))
    )
    assert seen == [(n, 8) for n in range(1, 9)]
    assert done.values["haste"] > 0.5 > 0.3 > done.values["pause"]
    means = {row.policy: row.mean for row in done.results.rows if row.metric == "reached_share"}
    assert means["tuned"] > means["start"] + 0.1 > means["stay"] + 0.1
    written = read_yaml(done.file)
    assert (written["scenario"], written["tunable"], written["values"]) == ("tiny", "pace", dict(done.values))
    assert written["about"]["unseen"][0]["mean"] == pytest.approx(means["tuned"], abs=1e-4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuning.Tuned:
    """A tuning that nobody stopped."""
    folder = tmp_path_factory.mktemp("whole") / "t"
    return api.tune(SHOWN, "pace", search=FIVE, out=folder, overrides=["seed=3"])


def test_a_killed_tuning_goes_on_to_the_same_end(tmp_path: Path, whole: tuning.Tuned) -> None:
    folder = tmp_path / "t"
    with pytest.raises(KilledError):
        api.tune(SHOWN, "pace", search=FIVE, out=folder, overrides=["seed=3"], progress=kill_at(3))
    log = folder / tuning.GENERATIONS
    assert len(log.read_text().splitlines()) == 3
    assert tuning.resume(folder).file.read_bytes() == whole.file.read_bytes()
    assert log.read_bytes() == (whole.file.parent / tuning.GENERATIONS).read_bytes()


@pytest.mark.parametrize("torn", ['{"generation": 4, "sco', "not json\n", '{"generation": 7, "scores": []}\n', "[1]\n"])
def test_a_line_that_was_being_written_is_played_again(tmp_path: Path, whole: tuning.Tuned, torn: str) -> None:
    log = whole.file.parent / tuning.GENERATIONS
    (tmp_path / tuning.SETTINGS).write_bytes((whole.file.parent / tuning.SETTINGS).read_bytes())
    lines = log.read_text().splitlines(keepends=True)
    (tmp_path / tuning.GENERATIONS).write_text("".join(lines[:4]) + torn)
    assert tuning.resume(tmp_path).values == whole.values
    assert (tmp_path / tuning.GENERATIONS).read_bytes() == log.read_bytes()


def test_another_seed_searches_elsewhere(tmp_path: Path, whole: tuning.Tuned) -> None:
    assert api.tune(SHOWN, "pace", search=FIVE, out=tmp_path / "t", overrides=["seed=4"]).values != whole.values


def test_scores_that_were_played_are_not_played_again(tmp_path: Path) -> None:
    """The search follows the file: with other scores in it, it ends elsewhere."""
    done = api.tune(SHOWN, "pace", search=SHORT | {"generations": 3}, out=tmp_path / "t")
    log = tmp_path / "t" / tuning.GENERATIONS
    records = [json.loads(line) for line in log.read_text().splitlines()]
    for record in records:
        record["scores"] = [-score for score in record["scores"]]
    log.write_text("".join(json.dumps(record) + "\n" for record in records))
    assert tuning.resume(tmp_path / "t").values["haste"] < done.values["haste"]


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["--generations", "2", "--population", "4", "--instances", "2", "--step", "0.05", "--out", "t"]
    assert main(["tune", SHOWN, "pace", *words, "--agents", "3", "--set", "seed=1"]) == 0
    out, err = capsys.readouterr()
    assert "tuned" in out
    assert "wrote t/pace.yaml" in out
    assert "tunes pace on: agents 3" in err
    assert "generation 2/2: score" in err
    assert main(["tune", "--resume", "t"]) == 0
    assert main(["list", "tunables", "--scenario", SHOWN]) == 0
    assert "tiny pace  how fast they walk" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["tune"], "which scenario? For example: marl tune "),
        (["tune", SHOWN], "tune what? For example: marl tune"),
        (["tune", SHOWN, "place"], "tiny has no tunable 'place'; did you mean 'pace'?"),
        (
            ["tune", "traffic_signals", "pace"],
            "traffic_signals has no tunable 'pace'; it has nothing that can be tuned",
        ),
        (["tune", SHOWN, "pace", "--agents", "9"], "pace is for 8 agents at most"),
        (["tune", SHOWN, "pace", "--out", "full"], "folder full is not empty: choose another --out"),
        (["tune", "--resume", "full"], "full is not the folder of a tuning: it has no tuning.yaml"),
        (["tune", "--resume", "odd"], "odd/tuning.yaml has no configuration"),
        (["tune", "--resume", "full", "--generations", "3"], "leave the other words out"),
        (["tune", SHOWN, "pace", "--population", "3"], "Invalid value for '--population'"),
        (["tune", SHOWN, "pace", "--step", "0"], "Invalid value for '--step'"),
    ],
)
def test_users_mistakes_end_in_one_sentence(
    words: list[str],
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder, file in (("full", "note.txt"), ("odd", tuning.SETTINGS)):
        Path(folder).mkdir()
        Path(folder, file).write_text("a: 1\n")
    assert main(words) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert reason in err


def test_a_score_that_is_none_stops_and_what_was_played_is_kept(
    tmp_path: Path, whole: tuning.Tuned, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once the score is mended the tuning goes on to the same end."""
    folder, original = tmp_path / "t", tuning._Judge.scores

    def spoiled(self: tuning._Judge, generation: int, points: Any) -> Any:
        scores = original(self, generation, points)
        scores[4] = math.nan if generation == 2 else scores[4]
        return scores

    words = ["--generations", "5", "--population", "6", "--instances", "2", "--out", str(folder), "--set", "seed=3"]
    with monkeypatch.context() as patch:
        patch.setattr(tuning._Judge, "scores", spoiled)
        assert main(["tune", SHOWN, "pace", *words]) == 2
        *_, error = capsys.readouterr().err.splitlines()
        assert "generation 3: the score of candidate 4 is NaN; mend the metric" in error
        assert error.endswith(f"then go on with 'marl tune --resume {folder}'")
    assert len((folder / tuning.GENERATIONS).read_text().splitlines()) == 2
    assert tuning.resume(folder).values == whole.values


def test_equal_scores_are_told_once_and_the_start_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuning._Judge, "scores", lambda self, generation, points: np.full(len(points), 0.5))
    heard: list[str] = []
    done = api.tune(SHOWN, "pace", search=FIVE, out=tmp_path / "t", echo=heard.append)
    (line,) = [line for line in heard if "candidates" in line]
    assert line.startswith("generation 1: all 6 candidates score 0.5, so nothing is learned from it")
    start = {
        parameter.name: parameter.start for parameter in api.load_scenario(SHOWN).tunables["pace"].parameters(None)
    }
    assert done.values == pytest.approx(start, rel=1e-3)


def test_a_tuning_in_use_is_left_alone(tmp_path: Path) -> None:
    def intrude(done: int, total: int, score: float) -> None:
        with pytest.raises(UserError, match="in use by process"):
            tuning.resume(tmp_path / "t")

    api.tune(SHOWN, "pace", search=SHORT | {"generations": 1}, out=tmp_path / "t", progress=intrude)


@pytest.mark.parametrize("scale", ["linear", "square", "decay"])
def test_scales_map_the_stretch_onto_the_range(scale: str) -> None:
    parameter = Parameter("x", 0.5, 0.998, 0.9, scale)
    places = [i / 10 for i in range(11)]
    values = [parameter.value(place) for place in places]
    assert values == sorted(values)
    assert (values[0], values[-1]) == (pytest.approx(0.5), pytest.approx(0.998))
    assert [parameter.place(value) for value in values] == pytest.approx(places)
    assert parameter.value(-1) == values[0]
    assert parameter.place(2.0) == 1
    middle = {"linear": 0.749, "square": 0.6245, "decay": 1 - (0.5 * 0.002) ** 0.5}[scale]
    assert parameter.value(0.5) == pytest.approx(middle)
