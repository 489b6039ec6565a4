"""The last decision about the champion."""

from __future__ import annotations

from gh_assets.registry import Decision, ModelRegistry
from gh_assets_tests.support.mongo import the_document


def test_last_decision_is_kept_with_any_names(registry: ModelRegistry) -> None:
    assert registry.decisions.last() is None
    for outcome in ("refused", "promoted"):
        decision = Decision(
            outcome=outcome,
            candidate="a.b 1",
            champion="$c 2",
            summary="so it is",
            newest={"a.b": 1, "$c": 2},
            validation={"a.b 1": 0.5},
            checks={"cost": "little"},
            skipped={"d.e 1": "broken"},
            by="run 1",
        )
        registry.decisions.record(decision)
        assert registry.decisions.last() == decision
        assert the_document(registry.decisions.documents)["words"] == "so it is", "the stored name of the summary"
        assert decision.undecided == (outcome == "refused")
    assert registry.decisions.last("another purpose") is None
