"""Asset checks, run as functions."""

from __future__ import annotations

from typing import Any

import dagster as dg


def result_of(check: dg.AssetChecksDefinition, *arguments: Any) -> dg.AssetCheckResult:
    """Return the result of an asset check for its inputs and resources."""
    result = check(*arguments)
    assert isinstance(result, dg.AssetCheckResult)
    return result
