"""Tests of vectors of texts."""
