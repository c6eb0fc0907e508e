"""SUMO's own files of each episode, and a table of which files belong to which instance."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from marl.errors import UserError

#: What SUMO writes of an episode: the end of a file's name -> the option that takes the file.
KINDS = {
    "tripinfo": "tripinfo-output",
    "fcd": "fcd-output",
    "ssm": "device.ssm.file",
    "emission": "emission-output",
    "statistic": "statistic-output",
    "collision": "collision-output",
}
_OPTIONS = (
    "--tripinfo-output.write-unfinished=true",
    "--fcd-output.acceleration=true",
    "--device.ssm.probability=1",
    "--device.ssm.measures=TTC DRAC PET",
    "--device.emissions.probability=1",
    "--precision=6",
)
TABLE = "episodes.csv"
_HEAD = ["seed", "episode", "files"]


class EpisodeFiles:
    """The files that one simulation writes, one set for each time it is loaded.

    An episode that was never driven, as the one after the last, leaves none: SUMO closes its files when the next one is
    loaded, and they are removed then.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._name = ""
        self._finished = ""
        self.driven = False

    def begin(self, name: str) -> list[str]:
        """Options for an episode whose files are called ``name.KIND.xml``; call ``closed`` when SUMO has loaded."""
        self._finished = "" if self.driven or name == self._name else self._name
        self._name, self.driven = name, False
        files = [f"--{option}={self._folder / f'{name}.{kind}.xml'}" for kind, option in KINDS.items()]
        return [*files, *_OPTIONS]

    def closed(self) -> None:
        """SUMO has closed the files of the episode before: remove those of one that nobody drove."""
        if self._finished:
            for kind in KINDS:
                (self._folder / f"{self._finished}.{kind}.xml").unlink(missing_ok=True)
        self._finished = ""

    def end(self) -> None:
        """SUMO has closed all files."""
        self.begin("")
        self.closed()


class EpisodeTable:
    """``episodes.csv``: seed of the instance, number of its episode, and what its files are called."""

    def __init__(self, folder: Path):
        self._path = folder / TABLE
        self._known: set[str] = set()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if self._path.exists():
                with self._path.open(newline="", encoding="utf-8") as file:
                    self._known = {row[-1] for row in csv.reader(file) if row} - {_HEAD[-1]}
            else:
                self._add([_HEAD])
        except OSError as error:
            raise UserError(f"{folder} cannot hold SUMO's files: {error.strerror}; name another folder") from None

    def note(self, rows: Iterable[tuple[int, int, int]]) -> None:
        """Episodes that begin to drive: (seed of the instance, episode, seed of SUMO)."""
        new = [row for row in rows if str(row[2]) not in self._known]
        self._known |= {str(row[2]) for row in new}
        self._add(new)

    def _add(self, rows: Iterable[Iterable[object]]) -> None:
        with self._path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
