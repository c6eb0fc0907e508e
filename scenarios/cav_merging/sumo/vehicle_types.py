"""SUMO's vehicle types for the drivers that this world draws."""

from __future__ import annotations

from scenarios.cav_merging.drivers import ASSERTIVE, CAR_LENGTH, EMERGENCY_DECEL, STYLES, TIMID
from scenarios.cav_merging.emissions import EMISSION_CLASS

#: Vehicle types in the order of ``Command.TYPE``: styles by assertiveness.
TYPES = tuple((style, bold) for style in STYLES for bold in (TIMID, ASSERTIVE))


def type_name(index: int) -> str:
    """SUMO's name of the vehicle type ``TYPES[index]``."""
    style, bold = TYPES[index]
    return f"{style}_{'assertive' if bold == ASSERTIVE else 'timid'}"


def vehicle_types(car_following: str = "idm") -> str:
    """SUMO's additional file with the vehicle types."""
    model = {"idm": 'carFollowModel="IDM"', "krauss": 'carFollowModel="Krauss" sigma="0"'}[car_following]
    lines = []
    for index, (style, bold) in enumerate(TYPES):
        tau, accel, decel, min_gap = STYLES[style]
        lines.append(
            f'<vType id="{type_name(index)}" {model} tau="{tau}" accel="{accel}" decel="{decel}" '
            f'minGap="{min_gap}" emergencyDecel="{EMERGENCY_DECEL}" length="{CAR_LENGTH}" speedFactor="1" speedDev="0" '
            f'maxSpeed="70" lcAssertive="{bold}" emissionClass="{EMISSION_CLASS}"/>'
        )
    return "<additional>\n" + "\n".join(lines) + "\n</additional>\n"
