"""Pictures of somebody's environment, from whatever its ``render`` gives."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from marl.errors import UserError

Frame = NDArray[np.uint8]
#: What can be made a picture, the best first.
_MODES = ("rgb_array", "ansi")
#: Both sides are multiples of it, as films want them.
_BLOCK = 16


def shown_mode(env: Any) -> str | None:
    """The best of an environment's ``render_modes``; None if it has none that gives pictures or text."""
    modes = getattr(env, "metadata", {}).get("render_modes", [])
    return next((mode for mode in _MODES if mode in modes), None)


def frame_of(env: Any) -> Frame:
    """What the environment shows now, uint8 ``[height, width, 3]``, both sides multiples of 16.

    Raises ``UserError`` if it shows nothing, with what it said.
    """
    try:
        shown = env.render()
    except (Exception, SystemExit) as error:
        words = " ".join(str(error).split())[:200]
        raise UserError(f"{env} cannot show itself: {type(error).__name__}: {words}") from error
    if isinstance(shown, str):
        return _padded(_written(shown))
    if isinstance(shown, list) and shown and isinstance(shown[-1], np.ndarray):
        shown = shown[-1]
    pixels = np.asarray(shown) if isinstance(shown, np.ndarray | Image.Image) else np.zeros(0)
    if pixels.ndim == 2:
        pixels = np.repeat(pixels[:, :, None], 3, axis=2)
    if pixels.ndim != 3 or pixels.shape[2] not in (3, 4):
        raise UserError(f"{env} cannot show itself: its render() gives {type(shown).__name__}, not a picture or text")
    if pixels.dtype != np.uint8:
        pixels = np.clip(pixels * (255.0 if pixels.max(initial=0) <= 1.0 else 1.0), 0, 255)
    return _padded(pixels[..., :3].astype(np.uint8))


def fitted(frame: Frame, shape: tuple[int, ...]) -> Frame:
    """A frame cut off, or filled up with black, to another shape: environments may change their size."""
    out = np.zeros(shape, np.uint8)
    height, width = min(shape[0], frame.shape[0]), min(shape[1], frame.shape[1])
    out[:height, :width] = frame[:height, :width]
    return out


def _padded(pixels: Frame) -> Frame:
    height, width = (-(-side // _BLOCK) * _BLOCK for side in pixels.shape[:2])
    return fitted(pixels, (height, width, 3))


def _written(text: str) -> Frame:
    """Text as a picture, white on black."""
    draw = ImageDraw.Draw(Image.new("RGB", (1, 1)))
    left, top, right, bottom = draw.multiline_textbbox((8, 8), text or " ")
    image = Image.new("RGB", (int(right + left), int(bottom + top)))
    ImageDraw.Draw(image).multiline_text((8, 8), text, fill="white")
    return np.asarray(image)
