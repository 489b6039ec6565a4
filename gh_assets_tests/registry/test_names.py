"""Names: those of the product, and which ones are valid."""

import itertools
from pathlib import Path
from typing import Any

import pytest

from gh_assets.errors import InputError
from gh_assets.recommender import Hybrid, RecVAE
from gh_assets.registry import HYBRID, RECVAE, SERVED, ModelCard, ModelRegistry, Promotion
from gh_assets_tests.conftest import Save


def test_registry_and_recommenders_agree_on_names() -> None:
    assert (RecVAE.name, Hybrid.name) == (RECVAE, HYBRID)
    assert set(SERVED) == {RECVAE, HYBRID}


@pytest.mark.parametrize("name", ["a", "x" * 200, "A-b_c.d+e=f@g h", "0"])
def test_common_names_are_accepted(registry: ModelRegistry, file: Path, name: str) -> None:
    model = registry.save(file, ModelCard(name, 0.5, tags=(name,)), file_name=name)
    assert (model.name, model.tag, model.file_name) == (name, name, name)
    assert registry.latest(name, name) == model


UNSAFE = [
    {"$ne": ""}, "../up", "../../etc/passwd", "a/b", ".", ".hidden", "x" * 201, "x" * 10_000_000, "new\nline", "a\0b",
    "\u202egnp.exe",
]  # fmt: skip


@pytest.mark.parametrize(
    ("label", "value"), [("model name", ""), *itertools.product(["model name", "tag", "file name"], UNSAFE)]
)
def test_unsafe_name_is_refused_with_a_short_error(registry: ModelRegistry, file: Path, label: str, value: Any) -> None:
    given = {"model name": "recvae", "tag": "a", "file name": "model.bin"} | {label: value}
    with pytest.raises(InputError, match=f"The {label}") as raised:
        registry.save(file, ModelCard(given["model name"], 0.5, tags=(given["tag"],)), file_name=given["file name"])
    assert len(str(raised.value)) < 400
    assert registry.list() == []


@pytest.mark.parametrize("wrong", [{"$ne": ""}, ["recvae"], None, 3, b"recvae"])
def test_query_operators_in_place_of_text_are_refused(registry: ModelRegistry, save: Save, wrong: Any) -> None:
    save()
    with pytest.raises(InputError, match="must be text"):
        registry.list(tag={"$ne": ""})  # type: ignore[arg-type]
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
