"""A generated world of users with tastes, repositories with topics, and a long tail of popularity.

Each user has a few topics of interest. Most of their stars go to popular repositories of these topics, and some to
generally popular ones, so that popularity is a weak recommender and a model of tastes a strong one. The lists also name
repositories that were renamed, deleted or blocked, or whose stargazers are restricted.
"""

import datetime as dt
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gh_assets.embedded.standin.world import Repository, World, iso, list_markdown

TOPICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "web-framework": ("Python", ("router", "middleware", "template", "server", "forms", "sessions")),
    "machine-learning": ("Python", ("tensor", "trainer", "dataset", "embeddings", "metrics", "autograd")),
    "data-visualization": ("JavaScript", ("charts", "maps", "dashboard", "palette", "plots", "canvas")),
    "databases": ("C++", ("storage", "index", "query", "replica", "cache", "migrations")),
    "command-line": ("Go", ("prompt", "shell", "pager", "finder", "history", "completion")),
    "game-engine": ("C++", ("physics", "sprites", "shader", "scene", "audio", "tilemap")),
    "security": ("Rust", ("scanner", "vault", "fuzzer", "proxy", "audit", "secrets")),
    "devops": ("Go", ("deploy", "operator", "pipeline", "logs", "tracing", "secrets-sync")),
    "mobile": ("Kotlin", ("navigation", "gestures", "offline", "widgets", "camera", "push")),
    "editors": ("TypeScript", ("snippets", "themes", "linter", "folding", "outline", "keymap")),
    "static-sites": ("Ruby", ("generator", "markdown", "feeds", "gallery", "search", "i18n")),
    "embedded-systems": ("C", ("bootloader", "drivers", "scheduler", "sensors", "radio", "display")),
}
STYLES = ("tiny", "fast", "simple", "modern", "typed", "async", "modular", "portable", "friendly", "robust")
EPOCH = int(dt.datetime(2015, 1, 1, tzinfo=dt.UTC).timestamp())
_NOW = int(dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp())


def synthetic_world(seed: int = 0, *, repositories: int = 600, users: int = 2500, mean_stars: float = 38.0) -> World:
    """Generate a world.

    Parameters
    ----------
    seed : int
        Equal seeds give equal worlds.
    repositories, users : int
        Their numbers.
    mean_stars : float
        Mean number of stars per user (log-normally distributed, at least 3).
    """
    rng = np.random.default_rng(seed)
    topics = list(TOPICS)
    topic_of = np.sort(rng.integers(0, len(topics), repositories))
    # Zipf's law within a topic: its first repository is the most popular one.
    place = np.array([np.sum(topic_of[:i] == topic_of[i]) for i in range(repositories)])
    popularity = 1.0 / (place + 4.0)
    share = np.zeros((len(topics), repositories))
    share[topic_of, np.arange(repositories)] = popularity
    share /= np.maximum(share.sum(axis=1, keepdims=True), 1e-12)
    overall = popularity**1.5 / (popularity**1.5).sum()
    created = EPOCH + rng.integers(0, int((_NOW - EPOCH) * 0.7), repositories)

    interests = rng.dirichlet(np.full(len(topics), 0.12), users)
    taste = 0.88 * interests @ share + 0.12 * overall
    lengths = rng.lognormal(np.log(mean_stars) - 0.245, 0.7, users).astype(int).clip(3, repositories // 3)
    where: list[np.ndarray] = []
    for user in range(users):
        # Gumbel-top-k trick: the largest sums of log-probability and noise are a sample without replacement.
        keys = np.log(taste[user] + 1e-12) + rng.gumbel(size=repositories)
        where.append(np.argpartition(-keys, lengths[user])[: lengths[user]])
    where_all, who_all = np.concatenate(where), np.repeat(np.arange(users), lengths)
    when_all = created[where_all] + (rng.random(len(where_all)) ** 0.7 * (_NOW - created[where_all])).astype(int)
    order = np.lexsort((when_all, where_all))
    bounds = np.searchsorted(where_all[order], np.arange(repositories + 1))

    made = []
    for index in range(repositories):
        topic = topics[topic_of[index]]
        language, parts = TOPICS[topic]
        part, style = parts[place[index] % len(parts)], STYLES[int(rng.integers(len(STYLES)))]
        stars = order[bounds[index] : bounds[index + 1]]
        made.append(
            Repository(
                repo_id=100_000 + index,
                full_name=f"synthetic-{topic}/{style}-{part}-{place[index] + 1}",
                description=f"Synthetic: a {style} {part} for {topic.replace('-', ' ')}",
                language=language,
                topics=("synthetic", topic, part),
                created_at=iso(int(created[index])),
                pushed_at=iso(int(created[index] + rng.random() * (_NOW - created[index]))),
                archived=bool(rng.random() < 0.03),
                stargazers=who_all[stars].astype(np.int64),
                starred_at=when_all[stars].astype(np.int64),
            )
        )
    lists = special_cases_and_lists(rng, made, topic_of)
    return World(
        [*made, *lists],
        [f"synthetic-user-{user + 1:04d}" for user in range(users)],
        [1_000_000 + user for user in range(users)],
        [entry.full_name for entry in lists],
        f"the synthetic world with seed {seed}",
    )


def special_cases_and_lists(
    rng: np.random.Generator, made: Sequence[Repository], topic_of: NDArray[np.int64]
) -> list[Repository]:
    """Rename, block and restrict a few repositories, and return lists that name all of them, and deleted ones."""
    repositories = len(made)
    special = rng.permutation(repositories)[: max(4, repositories // 60)]
    listed_as = {index: [made[index].full_name] for index in range(repositories)}
    for number, index in enumerate(special):
        repository = made[index]
        if number % 4 == 0:
            repository.former_names = (f"{repository.full_name.split('/')[0]}/formerly-{repository.repo_id}",)
            listed_as[index] = [*repository.former_names, repository.full_name][: 1 + number % 2]
        elif number % 4 == 1:
            repository.blocked = True
        elif number % 4 == 2:
            repository.restricted = True

    lists = []
    for number in range(3):
        listed = [index for index in range(repositories) if topic_of[index] % 3 == number or rng.random() < 0.05]
        named = [Repository(0, name, made[index].description) for index in listed for name in listed_as[index]]
        named.append(Repository(0, f"synthetic-gone/deleted-{number}", "Synthetic: no longer there"))
        name = f"synthetic-lists/awesome-{number + 1}"
        text = list_markdown(f"Synthetic awesome list {number + 1}", named)
        lists.append(Repository(900_000 + number, name, f"Synthetic: awesome list {number + 1}", readme=text))
    return lists
