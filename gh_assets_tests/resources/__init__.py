"""Tests of the resources. Their clients are tested by `gh_assets_tests/services/` and by all tests of jobs."""
