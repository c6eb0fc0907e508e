"""What of a user's SUMO set-up is run: the network, the demand, additional files, and when it begins."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from xml.etree.ElementTree import Element

from marl.envs.sumo.files import demand_begin, read_routes_root, seconds
from marl.envs.sumo.install import sumo_binary
from marl.errors import UserError
from marl.xml_io import read_xml
from scenarios.cav_merging.config import DECISION_S, SIM_STEP_S, CavConfig
from scenarios.cav_merging.sumo.networks import find_network

_CONFIGURATIONS = ("configuration", "sumoConfiguration", "sumo-configuration")
#: Options of a configuration that are obeyed besides its files and its begin.
_OBEYED = ("ignore-route-errors", "max-depart-delay", "eager-insert", "random-depart-offset", "scale")
#: Those that are without meaning here: reports, windows, and when it ends.
_MOOT = ("report", "gui_only", "gui", "output", "traci_server", "random_number", "input")
_MOOT_OPTIONS = ("end", "begin", "collision.action", "collision.check-junctions", "collision.mingap-factor")
_CHECK_S = 120.0


@dataclass(frozen=True)
class SumoInputs:
    """Files and options of a run in SUMO.

    net: the network. routes, additional: the other files. begin: s, None if nothing says. options: further options of
    SUMO, name -> value. ignored: what a configuration asks for and does not get.
    """

    net: Path
    routes: tuple[Path, ...] = ()
    additional: tuple[Path, ...] = ()
    begin: float | None = None
    options: tuple[tuple[str, str], ...] = ()
    ignored: tuple[str, ...] = ()

    def arguments(self) -> list[str]:
        """As options of SUMO, without the network."""
        given = [f"--{name}={value}" for name, value in self.options]
        if self.routes:
            given.append("--route-files=" + ",".join(map(str, self.routes)))
        return given


def sumo_inputs(config: CavConfig) -> SumoInputs:
    """The files that ``world.net``, ``routes`` and ``additional`` name; a ``.sumocfg`` as ``net`` names them all.

    Raises ``UserError`` for files that are not there and for what cannot be run: sublanes (SL2015), mesoscopic models.
    """
    assert config.net is not None
    given = find_network(config.net)
    own = SumoInputs(given)
    if given.name.endswith((".sumocfg", ".cfg", ".cfg.xml")) or _is_configuration(given):
        own = _read_configuration(given)
    routes = (Path(config.routes),) if config.routes else own.routes
    additional = tuple(map(Path, config.additional)) or own.additional
    begin = own.begin if config.begin_s is None else config.begin_s
    for path in (*routes, *additional):
        _check_models(path)
    return SumoInputs(own.net, routes, additional, begin, own.options, own.ignored)


def _is_configuration(path: Path) -> bool:
    return not path.name.endswith((".net.xml", ".net.xml.gz")) and read_xml(path).tag in _CONFIGURATIONS


def _read_configuration(path: Path) -> SumoInputs:
    root = read_xml(path)
    if root.tag not in _CONFIGURATIONS:
        raise UserError(f"{path} is no SUMO configuration: its root is <{root.tag}>")
    options = {name: value for _, name, value in _options(root)}

    def files(*names: str) -> tuple[Path, ...]:
        text = next((options[name] for name in names if options.get(name)), "")
        return tuple(path.parent / part.strip() for part in text.split(",") if part.strip())

    nets = files("net-file", "n", "net")
    if len(nets) != 1:
        raise UserError(f"{path} names no net-file; give the network itself as --net")
    if options.get("mesosim", "false") in ("true", "1"):
        raise UserError(f"{path} asks for the mesoscopic model (mesosim), where cars have no lanes; leave it out")
    if float(options.get("lateral-resolution", "0") or 0) > 0:
        raise UserError(
            f"{path} asks for sublanes (lateral-resolution): they cannot be run, cars change whole lanes here; "
            f"leave it out, or give its network and routes as --net {nets[0]} --routes FILE"
        )
    kept = tuple((name, options[name]) for name in _OBEYED if name in options)
    ignored = tuple(
        f"{name}={value}"
        for section, name, value in _options(root)
        if section not in _MOOT and name not in (*_OBEYED, *_MOOT_OPTIONS) and not _default(name, value)
    )
    begin = seconds(options["begin"]) if "begin" in options else None
    return SumoInputs(nets[0], files("route-files", "r"), files("additional-files", "a"), begin or None, kept, ignored)


def _default(name: str, value: str) -> bool:
    """What we do anyway."""
    return value in ("", "false", "0") or (name == "step-length" and seconds(value) == SIM_STEP_S)


def _options(root: Element) -> Iterator[tuple[str, str, str]]:
    """(section, name, value) of a configuration's options, which may stand outside a section."""
    for element in root:
        for option in element if len(element) else [element]:
            section = element.tag if len(element) else ""
            yield section, option.tag, option.get("value", option.get("v", ""))


