"""`repo_embeddings`: what the repositories are about, as vectors."""

import dagster as dg
import polars as pl

from gh_assets.assets.definition import LISTS_FRESH, collection_asset
from gh_assets.assets.metadata import measure_seconds
from gh_assets.local import progress
from gh_assets.recommender.text.sentence_encoder import MODEL, SentenceEncoder, is_installed
from gh_assets.resources import GcsResource
from gh_assets.schemas import REPO_EMBEDDINGS
from gh_assets.serving.embeddings import read_embeddings, update_embeddings


@collection_asset(schema=REPO_EMBEDDINGS, freshness_policy=LISTS_FRESH, kinds={"pytorch", "polars", "parquet"})
def repo_embeddings(
    context: dg.AssetExecutionContext, repos: pl.DataFrame, gcs: GcsResource
) -> dg.MaterializeResult[pl.DataFrame]:
    """One row is the sentence embedding of one repository's name, description, topics and language.

    Only new and changed texts are embedded. Without the extra `embeddings`, stored vectors are kept and none is added.
    """
    encoder = SentenceEncoder if is_installed() else None

    def embedded(done: int, total: int) -> None:
        progress.report("repo_embeddings", done, total, "texts")

    with measure_seconds() as timing:
        update = update_embeddings(repos, read_embeddings(gcs.asset_store()), encoder, embedded)
    if update.missing:
        context.log.info("Similarity in content is TF-IDF: pip install 'gh_assets[embeddings]' adds embeddings.")
    return dg.MaterializeResult(
        value=update.table,
        metadata={
            "dagster/row_count": update.table.height,
            "model": MODEL,
            "embedded": update.embedded,
            "without_vector": update.missing,
            **timing,
        },
    )
