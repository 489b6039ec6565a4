"""Fingerprints of what users' lists are made from: equal fingerprints, equal lists."""

import hashlib
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gh_assets.recommender.data.interactions import Csr

_Hashes = NDArray[np.uint64]


def list_fingerprints(
    common: str, logins: Sequence[str], given: Csr, hidden: Sequence[NDArray[np.int64]]
) -> NDArray[np.int64]:
    """Return one number for each user, which changes with anything that the user's list is made from.

    Parameters
    ----------
    common : str
        What all lists are made from: model, filters, length.
    logins : sequence of str
    given : csr_array, shape (users, items)
        The items from which the model predicts.
    hidden : sequence of ndarray of int64
        The items that are not recommended to each user.

    Returns
    -------
    ndarray of int64, shape (users,)
    """
    start = np.frombuffer(hashlib.blake2b(common.encode(), digest_size=8).digest(), np.uint64)
    names = np.array([zlib.crc32(login.encode()) for login in logins], np.uint64)
    ends = np.cumsum([0, *map(len, hidden)])
    excluded = np.concatenate([*hidden, np.empty(0, np.int64)])
    parts = [names, _sums(given.indices, given.indptr), _sums(excluded, ends)]
    mixed = np.broadcast_to(start, len(logins)).copy()
    for part in parts:
        mixed = _mixed(mixed ^ part)
    return mixed.view(np.int64)


def _sums(items: NDArray[np.integer], ends: NDArray[np.integer]) -> _Hashes:
    """Return the sum of the hashes of each user's items, whatever their order, modulo 2^64."""
    sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(_mixed(items.astype(np.uint64)), dtype=np.uint64)])
    difference: _Hashes = sums[ends[1:]] - sums[ends[:-1]]
    return difference


def _mixed(values: _Hashes) -> _Hashes:
    """Return hashes of numbers by splitmix64 (Steele, Lea and Flood, OOPSLA 2014)."""
    mixed = values + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))
