"""A home to serve: repositories with descriptions, users with stars and a model; and a GitHub stand-in beside it."""

import datetime as dt
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import requests
import scipy.sparse as sp
from pydantic import SecretStr

from gh_assets.embedded.standin.world import Repository, World
from gh_assets.recommender import EASE, Hybrid, RecVAE, RecVAEConfig
from gh_assets.recommender.data.interactions import UserItemMatrix
from gh_assets.recommender.models.trained_model import TrainedModel
from gh_assets.registry import ModelCard, ModelRegistry, Promotion, RegisteredModel, open_registry
from gh_assets.schemas import REPOS, STAR_TRENDS
from gh_assets.services.connections import asset_store
from gh_assets.settings import Settings
from gh_assets.storage.mongo import MongoDatabase
from gh_assets.web.server import make_server
from gh_assets.web.state import AppState
from gh_assets.web.uvicorn_internals import ObservedServer
from gh_assets_tests.support.leaderboards import leaderboard_by_known_stars
from gh_assets_tests.support.serving import in_thread
from gh_assets_tests.support.waiting import until

FIRST = 1000
"""Id of the first repository."""

SUBJECTS = (
    ("painters", "painting", "Draw with brushes and colours", "Python"),
    ("plumbers", "plumbing", "Pipes, valves and taps for data", "Go"),
    ("bakers", "baking", "Bread and cake, kneaded by machines", "Rust"),
)
EACH = 24
PEOPLE = 90


def name_of(place: int) -> str:
    owner, topic, _, _ = SUBJECTS[place % len(SUBJECTS)]
    return f"{owner}/{topic}-{place // len(SUBJECTS)}"


