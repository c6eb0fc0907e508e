"""What holds for all tests: they may run in several processes at once."""

from __future__ import annotations

import fcntl
import os
from typing import Any

import numba.core.caching as caching
import pytest
import torch

torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _one_writer_of_compiled_code(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Processes that compile different signatures of a function at the same moment would overwrite each other's code.

    numba reads the index of a function's cache, picks a free file name and writes both, without a lock.
    """
    base = tmp_path_factory.getbasetemp()
    lock = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "numba.lock"
    save = caching.IndexDataCacheFile.save

    def alone(self: Any, key: Any, data: Any) -> None:
        with lock.open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            save(self, key, data)

    caching.IndexDataCacheFile.save = alone
    yield
    caching.IndexDataCacheFile.save = save
