"""How many threads compute: those of torch, of compiled kernels, and of numpy's and scipy's matrix products."""

import math
import os
import sys
from pathlib import Path

VARIABLE = "OMP_NUM_THREADS"
"""Read by OpenMP (torch, the compiled kernels, MKL) and by OpenBLAS (numpy, scipy) when they are loaded."""

_CONTAINER = Path("/sys/fs/cgroup/cpu.max")


def usable_cores() -> int:
    """Return the number of cores that this process may use: its affinity, and the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CONTAINER.read_text(encoding="ascii").split()
        return max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # not in a container, or in one without a quota ("max")
        return cores


def use_threads(count: int | None) -> None:
    """Let this process and those that it starts compute in a number of threads; call it before numpy is imported.

    Parameters
    ----------
    count : int or None
        None: ``OMP_NUM_THREADS`` if it is set, else the cores that the process may use.
    """
    if count is None:
        if os.environ.get(VARIABLE):
            return
        count = usable_cores()
    os.environ[VARIABLE] = str(count)
    if "torch" in sys.modules:  # it has read the variable already
        sys.modules["torch"].set_num_threads(count)
