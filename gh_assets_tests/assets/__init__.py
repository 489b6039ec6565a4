"""Tests of the assets' parts. The assets themselves are tested by the whole chain: `gh_assets_tests/cli/test_chain.py`.

`repos`, `stargazers` and `collection_plan` are also run by the jobs of `gh_assets_tests/automation/`.
"""
