"""Where a user's own code failed, for a sentence in place of a traceback."""

from __future__ import annotations

import site
import sysconfig
import traceback
from pathlib import Path

#: The environment variable that has the command line show tracebacks of the user's own code.
TRACEBACK = "MARL_TRACEBACK"

_PLATFORM = Path(__file__).parents[2]
_LONGEST = 400


def own_place(error: BaseException) -> str | None:
    """``file, line, function: what failed`` of the innermost line that is the user's own.

    Returns None where no line is: all of them are of the platform, of Python or of installed packages.
    """
    if isinstance(error, SyntaxError) and error.filename is not None and _is_own(error.filename):
        return f"{Path(error.filename).name}, line {error.lineno}: {error.msg}"
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if _is_own(frame.filename)]
    if not own:
        return None
    words = " ".join(str(error).split())[:_LONGEST]
    last = own[-1]
    return f"{Path(last.filename).name}, line {last.lineno}, in {last.name}: {type(error).__name__}: {words}"


def _is_own(filename: str) -> bool:
    path = Path(filename)
    if filename.startswith("<") or not path.is_absolute():
        return False
    platform = [_PLATFORM / "marl", _PLATFORM / "scenarios"]
    paths = sysconfig.get_paths()
    python = [paths[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    installed = [*python, *site.getsitepackages(), site.getusersitepackages()]
    return not any(path.is_relative_to(folder) for folder in [*platform, *map(Path, installed)])
