"""What the definitions of all assets share.

The decorators, partitions, groups, owners, pool and tags of runs; when the sensor `keep_current` materializes assets,
and when assets count as out of date.
"""

import datetime as dt
import inspect
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import dagster as dg
from pydantic import ConfigDict

from gh_assets.assets.metadata import table_metadata
from gh_assets.assets.retries import retry_transient
from gh_assets.schemas import TableSchema

OWNERS = ["team:recommender"]

COLLECTION = "collection"
RECOMMENDER = "recommender"

GITHUB_POOL = "github"
"""Pool of the runs that spend GitHub's quota: one at a time, the others wait in the queue (see dagster.yaml)."""

REPO_PARTITIONS = dg.DynamicPartitionsDefinition(name="repo")
"""One partition a repository, keyed by the name under which it was first seen."""

TAG = "gh_assets/"
"""Prefix of the tags of runs."""

LISTS_FRESH = dg.FreshnessPolicy.time_window(fail_window=dt.timedelta(days=7), warn_window=dt.timedelta(days=2))
"""For assets that the collection plan depends on."""

CHAIN_FRESH = dg.FreshnessPolicy.time_window(fail_window=dt.timedelta(days=45), warn_window=dt.timedelta(days=30))
"""For what follows from the stars: without enough new stars, nothing is trained for a long time."""


class AssetConfig(dg.Config):
    """Configuration of an asset, its checks or ops, whose fields are described by the docstrings after them."""

    model_config = ConfigDict(use_attribute_docstrings=True)


@contextmanager
def beta_features() -> Iterator[None]:
    """Use what is in beta in Dagster without a warning: code references, conditions, and runs over many partitions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        yield


def chain_asset(
    group: str, *, schema: TableSchema | None = None, **options: Any
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """Return `dagster.asset` with what all assets share: owners, retries and a reference to the function's code.

    Parameters
    ----------
    group : str
        `COLLECTION` or `RECOMMENDER`.
    schema : TableSchema, optional
        Columns of the table that the asset stores.
    **options
        Of `dagster.asset`.
    """

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        line = inspect.getsourcelines(function)[1]
        metadata: dict[str, Any] = {} if schema is None else table_metadata(schema)
        with beta_features():
            code = dg.LocalFileCodeReference(file_path=inspect.getfile(function), line_number=line)
            metadata["dagster/code_references"] = dg.CodeReferencesMetadataValue(code_references=[code])
            make: Callable[..., dg.AssetsDefinition] = dg.asset(
                group_name=group, owners=OWNERS, metadata=metadata, **options
            )
            return make(retry_transient(function))

    return decorate


collection_asset = partial(chain_asset, COLLECTION)
recommender_asset = partial(chain_asset, RECOMMENDER, freshness_policy=CHAIN_FRESH)


def single_run() -> dg.BackfillPolicy:
    """Return the policy of a backfill that is one run."""
    with beta_features():
        return dg.BackfillPolicy.single_run()


def when_upstream_updated(*ignored: str) -> dg.AutomationCondition:  # type: ignore[type-arg]
    """Return the condition that upstream assets are newer, complete, and have passed their blocking checks.

    Parameters
    ----------
    *ignored : str
        Upstream assets whose updates alone are no reason.
    """
    with beta_features():
        condition = dg.AutomationCondition.eager() & dg.AutomationCondition.all_deps_blocking_checks_passed()
        if ignored:
            condition = condition.ignore(dg.AssetSelection.assets(*ignored))
    return condition.with_label("follows its upstream assets")


def tag_run(context: dg.OpExecutionContext | dg.AssetExecutionContext, tags: Mapping[str, Any]) -> None:
    """Add tags to the run of a context, so that the list of runs shows what it did."""
    prefixed = {f"{TAG}{name}": str(value) for name, value in tags.items()}
    context.instance.add_run_tags(context.run.run_id, prefixed)
