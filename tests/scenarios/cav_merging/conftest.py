"""What the tests of this scenario share."""

import importlib.util
import os
from collections.abc import Iterator
from types import ModuleType

import pytest
import torch

torch.set_num_threads(1)


def require_sumo() -> None:
    """Skip where SUMO is missing, fail where continuous integration forgot it."""
    if importlib.util.find_spec("libsumo") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("SUMO is missing; install the extra 'sumo'")
        pytest.skip("SUMO is not installed")


@pytest.fixture
def sumo() -> Iterator[ModuleType]:
    """libsumo, with no simulation before and after."""
    require_sumo()
    import libsumo

    yield libsumo
    if libsumo.isLoaded():
        libsumo.close()


@pytest.fixture
def needs_sumo() -> None:
    require_sumo()
