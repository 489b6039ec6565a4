"""A generated world of any size, up to hundreds of thousands of users, whose stars arrive by the hour.

Unlike the small world of `synthetic`, most people have few stars, popularity has a long tail, and repositories grow at
different rates, as on GitHub. Users are generated in blocks, so that the memory in use is that of the stars.
"""

import datetime as dt
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gh_assets.embedded.standin.synthetic import EPOCH, STYLES, TOPICS, special_cases_and_lists
from gh_assets.embedded.standin.world import GrowingWorld, Repository, iso

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

UNTIL = int(dt.datetime(2027, 1, 1, tzinfo=dt.UTC).timestamp())
DAY = 86_400
FEW_SHARE, FEW_QUANTILE = 0.73, 0.6128
"""Share of people who have 1 to 4 stars on the collected repositories of GitHub, and the normal quantile of it."""

GENERAL_SHARE = 0.12
"""Share of stars that go to generally popular repositories, whatever the user's taste."""

SUBTOPICS_FROM = 1500
"""Number of repositories from which a taste is for a topic's parts, such as replicas of databases."""

BLOCK = 8192
"""Users generated together. It is part of what a seed means."""

ROUNDS = 6
"""Rounds of drawing until the few users who still lack stars are drawn exactly."""


def large_world(
    seed: int = 0, *, repositories: int = 10_000, users: int = 350_000, mean_stars: float = 26.0, until: int = UNTIL
) -> GrowingWorld:
    """Generate a world.

    Parameters
    ----------
    seed : int
        Equal arguments give equal worlds.
    repositories, users : int
        Their numbers.
    mean_stars : float
        Mean number of stars per user. It is less where few repositories bound the number of stars of the most active
        users, an eighth of all repositories.
    until : int
        Time of the last star, in seconds since 1970. The world shows all stars until `World.advance` sets an earlier
        time.
    """
    rng = np.random.default_rng(seed)
    catalogue = _Catalogue(rng, repositories, until)
    lengths = _lengths(rng, users, mean_stars, max(6, repositories // 8))
    joined = EPOCH + (rng.random(users) ** 0.7 * (until - DAY - EPOCH)).astype(np.int64)
    total = int(lengths.sum())
    # Repository and time of a star in one number, which sorts quickly.
    stars, who = np.empty(total, np.int64), np.repeat(np.arange(users, dtype=np.int32), lengths)
    done = 0
    for start in range(0, users, BLOCK):
        block = slice(start, start + BLOCK)
        where = catalogue.draw(rng, lengths[block])
        begin = np.maximum(catalogue.created[where], np.repeat(joined[block], lengths[block]))
        age = rng.random(len(where)) ** catalogue.growth[where]
        stars[done : done + len(where)] = (where << 32) + begin + (age * (until - begin)).astype(np.int64)
        done += len(where)
    order = np.argsort(stars, kind="stable")  # among stars of the same second, the same everywhere
    users_of, times = who[order].astype(np.int64), stars[order] & (2**32 - 1)
    bounds = np.searchsorted(stars, np.arange(repositories + 1) << 32, sorter=order)
    del order, stars, who
    made = []
    for index, (start, end) in enumerate(pairwise(bounds.tolist())):
        repository = catalogue.repository(rng, index)
        repository.stargazers, repository.starred_at = users_of[start:end], times[start:end]
        made.append(repository)
    lists = special_cases_and_lists(rng, made, catalogue.topic_of)
    return GrowingWorld(
        [*made, *lists],
        [f"synthetic-user-{user + 1:06d}" for user in range(users)],
        range(1_000_000, 1_000_000 + users),
        [entry.full_name for entry in lists],
        f"the large synthetic world with seed {seed}",
    )


def _lengths(rng: np.random.Generator, users: int, mean: float, largest: int) -> Ints:
    """Return the number of stars of each user, log-normal, of which `FEW_SHARE` are 1 to 4."""
    normal = rng.standard_normal(users)

    def of(sigma: float) -> Ints:
        exponents: Floats = np.log(4.5) + sigma * (normal - FEW_QUANTILE)
        return np.exp(exponents).round().clip(1, largest).astype(np.int64)

    low, high = 0.7, 3.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if of(middle).mean() < mean else (low, middle)
    return of(high)


class _Catalogue:
    """Repositories in clusters of taste, and how users choose among them."""

    def __init__(self, rng: np.random.Generator, repositories: int, until: int) -> None:
        self.topics, self.until = list(TOPICS), until
        self.parts = 6 if repositories >= SUBTOPICS_FROM else 1
        clusters = len(self.topics) * self.parts
        sizes = 1.0 / (np.arange(clusters) + 6.0)
        self.cluster_share = rng.permutation(sizes / sizes.sum())
        self.cluster_of = np.sort(rng.choice(clusters, repositories, p=self.cluster_share))
        self.topic_of = self.cluster_of // self.parts
        first = np.searchsorted(self.cluster_of, np.arange(clusters))
        self.place = np.arange(repositories) - first[self.cluster_of]
        self.created = EPOCH + (rng.random(repositories) ** 0.8 * (until - DAY - EPOCH)).astype(np.int64)
        self.growth = rng.lognormal(np.log(0.8), 0.3, repositories)
        # Zipf's law within a cluster, blurred; the newest repositories are not known yet.
        known = np.minimum(1.0, (until - self.created) / (730 * DAY)) ** 0.7
        popularity = known * rng.lognormal(0.0, 0.6, repositories) / (self.place + 3.0) ** 1.1
        self.share = popularity / np.bincount(self.cluster_of, popularity, clusters)[self.cluster_of]
        self.general = popularity**1.5 / (popularity**1.5).sum()
        # Two tables to choose from: the repositories by cluster, and, like one more cluster, all of them.
        ends = np.searchsorted(self.cluster_of, np.arange(clusters), "right")
        self.empty = first == ends
        self.ends = np.append(ends, 2 * repositories)
        within = np.cumsum(self.share)
        within -= np.append(0.0, within)[first[self.cluster_of]]
        self.table = np.concatenate([self.cluster_of + within.clip(0, 1), clusters + np.cumsum(self.general)])

    def interests(self, rng: np.random.Generator, users: int) -> Floats:
        """Draw how users' stars are distributed over the clusters: few topics each, and few parts of these."""
        by_topic = self.cluster_share.reshape(-1, self.parts).sum(axis=1)
        parts = rng.standard_gamma(0.5, (users, len(self.topics), self.parts)) + 1e-12
        parts *= rng.dirichlet(1.0 * by_topic, users)[:, :, None] / parts.sum(axis=2, keepdims=True)
        interests: Floats = parts.reshape(users, -1)
        interests[:, self.empty] = 0.0
        return interests

    def draw(self, rng: np.random.Generator, lengths: Ints) -> Ints:
        """Draw distinct repositories for users with these numbers of stars, grouped by user."""
        users, repositories = len(lengths), len(self.cluster_of)
        interests = self.interests(rng, users)
        tastes = np.cumsum((1 - GENERAL_SHARE) * interests, axis=1)
        flat = (np.column_stack([tastes, np.ones(users)]) + np.arange(users)[:, None]).ravel()
        # Repositories are drawn with replacement, and each user keeps the first distinct ones. That takes too long
        # where they are many.
        wanted = np.where(lengths > repositories // 20, 0, lengths)
        kept, lacking = np.empty(0, np.int64), wanted
        for _ in range(ROUNDS):
            owners = np.repeat(np.arange(users), np.where(lacking, lacking + lacking // 2 + 2, 0))
            clusters = np.searchsorted(flat, owners + rng.random(len(owners)), "right") - owners * (tastes.shape[1] + 1)
            places = np.searchsorted(self.table, clusters + rng.random(len(owners)), "right")
            drawn = np.minimum(places, self.ends[clusters] - 1) % repositories
            kept = _first_distinct(np.concatenate([kept, owners * repositories + drawn]), repositories, wanted)
            lacking = wanted - np.bincount(kept // repositories, minlength=users)
            if not lacking.any():
                break
        exact = np.flatnonzero((lacking > 0) | (lengths > wanted))
        kept = kept[np.isin(kept // repositories, exact, invert=True)]
        chosen = [kept]
        for start in range(0, len(exact), 256):
            some = exact[start : start + 256]
            taste = (1 - GENERAL_SHARE) * interests[some][
                :, self.cluster_of
            ] * self.share + GENERAL_SHARE * self.general
            # Gumbel-top-k trick, as in `synthetic_world`.
            keys = -np.log(taste + 1e-12) - rng.gumbel(size=taste.shape)
            for user, row in zip(some.tolist(), keys, strict=True):
                count = int(lengths[user])
                chosen.append(user * repositories + np.argpartition(row, count)[:count])
        return np.sort(np.concatenate(chosen)) % repositories

    def repository(self, rng: np.random.Generator, index: int) -> Repository:
        """Return a repository without its stars."""
        topic, place = self.topics[self.topic_of[index]], int(self.place[index])
        language, parts = TOPICS[topic]
        part = parts[(place if self.parts == 1 else self.cluster_of[index]) % len(parts)]
        style, created = STYLES[int(rng.integers(len(STYLES)))], int(self.created[index])
        return Repository(
            repo_id=100_000 + index,
            full_name=f"synthetic-{topic}/{style}-{part}-{place + 1}",
            description=f"Synthetic: a {style} {part} for {topic.replace('-', ' ')}",
            language=language,
            topics=("synthetic", topic, part),
            created_at=iso(created),
            pushed_at=iso(created + int(rng.random() * (self.until - created))),
            archived=bool(rng.random() < 0.03),
        )


def _first_distinct(keys: Ints, repositories: int, wanted: Ints) -> Ints:
    """Return the distinct keys of each user in the order of drawing, at most as many as the user wants."""
    _, first = np.unique(keys, return_index=True)
    keys = keys[np.sort(first)]
    owners = keys // repositories
    keys = keys[np.argsort(owners, kind="stable")]
    owners = keys // repositories
    counts = np.bincount(owners, minlength=len(wanted))
    rank = np.arange(len(keys)) - np.repeat(np.cumsum(counts) - counts, counts)
    return keys[rank < wanted[owners]]
