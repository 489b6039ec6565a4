"""Names that GitHub can know users by."""

from gh_assets.github.names import is_login


def test_valid_logins() -> None:
    assert all(map(is_login, ("a", "octo-cat", "a1", "under_score", "x" * 100)))
    assert not any(map(is_login, ("", "-a", "a-", "a b", "a/b", "../x", "a%", "é", "x" * 101, "a\n")))
