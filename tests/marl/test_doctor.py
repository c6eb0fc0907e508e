"""``marl doctor`` tells what is there, what is missing, for what, and how to get it."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError

import pytest
from packaging.requirements import Requirement

from marl import doctor
from marl.cli import main
from marl.doctor import EXTRAS, Finding, examine, packages, state_of

REQUIREMENTS = [
    Requirement(text)
    for text in (
        "numpy>=2",
        "tomli; python_version < '3'",
        "absent-package>=1; extra == 'far'",
        "rich>=1; extra == 'near'",
    )
]


def named(findings: list[Finding], what: str) -> Finding:
    return next(finding for finding in findings if finding.what == what)


def test_packages_by_extra_and_machine() -> None:
    assert [one.name for one in packages(REQUIREMENTS, None)] == ["numpy"]
    assert [one.name for one in packages(REQUIREMENTS, "far")] == ["absent-package"]
    assert packages(REQUIREMENTS, "nowhere") == []


def test_states(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"good": "2.1", "stale": "0.9"}

    def version(name: str) -> str:
        if name not in versions:
            raise PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(doctor, "version", version)
    assert state_of(Requirement("good>=2.0")) == ("ok", "good 2.1")
    assert state_of(Requirement("stale>=1.0")) == ("old", "stale 0.9, needed >=1.0")
    assert state_of(Requirement("gone>=1.0")) == ("missing", "gone is not installed")


def test_every_extra_of_the_package_is_looked_at() -> None:
    """One that is added to pyproject.toml is named here for what it is for."""
    findings = examine()
    declared = {
        str(extra)
        for extra in doctor.distribution(doctor.DISTRIBUTION).metadata.get_all("Provides-Extra") or ()
        if extra not in ("all", "test")
    }
    assert {finding.what[1:-1] for finding in findings if finding.what.startswith("[")} == declared
    assert set(EXTRAS) <= declared
    assert "cav_merging" in named(findings, "[sumo]").detail
    assert named(findings, "numpy").needed
    assert named(findings, "lifelong_mapf").state == "ok"


def test_what_is_missing_is_told_with_its_mend(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = doctor.version
    gone = {"libsumo", "torch"}

    def version(name: str) -> str:
        if name in gone:
            raise PackageNotFoundError(name)
        return kept(name)

    monkeypatch.setattr(doctor, "version", version)
    assert main(["doctor"]) == 1  # nothing runs without torch
    out = capsys.readouterr().out
    assert "libsumo is not installed (cav_merging:" in out
    assert "-> pip install 'marl-platform[sumo]'" in out
    gone.discard("torch")
    assert main(["doctor"]) == 0  # an extra is not needed
