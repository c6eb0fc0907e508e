"""Recorded episodes as films: MP4 by the ffmpeg that imageio-ffmpeg brings along, GIF and WebP by Pillow."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from marl.errors import UserError

Frame = NDArray[np.uint8]


@runtime_checkable
class Films(Protocol):
    """A recorder that can draw what it recorded.

    frames_per_second: at which the film runs as fast as the world.
    """

    frames_per_second: float

    def frames(self) -> Iterator[Frame]:
        """Pictures of one size, uint8 ``[height, width, 3]``; both lengths multiples of 16."""


def write_mp4(path: Path, film: Films) -> None:
    """Write a film. Raises ``UserError`` if imageio-ffmpeg is not installed or the file cannot be written."""
    try:
        import imageio_ffmpeg
    except ImportError:
        raise UserError("--mp4 needs imageio-ffmpeg: pip install 'marl-platform[video]'") from None
    writer: Any = None
    try:
        for frame in film.frames():
            if writer is None:
                height, width = frame.shape[:2]
                writer = imageio_ffmpeg.write_frames(str(path), (width, height), fps=film.frames_per_second)
                writer.send(None)
            writer.send(np.ascontiguousarray(frame))
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
    finally:
        if writer is not None:
            writer.close()


#: Kind of file -> how Pillow is to write it: small rather than true to the last colour.
_MOVING: dict[str, dict[str, Any]] = {
    ".webp": {"quality": 60, "method": 4, "minimize_size": True},
    ".gif": {"optimize": True, "disposal": 1},
}


def write_moving_picture(path: Path, film: Films, seconds: float = 8.0) -> None:
    """Write a film that plays by itself, again and again, wherever pictures are shown; GIF suits flat colours best.

    Args:
        path: ends in ``.gif`` or ``.webp``.
        film: what is shown.
        seconds: where it is cut off, as it plays.

    Raises:
        UserError: the file has another ending, or cannot be written.
    """
    look = _MOVING.get(path.suffix.lower())
    if look is None:
        raise UserError(f"{path}: a moving picture ends in {' or '.join(_MOVING)}")
    count = max(1, round(seconds * film.frames_per_second))
    images = [Image.fromarray(frame) for frame in islice(film.frames(), count)]
    if path.suffix.lower() == ".gif":  # one palette for all, or colours flicker
        some = images[:: max(1, len(images) // 8)]
        palette = Image.fromarray(np.concatenate([np.asarray(image) for image in some])).quantize(64)
        images = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    try:
        images[0].save(
            path, save_all=True, append_images=images[1:], duration=1000.0 / film.frames_per_second, loop=0, **look
        )
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from None
