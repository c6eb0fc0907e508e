"""A recorded conversation as pictures: what was said, one moment after the other, indented by the depth of the call."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

#: Pictures of a second.
FRAMES_PER_SECOND = 1.0

_WIDTH, _HEIGHT = 640, 352
_GROUND, _INK, _SOFT = (246, 247, 249), (28, 36, 48), (93, 104, 120)
#: Bubbles by speaker: what an agent says, what it is asked or answered, what a tool says.
_BUBBLES = {"assistant": (214, 228, 252), "user": (255, 255, 255), "tool": (222, 243, 231)}
_INDENT, _PAD, _LINE, _COLUMNS = 44, 8, 18, 62


def pictures(messages: Sequence[Mapping[str, Any]], figures: str) -> Iterator[NDArray[np.uint8]]:
    """Pictures uint8 ``[height, width, 3]``, one for each moment and the last one three times.

    Args:
        messages: in order; ``agent``, ``level``, ``speaker``, ``text`` and ``frame``, the moment.
        figures: a line that is shown with the last moment.
    """
    font, small = ImageFont.load_default(14), ImageFont.load_default(11)
    last = max(int(message["frame"]) for message in messages)
    for moment in (*range(last + 1), last, last):
        picture = Image.new("RGB", (_WIDTH, _HEIGHT), _GROUND)
        pen = ImageDraw.Draw(picture)
        said = [message for message in messages if message["frame"] <= moment]
        bottom = _HEIGHT - _PAD
        if moment == last:
            bottom -= _LINE + _PAD
            pen.text((_PAD * 2, bottom + _PAD // 2), figures, _SOFT, font)
        for message in reversed(said):
            lines = wrap(str(message["text"]), _COLUMNS) or [""]
            height = len(lines) * _LINE + 2 * _PAD + 10
            top = bottom - height
            if top < 0:
                break
            left = _PAD * 2 + _INDENT * int(message["level"])
            right = left + 2 * _PAD + max(pen.textlength(line, font) for line in lines)
            head = f"{message['agent']}{' hears' if message['speaker'] != 'assistant' else ''}"
            pen.text((left, top), head, _SOFT, small)
            box = [left, top + 14, max(right, left + 40), bottom - 2]
            pen.rounded_rectangle(box, 8, _BUBBLES.get(str(message["speaker"]), _BUBBLES["user"]), (200, 206, 214))
            for number, line in enumerate(lines):
                pen.text((left + _PAD, top + 12 + _PAD + number * _LINE), line, _INK, font)
            bottom = top - 4
        yield np.asarray(picture)
