"""In which numbers a machine multiplies fastest: measured, not guessed from its name."""

from __future__ import annotations

import math
import time
from functools import lru_cache

import torch

from gh_assets.errors import ConfigurationError

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}

WORTH_IT = 1.3
"""bfloat16 has 8 bits of mantissa: it has to be this much faster to be chosen."""


def precision(name: str, device: torch.device) -> torch.dtype:
    """The dtype of matrix products.

    Parameters
    ----------
    name : {"auto", "float32", "bfloat16", "float64"}
        "auto" measures both on `device`, once a process. Sums, weights and optimizer states stay in float32 with
        "bfloat16"; "float64" is for proofs.

    Raises
    ------
    ConfigurationError
        If it is another name.
    """
    if name == "auto":
        return torch.bfloat16 if _bfloat16_gain(str(device)) >= WORTH_IT else torch.float32
    try:
        return PRECISIONS[name]
    except KeyError:
        raise ConfigurationError(f"The precision {name!r} is none of auto, {', '.join(PRECISIONS)}.") from None


def name_of(dtype: torch.dtype) -> str:
    """What `precision` takes for it."""
    return next(name for name, known in PRECISIONS.items() if known == dtype)


@lru_cache
def _bfloat16_gain(device: str) -> float:
    """How many times faster a product of the training's shape is in bfloat16: about 30 ms on a CPU."""
    pairs = {
        dtype: [torch.ones((512, 512), dtype=dtype, device=device) for _ in range(2)]
        for dtype in (torch.float32, torch.bfloat16)
    }
    best = dict.fromkeys(pairs, math.inf)
    # By turns, and the best of each: what else the machine is busy with makes a product slower, never faster.
    for _ in range(10):
        for dtype, (left, right) in pairs.items():
            started = time.perf_counter()
            left @ right
            if left.is_cuda:
                torch.cuda.synchronize(left.device)
            best[dtype] = min(best[dtype], time.perf_counter() - started)
    return best[torch.float32] / best[torch.bfloat16]