def _check_models(path: Path) -> None:
    """``UserError`` for vehicles that move within lanes."""
    for element in read_xml(path).iter("vType"):
        if element.get("laneChangeModel", "") == "SL2015":
            raise UserError(
                f"vType '{element.get('id')}' of {path} changes lanes by SL2015 (sublanes), which cannot be run: cars "
                "change whole lanes here; take LC2013"
            )


@dataclass(frozen=True)
class Demand:
    """Cars that SUMO lets come, as a user's files say.

    inputs: the files. begin: when episodes begin, s. warm_up: decisions that SUMO drives alone before them. automated:
    names of the vTypes whose cars are automated; none: a share of all cars. agents: slots for automated cars.
    """

    inputs: SumoInputs
    begin: float
    warm_up: int
    automated: frozenset[str]
    agents: int


def sumo_demand(config: CavConfig, inputs: SumoInputs) -> Demand:
    """What SUMO is to insert. Raises ``UserError`` if nobody departs, and for what SUMO itself refuses."""
    duration = config.horizon * DECISION_S
    warm_up = config.warm_up_s
    roots: Mapping[Path, Element] = {path: read_routes_root(path) for path in inputs.routes}
    cars = Element("routes")
    for root in roots.values():
        cars.extend(list(root))
    begin = demand_begin(inputs.routes[0], cars, inputs.begin, warm_up + duration)
    types = {element.get("id", "") for element in cars.iter("vType")}
    for path in inputs.additional:
        types |= {element.get("id", "") for element in read_xml(path).iter("vType")}
    for name in config.cav_types:
        if name not in types:
            known = ", ".join(sorted(types)) or "none"
            raise UserError(f"world.cav_types names '{name}', but the vTypes of {inputs.routes[0]} are: {known}")
    _try(inputs, begin, begin + warm_up + duration)
    return Demand(inputs, begin, round(warm_up / DECISION_S), frozenset(config.cav_types), config.max_cavs)


@cache
def _try(inputs: SumoInputs, begin: float, end: float) -> None:
    """Let SUMO run the files once by itself, so that what it refuses is said in its own words, before workers start."""
    command = [str(sumo_binary("sumo")), f"--net-file={inputs.net}", *inputs.arguments()]
    if inputs.additional:
        command.append("--additional-files=" + ",".join(map(str, inputs.additional)))
    command += [f"--begin={begin}", f"--end={end}", f"--step-length={SIM_STEP_S}", "--no-step-log=true"]
    command += ["--no-warnings=true", "--duration-log.disable=true", "--time-to-teleport=-1"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_CHECK_S)
    except subprocess.TimeoutExpired:
        return  # It runs, slowly.
    if done.returncode != 0:
        words = [line.removeprefix("Error:").strip() for line in done.stderr.splitlines() if line.startswith("Error:")]
        raise UserError(f"SUMO does not run {inputs.routes[0]} on {inputs.net}: {' '.join(words[:2]) or done.stderr}")
