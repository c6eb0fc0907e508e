"""``python -m marl`` is the ``marl`` command."""

from __future__ import annotations

import sys

from marl.cli import main

sys.exit(main())
