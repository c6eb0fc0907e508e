"""Where SUMO is, and one clear sentence where it is not."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from marl.errors import UserError

#: XMLPlatformUtils::Initialize(locale, nlsHome, panicHandler, memoryManager) of Xerces 3.2.
_XERCES_INITIALIZE = "_ZN11xercesc_3_216XMLPlatformUtils10InitializeEPKcS2_PNS_12PanicHandlerEPNS_13MemoryManagerE"
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


def plain(sumo: ModuleType, domain: str, name: str) -> Callable[..., Any]:
    """libsumo's compiled function behind ``domain.name``, such as vehicle.setSpeed, without the wrapper in Python.

    The wrappers cost as much as what they wrap. The names of the compiled ones are not documented: where they are not
    found, the wrapper is returned.
    """
    compiled = getattr(sys.modules.get("libsumo._libsumo"), f"{domain}_{name}", None)
    wrapper: Callable[..., Any] = getattr(getattr(sumo, domain), name)
    return wrapper if compiled is None else compiled


def unwrap(sumo: ModuleType, functions: Mapping[str, Iterable[str]]) -> None:
    """Put the compiled functions (domain -> names) in the place of their wrappers, for callers that are not ours."""
    for domain, names in functions.items():
        for name in names:
            setattr(getattr(sumo, domain), name, staticmethod(plain(sumo, domain, name)))


def keep_parser() -> None:
    """Hold SUMO's XML parser, once it is loaded, so that loading a simulation anew does not set it up again.

    SUMO takes Xerces down and sets it up with every load, which is a third of a load's time. Xerces counts how often it
    was set up; one more keeps it. Where it is not found (another system, another version) nothing changes.
    """
    try:
        text = Path("/proc/self/maps").read_text(encoding="utf-8")
        path = next(line.split(maxsplit=5)[-1] for line in text.splitlines() if "libxerces-c-3" in line)
        set_up = getattr(ctypes.CDLL(path), _XERCES_INITIALIZE)
    except (OSError, StopIteration, AttributeError):
        return
    set_up.argtypes = [ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p]
    set_up.restype = None
    set_up(b"en_US", None, None, None)
