"""The two functions of the original system."""

from pathlib import Path

from gh_assets.registry import download_file, file_to_storage
from gh_assets.storage.mongo import MongoDatabase


def test_functions_keep_their_contract(database: MongoDatabase, file: Path, tmp_path: Path) -> None:
    collection = database["models"]
    for score, tag in ((0.9, "good"), (0.1, "bad")):
        file.write_text(tag)
        document = file_to_storage(file, "recvae", score, tag, collection, "model.txt", True)
    assert [document[key] for key in ("file_name", "bucket", "tag")] == ["model.tar.gz", "model-save", "bad"]
    latest = download_file("recvae", collection, directory=tmp_path / "latest", unpack=True)
    best = download_file("recvae", collection, latest=False, directory=tmp_path / "best", unpack=True)
    tagged = download_file("recvae", collection, tag="good", directory=tmp_path / "tagged")
    assert (latest / "weights.bin").read_text() == "bad"
    assert (best / "weights.bin").read_text() == "good"
    assert tagged == tmp_path / "tagged" / "model.tar.gz"
    plain = file_to_storage(str(file), "plain", None, db_conn=collection)
    assert (plain["file_name"], plain["score"], plain["tag"]) == ("weights.bin", None, "")
    assert download_file("plain", collection, directory=tmp_path).read_text() == "bad"
