"""Lifelong multi-agent path finding on grids. ``scenario.py`` declares it; ``README.md`` is its page."""

from scenarios.lifelong_mapf.config import MapfConfig
from scenarios.lifelong_mapf.parallel import parallel_env
from scenarios.lifelong_mapf.world import LifelongMapf

__all__ = ["LifelongMapf", "MapfConfig", "parallel_env"]
