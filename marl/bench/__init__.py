"""What ``marl bench`` runs: the speed of a world and of its training, part by part."""

from marl.bench.command import bench
from marl.bench.rows import Row, show_rows, write_rows

__all__ = ["Row", "bench", "show_rows", "write_rows"]
