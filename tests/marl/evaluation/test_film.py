"""Moving pictures: as many frames as asked, in colours of their own, and a sentence where they cannot be written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from marl.errors import UserError
from marl.evaluation.film import Frame, write_moving_picture

COLOURS = ((200, 30, 30), (30, 200, 30), (30, 30, 200))


class Film:
    frames_per_second = 10.0

    def frames(self) -> Iterator[Frame]:
        for colour in COLOURS * 4:
            yield np.broadcast_to(np.array(colour, np.uint8), (16, 32, 3))


@pytest.mark.parametrize("name", ["film.gif", "film.webp", "FILM.GIF"])
def test_a_moving_picture_holds_its_frames(tmp_path: Path, name: str) -> None:
    write_moving_picture(tmp_path / name, Film(), seconds=0.6)
    with Image.open(tmp_path / name) as image:
        assert (image.size, image.n_frames) == ((32, 16), 6)
        for number, colour in enumerate(COLOURS):
            image.seek(number)
            assert np.abs(np.asarray(image.convert("RGB"), int) - colour).max() < 12
            assert image.info["duration"] == 100


def test_other_endings_and_folders_that_do_not_exist_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"film\.png: a moving picture ends in \.webp or \.gif"):
        write_moving_picture(tmp_path / "film.png", Film())
    with pytest.raises(UserError, match="cannot be written"):
        write_moving_picture(tmp_path / "none" / "film.gif", Film())
