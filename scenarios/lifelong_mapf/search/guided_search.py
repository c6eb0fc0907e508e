"""``guided_search``: ``windowed`` with what was learned for it on generated maps.

Two things were learned: the numbers of its guidance, by ``marl tune lifelong_mapf search``, for three kinds of maps
(``vectors/search-*.yaml``); and from whom an iteration starts (``choice_training``, weights in ``choice.yaml``), by
``scripts/assets/train_choice.py``. What each of them brings: docs/decisions.md.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import Field

from marl.yaml_io import read_yaml
from scenarios.lifelong_mapf.maps.kinds import KINDS
from scenarios.lifelong_mapf.search.neighbourhoods import FEATURES
from scenarios.lifelong_mapf.search.windowed import Windowed, WindowedConfig, WindowedWorld, named_guidance

#: The shipped vectors that were tuned for the search.
VECTORS = {kind: f"search-{kind}" for kind in KINDS}

#: Where the weights of the choice are kept.
CHOICE_FILE = Path(__file__).parent / "choice.yaml"


class GuidedSearchConfig(WindowedConfig):
    """Options of ``guided_search``, those of ``windowed`` and two more."""

    learned_choice: bool = Field(True, description="start iterations where it was learned to, else as windowed does")
    draws: int = Field(8, ge=1, le=64, description="agents that an iteration chooses from")


@cache
def choice_weights() -> tuple[float, ...]:
    """The shipped weights of ``FEATURES``."""
    weights = read_yaml(CHOICE_FILE)["weights"]
    return tuple(float(weights[name]) for name in FEATURES)


def guided_search(world: WindowedWorld, options: GuidedSearchConfig) -> Windowed:
    """The search for ``world``."""
    guidance = named_guidance(world, options.guidance, VECTORS)
    return Windowed(world, options, guidance, (options.draws, choice_weights() if options.learned_choice else ()))
