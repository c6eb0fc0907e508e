"""What measurements are taken with: a stopwatch, and how fast memory is at the moment."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import platform
import statistics
import time
from pathlib import Path

import torch

_BANDWIDTH_BYTES = 1 << 28  # far beyond the caches


class Stopwatch:
    """Seconds of work on a device.

    On the CPU these are CPU-seconds of this process and its workers, which other load on the machine hardly changes;
    on a GPU seconds of the clock, after all that was asked of it is done.
    """

    def __init__(self, device: torch.device):
        self._device = device
        #: What the seconds are of, for units.
        self.unit = "CPU-second" if device.type == "cpu" else "second"

    def now(self) -> float:
        """Seconds since some moment; the difference of two calls is what was spent between them."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
            return time.perf_counter()
        return time.process_time() + sum(map(_cpu_seconds, multiprocessing.active_children()))


def _cpu_seconds(process: multiprocessing.process.BaseProcess) -> float:
    """CPU-seconds of a worker process so far, in ticks of 10 ms; 0 where the system does not tell."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_bandwidth(device: torch.device, repeats: int = 5) -> float:
    """Bytes per second that a copy of a large array reads and writes, the median of some tries."""
    source = torch.ones(_BANDWIDTH_BYTES // 4, device=device)
    target = torch.zeros_like(source)
    watch = Stopwatch(device)
    rates = []
    for _ in range(repeats):
        began = watch.now()
        target.copy_(source)
        rates.append(2 * _BANDWIDTH_BYTES / max(watch.now() - began, 1e-9))
    return statistics.median(rates)


class PeakMemory:
    """The most memory that was held since ``restart``, bytes above what was held when this was made.

    On the CPU that of this process, without workers; 0 where the system does not tell.
    """

    def __init__(self, device: torch.device):
        self._device = device
        self.restart()
        self._before = self._held("VmRSS")

    def restart(self) -> None:
        """Forget the past, and give back what was freed and kept (training runs keep it)."""
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)
            return
        gc.collect()
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).malloc_trim(0)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")

    def bytes(self) -> int:
        """The peak since ``restart``."""
        return max(self._held("VmHWM") - self._before, 0)

    def _held(self, kind: str) -> int:
        if self._device.type == "cuda":
            now = kind == "VmRSS"
            return torch.cuda.memory_allocated(self._device) if now else torch.cuda.max_memory_allocated(self._device)
        try:
            lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        except OSError:
            return 0
        return 1024 * next((int(line.split()[1]) for line in lines if line.startswith(kind + ":")), 0)


def device_name(device: torch.device) -> str:
    """The model of the processor or of the GPU, as figures are to be quoted with."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return processor()


def processor() -> str:
    """The model of this machine's processor, with family and model numbers where its name says little."""
    found: dict[str, str] = {}
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    for line in lines:
        key, colon, value = line.partition(":")
        if colon:
            found.setdefault(key.strip(), value.strip())
    name = found.get("model name") or platform.processor() or platform.machine()
    if "cpu family" in found and "model" in found:
        return f"{name} (family {found['cpu family']}, model {found['model']})"
    return name
