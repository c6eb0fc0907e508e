"""All systems by name."""

from __future__ import annotations

from marl.errors import UserError, nearest
from marl.plugins import is_reference, load_reference
from marl.systems.adacot import ADACOT
from marl.systems.at_grpo import AT_GRPO, HIERARCHICAL_GRPO
from marl.systems.dagger import DAGGER
from marl.systems.dr_mas import DR_MAS
from marl.systems.es import ES
from marl.systems.flow_grpo import FLOW_GRPO
from marl.systems.gdpo import GDPO
from marl.systems.gigpo import GIGPO
from marl.systems.grpo import GRPO
from marl.systems.hgpo import HGPO
from marl.systems.infopo import INFOPO
from marl.systems.m_grpo import M_GRPO
from marl.systems.mappo import IPPO, MAPPO
from marl.systems.mathforge import DGPO
from marl.systems.modules import FOLLOWER, MAPPO_PIS
from marl.systems.otc import OTC
from marl.systems.p3o import P3O
from marl.systems.poad import MAPPO_TEXT, POAD
from marl.systems.r2vpo import R2VPO
from marl.systems.remax import REMAX
from marl.systems.riskpo import RISKPO
from marl.systems.subpo import SUBPO
from marl.systems.system import System
from marl.systems.trpa import TRPA

_TENSOR = (MAPPO, IPPO, MAPPO_PIS, FOLLOWER, SUBPO, DAGGER, ES)
_LANGUAGE = (
    GRPO,
    M_GRPO,
    DR_MAS,
    FLOW_GRPO,
    GIGPO,
    HGPO,
    POAD,
    MAPPO_TEXT,
    AT_GRPO,
    HIERARCHICAL_GRPO,
    OTC,
    GDPO,
    REMAX,
    DGPO,
    RISKPO,
    P3O,
    TRPA,
    R2VPO,
    INFOPO,
    ADACOT,
)
SYSTEMS: dict[str, System] = {system.name: system for system in (*_TENSOR, *_LANGUAGE)}


def load_system(name: str) -> System:
    """The system of that name, or the one that ``module:object`` means.

    Raises ``UserError`` with the nearest known name if there is none.
    """
    if is_reference(name):
        return load_reference(name, System)
    if name not in SYSTEMS:
        raise UserError(f"system '{name}' does not exist{nearest(name, sorted(SYSTEMS))}")
    return SYSTEMS[name]
