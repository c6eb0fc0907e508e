"""Recorded episodes as MP4 files, encoded by the ffmpeg that imageio-ffmpeg brings along."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

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