def rows_of(changes: dict[int, dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    """Make repositories of the three subjects in turn; the last three are unknown to every model."""
    blank = dict.fromkeys(REPOS.columns) | {"lists": ["some/awesome"], "outcome": "ok", "archived": False}
    rows = []
    for place in range(len(SUBJECTS) * EACH + len(SUBJECTS)):
        _, topic, description, language = SUBJECTS[place % len(SUBJECTS)]
        own = {
            "repo_id": FIRST + place,
            "full_name": name_of(place),
            "description": f"{description}, number {place}",
            "language": language,
            "topics": [topic, "awesome"] if place % 2 else [topic],
            "stargazer_count": 10 * (place + 1),
            "pushed_at": dt.datetime(2026, 1, 1 + place % 28, tzinfo=dt.UTC),
            "archived": place % 17 == 16,
        }
        rows.append(blank | own | (changes or {}).get(place, {}))
    return rows


def matrix_of(rows: Sequence[dict[str, Any]], seed: int = 0) -> UserItemMatrix:
    """Make users who star repositories of one subject each, the first ones more often."""
    rng = np.random.default_rng(seed)
    items = len(SUBJECTS) * EACH
    places = np.arange(items)
    users, columns = [], []
    for user in range(PEOPLE):
        same_subject = places % len(SUBJECTS) == user % len(SUBJECTS)
        chance = np.where(same_subject, 1.0, 0.05) / (1 + places // len(SUBJECTS)) ** 0.5
        chosen = rng.choice(items, size=4 + user % 9, replace=False, p=chance / chance.sum())
        users += [user] * len(chosen)
        columns += chosen.tolist()
    stars = sp.csr_array((np.ones(len(users), np.float32), (users, columns)), shape=(PEOPLE, items))
    stars.sort_indices()
    names = np.array([str(row["full_name"]) for row in rows[:items]])
    logins = np.array([f"Person-{user}" for user in range(PEOPLE)])
    return UserItemMatrix(stars, 5000 + np.arange(PEOPLE), logins, FIRST + places, names)


@cache
def parts_of(seed: int) -> tuple[RecVAE, EASE]:
    """Train the parts of a hybrid once per test process: the stars are the same in all homes."""
    stars = matrix_of(rows_of()).stars
    config = RecVAEConfig(epochs=8, hidden_size=24, latent_size=8, batch_size=30, seed=seed)
    return RecVAE(config).fit(stars), EASE((20.0,)).fit(stars)


def trained_on(matrix: UserItemMatrix, seed: int = 0, weight: float = 0.5) -> TrainedModel:
    """Return a small hybrid model of the stars of `matrix_of`."""
    assert (matrix.stars != matrix_of(rows_of()).stars).nnz == 0
    model = Hybrid(*parts_of(seed), weights=(weight, 1 - weight)).fit(matrix.stars)
    counts = np.bincount(matrix.stars.indices, minlength=matrix.stars.shape[1]).tolist()
    return TrainedModel(model, matrix.repo_ids, matrix.full_names, data={"stars_of": counts})


@dataclass
class ServedHome:
    """A home with data and models.

    Attributes
    ----------
    settings : Settings
    matrix : UserItemMatrix
    rows : list of dict
        The repositories.
    """

    settings: Settings
    matrix: UserItemMatrix
    rows: list[dict[str, Any]]
    folder: Path
    models: list[RegisteredModel] = field(default_factory=list)

    def register(self, trained: TrainedModel, score: float, **more: Any) -> RegisteredModel:
        path = trained.save(self.folder / f"model-{len(self.models)}")
        with self.registry() as registry:
            metrics = {"ndcg@100": score, "ease ndcg@100": score - 0.02, "recall@20": 0.2}
            intervals = {"ndcg@100": (score - 0.01, score + 0.01)}
            card = ModelCard("hybrid", score, metric="ndcg@100", metrics=metrics, intervals=intervals, **more)
            model = registry.save(path, card, archive="gzip")
        self.models.append(model)
        return model

    def registry(self) -> AbstractContextManager[ModelRegistry]:
        return open_registry(self.settings)

    def write_repositories(self, rows: list[dict[str, Any]]) -> None:
        self.rows = rows
        asset_store(self.settings).write_table("repos", pl.DataFrame(rows, schema=REPOS.dtypes))


def furnish(settings: Settings, folder: Path, changes: dict[int, dict[str, Any]] | None = None) -> ServedHome:
    """Write data to a home and register a champion."""
    rows = rows_of(changes)
    matrix = matrix_of(rows)
    served_home = ServedHome(settings, matrix, rows, folder)
    served_home.write_repositories(rows)
    asset_store(settings).write_matrix("user_item_matrix", matrix)
    asset_store(settings).write_table("leaderboard", leaderboard_by_known_stars())
    trends = [
        (FIRST, 40, 10.0),
        (FIRST + 1, 90, 10.0),
        (FIRST + 2, 90, 90.0),
        (FIRST + 3, 9, 0.0),
        (FIRST + 4, 90, None),
    ]
    trends_table = pl.DataFrame(trends, schema=STAR_TRENDS.dtypes, orient="row")
    asset_store(settings).write_table("star_trends", trends_table)
    served_home.register(trained_on(matrix), 0.3)
    with served_home.registry() as registry:
        registry.promote(Promotion("hybrid", 1, why="the first one", by="a test"))
    return served_home


UNCOLLECTED_LOGIN = "uncollected-1"
"""A user whose stars were not collected."""


def github_world() -> World:
    """Make a GitHub with users who were not collected, one of them without stars, and uncollected repositories."""
    rows = rows_of()
    logins = [UNCOLLECTED_LOGIN, "starless", "Renamed-Now", "busy-one"]
    ids = [9001, 9002, 5000 + 3, 9004]
    stars = {place: [0, 2] for place in range(0, 9, 3)} | {place: [3] for place in range(1, 70, 3)}
    described = "repo_id", "full_name", "description", "language", "topics"
    repositories = [Repository(*(row[column] for column in described)) for row in rows]
    for place, users in stars.items():
        repositories[place].stargazers = np.array(users, np.int64)
        repositories[place].starred_at = np.arange(len(users), dtype=np.int64) + 1_700_000_000 + place
    repositories += [
        Repository(99_001, "outside/plumbing-hall", "Pipes, valves and taps for every house", "Go", ["plumbing"]),
        Repository(99_002, "outside/now", "Draw with colours", "Python", ["painting"], former_names=["outside/before"]),
    ]
    return World(repositories, logins, ids, [], "a world of a test")


@dataclass
class Running:
    """A server in a thread of this process."""

    url: str
    state: AppState
    server: ObservedServer

    @property
    def database(self) -> MongoDatabase:
        database = self.state.refresher.database()
        assert database is not None
        return database

    def get(self, path: str, **more: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=30, **more)

    def post(self, path: str, **more: Any) -> requests.Response:
        return requests.post(self.url + path, timeout=30, **more)

    def send_raw(self, method: str, path: str, **options: Any) -> requests.Response:
        """Send a request whose path `requests` would normalize."""
        with requests.Session() as session:
            request = requests.Request(method, self.url, **options).prepare()
            request.url = self.url + path
            return session.send(request, timeout=30, allow_redirects=False)

    def assert_alive(self) -> None:
        """Assert that the server still serves."""
        assert self.get("/healthz").status_code == 200
        assert self.get("/api/v1/recommendations?n=1").status_code == 200


@contextmanager
def opened(settings: Settings, *, loaded: bool = True, root_path: str = "", **changes: Any) -> Iterator[Running]:
    """Serve a home in a thread, as the command does, with changes of its settings."""
    urls: list[str] = []
    server = make_server(settings.model_copy(update=changes), "127.0.0.1", 0, urls.append, root_path=root_path)
    with in_thread(server):
        state: AppState = server.config.app.state.state  # type: ignore[union-attr]
        running = Running(urls[0], state, server)
        if loaded:
            until(lambda: running.get("/readyz").status_code == 200)
        yield running


def with_github(settings: Settings, url: str) -> Settings:
    """Return settings that use a GitHub stand-in."""
    return settings.model_copy(update={"github_api_url": url, "github_tokens_text": SecretStr("token")})
