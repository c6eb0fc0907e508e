"""Where SUMO is, and one clear sentence where it is not."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from marl.errors import UserError

MISSING = "SUMO is not installed; run: pip install 'marl-platform[sumo]'"


def sumo_home() -> Path:
    """The folder of the eclipse-sumo package; ``UserError`` if it is not installed."""
    found = importlib.util.find_spec("sumo")
    if found is None or not found.submodule_search_locations:
        raise UserError(MISSING)
    return Path(found.submodule_search_locations[0])


def sumo_binary(name: str) -> Path:
    """The program 'netconvert', 'sumo-gui', ... of the installed SUMO."""
    path = sumo_home() / "bin" / name
    if not path.exists():
        raise UserError(f"the installed SUMO has no {name}; run: pip install --force-reinstall 'marl-platform[sumo]'")
    return path


def import_libsumo() -> ModuleType:
    """The module libsumo. Imported late: it is optional, 200 MB, and holds one simulation per process."""
    try:
        return importlib.import_module("libsumo")
    except ImportError:
        raise UserError(MISSING) from None
