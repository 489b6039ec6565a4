"""Counting the users whom items have in common, without the interpreter's lock; see `baselines.common_users`."""

from gh_assets.recommender.cpu.compilation import compiled


@compiled
def add_common_users(total, first, users_of, users, items_of, items, weights):
    """Add the weights of the users whom items have in common.

    Parameters
    ----------
    total : ndarray of float32, shape (rows, items)
        Changed: a row for each item from `first` on.
    first : int
    users_of, users : ndarray of int64, ndarray of int32
        Offsets and users of each item, as in a CSC matrix.
    items_of, items : ndarray of int64, ndarray of int32
        Offsets and items of each user, as in a CSR matrix.
    weights : ndarray of float32, shape (users,)
    """
    for row in range(len(total)):
        common = total[row]
        for user in users[users_of[first + row] : users_of[first + row + 1]]:
            weight = weights[user]
            for item in items[items_of[user] : items_of[user + 1]]:
                common[item] += weight
