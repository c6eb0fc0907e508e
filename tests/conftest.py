"""What holds for all tests: they may run in several processes at once."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
