"""What the definitions of all assets share: the decorator, the partitions, groups, owners, pool and tags of runs."""

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import dagster as dg

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
        with warnings.catch_warnings():
            # Code references, and the only way to one run over many partitions, are in beta.
            warnings.simplefilter("ignore", dg.BetaWarning)
            code = dg.LocalFileCodeReference(file_path=inspect.getfile(function), line_number=line)
            metadata["dagster/code_references"] = dg.CodeReferencesMetadataValue(code_references=[code])
            make: Callable[..., dg.AssetsDefinition] = dg.asset(
                group_name=group, owners=OWNERS, metadata=metadata, **options
            )
            return make(retry_transient(function))

    return decorate


def single_run() -> dg.BackfillPolicy:
    """Return the policy of a backfill that is one run."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        return dg.BackfillPolicy.single_run()


def tag_run(context: dg.OpExecutionContext | dg.AssetExecutionContext, tags: Mapping[str, Any]) -> None:
    """Add tags to the run of a context, so that the list of runs shows what it did."""
    prefixed = {f"{TAG}{name}": str(value) for name, value in tags.items()}
    context.instance.add_run_tags(context.run.run_id, prefixed)
