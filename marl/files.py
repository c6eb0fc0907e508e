"""Reading files that may come from elsewhere: plain ones, of bounded size."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from marl.errors import UserError


def read_limited(path: Path, max_bytes: int) -> bytes:
    """The content of a plain file of at most ``max_bytes`` bytes. Raises ``UserError``.

    Pipes and devices are refused: reading them may never end, and opening a pipe may not either.
    """
    try:
        with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            kind = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(kind):
                reason = "Is a directory" if stat.S_ISDIR(kind) else "it is not a plain file"
                raise UserError(f"{path} cannot be read: {reason}")
            data = file.read(max_bytes + 1)
    except (OSError, ValueError) as error:  # a path with a null character is a ValueError
        raise UserError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if len(data) > max_bytes:
        raise UserError(f"{path} is larger than {max_bytes:,} bytes, use a smaller file")
    return data


def read_text(path: Path, max_bytes: int) -> str:
    """The UTF-8 text of such a file. Raises ``UserError``."""
    try:
        return read_limited(path, max_bytes).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file (byte {error.start} is not UTF-8), use a text file") from None
