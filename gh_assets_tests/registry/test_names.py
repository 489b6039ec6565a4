"""Names: those of the product, and which ones are valid."""

from __future__ import annotations

from pathlib import Path

import pytest

from gh_assets.errors import InputError
from gh_assets.recommender import Hybrid, RecVAE
from gh_assets.registry import HYBRID, RECVAE, SERVED, ModelCard, Promotion


def test_registry_and_recommenders_agree_on_names() -> None:
    assert (RecVAE.name, Hybrid.name) == (RECVAE, HYBRID)
    assert set(SERVED) == {RECVAE, HYBRID}


@pytest.mark.parametrize("name", ["a", "x" * 200, "A-b_c.d+e=f@g h", "0"])
def test_common_names_are_accepted(registry, file: Path, name: str) -> None:
    model = registry.save(file, ModelCard(name, 0.5, tags=(name,)), file_name=name)
    assert (model.name, model.tag, model.file_name) == (name, name, name)
    assert registry.latest(name, name) == model


@pytest.mark.parametrize("name", ["", "../up", "a/b", ".hidden", "x" * 201, "new\nline", {"$ne": ""}])
def test_unsafe_names_are_refused(registry, file: Path, name: str) -> None:
    with pytest.raises(InputError):
        registry.save(file, ModelCard(name, 0.5))
    with pytest.raises(InputError):
        registry.save(file, ModelCard("recvae", 0.5), file_name=name or ".")
    if not isinstance(name, str):
        with pytest.raises(InputError, match="must be text"):
            registry.latest(name)
        with pytest.raises(InputError, match="must be text"):
            registry.list(tag=name)


@pytest.mark.parametrize("label", ["model name", "tag", "file name"])
@pytest.mark.parametrize("value", [{"$ne": ""}, "../../etc/passwd", "x" * 10_000_000, "a\0b", "‮gnp.exe"])
def test_hostile_names_are_refused_with_a_short_error(registry, file: Path, label: str, value: object) -> None:
    given = {"model name": "recvae", "tag": "a", "file name": "model.bin"} | {label: value}
    with pytest.raises(InputError, match=f"The {label}") as raised:
        registry.save(
            file,
            ModelCard(given["model name"], 0.5, tags=(given["tag"],)),
            file_name=given["file name"],
        )
    assert len(str(raised.value)) < 400
    assert registry.list() == []


@pytest.mark.parametrize("wrong", [{"$ne": ""}, ["recvae"], None, 3, b"recvae"])
def test_query_operators_in_place_of_text_are_refused(registry, file: Path, wrong: object) -> None:
    registry.save(file, ModelCard("recvae", 0.5))
    for call in (
        lambda: registry.latest(wrong),
        lambda: registry.best(wrong),
        lambda: registry.get(wrong, 1),
        lambda: registry.find("recvae", wrong),
        lambda: registry.promote(Promotion(wrong, 1, why="x")),
        lambda: registry.delete(wrong, 1, why="x"),
        lambda: registry.promote(Promotion("recvae", 1, why=wrong)),
        lambda: registry.promote(Promotion("recvae", 1, why="x", alias=wrong)),
        lambda: registry.champion(wrong),
    ):
        with pytest.raises(InputError, match="must be text"):
            call()
