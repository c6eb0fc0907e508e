"""Run folders: what is in one, who may use it, and where its provenance comes from."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny_scenario import tiny_config

from marl.config import config_hash
from marl.errors import UserError
from marl.training import provenance as provenance_module
from marl.training.provenance import provenance
from marl.training.run_folder import RunFolder, default_path, read_config

LOCKER = """
import fcntl, os, sys, time
lock = open(sys.argv[1], "a+")
fcntl.flock(lock, fcntl.LOCK_EX)
lock.write(str(os.getpid()))
lock.flush()
print("locked", flush=True)
time.sleep(60)
"""


def test_a_new_folder_holds_configuration_and_provenance(tmp_path: Path) -> None:
    config = tiny_config(seed=5)
    with RunFolder.create(config, tmp_path / "deep" / "run") as folder:
        assert folder.path == tmp_path / "deep" / "run"
    assert read_config(folder.path) == config
    record = json.loads((folder.path / "provenance.json").read_text())
    assert record["schema_version"] == 1
    assert record["starts"][0]["config_sha256"] == config_hash(config)
    with RunFolder.open(folder.path) as again:
        assert again.config == config
    assert len(json.loads((folder.path / "provenance.json").read_text())["starts"]) == 2


def test_default_names_tell_runs_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = tiny_config(seed=3, preset="quick", scenario="tiny")
    name = default_path(config).name
    assert name.startswith("tiny-mappo-quick-s3-")
    config = tiny_config(seed=3)
    first, second = RunFolder.create(config), RunFolder.create(config)
    assert first.path != second.path
    assert first.path.parent == second.path.parent == Path("runs")
    first.close()
    second.close()
    second.close()


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    RunFolder.create(tiny_config(), tmp_path / "run").close()
    with pytest.raises(UserError, match=r"is not empty: continue it with 'marl train --resume .*run' or choose"):
        RunFolder.create(tiny_config(), tmp_path / "run")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").touch()
    with pytest.raises(UserError, match="is not empty: choose another --out"):
        RunFolder.create(tiny_config(), tmp_path / "other")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be made: File exists"):
        RunFolder.create(tiny_config(), tmp_path / "file")


def test_a_second_process_is_told_who_holds_the_folder(tmp_path: Path) -> None:
    path = tmp_path / "run"
    RunFolder.create(tiny_config(), path).close()
    with subprocess.Popen(
        [sys.executable, "-c", LOCKER, str(path / ".lock")], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(UserError, match=r"is in use by process [0-9]+: wait for it to end"):
            RunFolder.open(path)
        with pytest.raises(UserError, match="is in use by process"):
            RunFolder.create(tiny_config(), path)
        process.kill()
    RunFolder.open(path).close()


def test_a_preset_from_a_file_leads_nowhere_else() -> None:
    path = default_path(tiny_config(preset="../../elsewhere"))
    assert path.parent == Path("runs") and "/" not in path.name


def test_a_folder_in_which_nothing_was_begun_is_taken_back(tmp_path: Path) -> None:
    with RunFolder.create(tiny_config(), tmp_path / "run") as folder:
        folder.discard()
    assert not (tmp_path / "run").exists()
    with RunFolder.create(tiny_config(), tmp_path / "run") as folder:
        (tmp_path / "run" / "note.txt").touch()
        folder.discard()
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["note.txt"]


def test_the_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    path = tmp_path / "run"
    RunFolder.create(tiny_config(), path).close()
    (path / "config.yaml").write_text("scenario: 3\n")
    for _ in range(2):
        with pytest.raises(UserError, match="does not say its scenario and system"):
            RunFolder.open(path)
    with pytest.raises(UserError, match="is not a run folder"):
        RunFolder.open(tmp_path / "none")
    with pytest.raises(UserError, match="is not a run folder"):
        read_config(tmp_path)


def test_a_damaged_record_does_not_stop_a_run(tmp_path: Path) -> None:
    path = tmp_path / "run"
    RunFolder.create(tiny_config(), path).close()
    for text in ("{", "[]", '{"starts": 3}'):
        (path / "provenance.json").write_text(text)
        RunFolder.open(path).close()
        assert len(json.loads((path / "provenance.json").read_text())["starts"]) == 1


def test_a_full_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="cannot be made: No space left on device"):
        RunFolder.create(tiny_config(), tmp_path / "run")


def test_provenance(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    record = provenance(tiny_config(), ["marl", "train", "--map", "/home/someone/secret/a.map"])
    assert record["command"] == ["marl", "train", "--map", "~/secret/a.map"]
    assert record["versions"]["numpy"] == np.__version__
    assert record["device"] == "cpu"
    json.dumps(record)
    assert (record["git"] is None) or len(record["git"]["commit"]) >= 40
    monkeypatch.setattr(provenance_module, "_run_git", lambda *_: None)
    assert provenance(tiny_config())["git"] is None
