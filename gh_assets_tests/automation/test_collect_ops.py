"""The ops that collect the repositories that are due."""

from gh_assets.automation.collection_sensors import lists_changed, new_repositories
from gh_assets.services.connections import asset_store
from gh_assets_tests.automation.conftest import AutomationHome


def test_the_job_collects_closed_and_named_repositories_in_one_run(automation: AutomationHome) -> None:
    automation.standin.world.by_name["o/r2"].restricted = True
    automation.run(lists_changed)
    automation.run(new_repositories)
    automation.standin.world.by_name["o/r2"].restricted = False
    result = automation.run_job("collect_due_repositories")
    assert automation.materialized(result) == {"o/r2"}, "by default it does not wait a week"
    assert asset_store(automation.settings).read_table("stargazers", "o/r2").height == 12
    named = automation.run_job("collect_due_repositories", choose_due={"repositories": ["o/r0", "o/r7"]})
    assert automation.materialized(named) == {"o/r0", "o/r7"}
    failed = automation.run_job("collect_due_repositories", success=False, choose_due={"repositories": ["not/there"]})
    data = failed.failure_data_for_node("choose_due")
    assert data is not None
    assert "'not/there' is no partition" in str(data.error)


def test_shares_give_the_same_result_as_one_step(automation: AutomationHome) -> None:
    many = {f"m/r{number}": list(range(5 + number % 9)) for number in range(110)}
    automation.change(many)
    automation.run(lists_changed)
    result = automation.run_job("collect_due_repositories", choose_due={"shares": 8})
    steps = {event.step_key for event in result.get_step_success_events()}
    assert len([step for step in steps if step and step.startswith("collect_share[")]) == 4, "no share is too small"
    assert automation.materialized(result) == set(many)
    store = asset_store(automation.settings)
    assert {name: store.read_table("stargazers", name).height for name in many} == {
        name: len(who) for name, who in many.items()
    }
    assert list(store.objects.names("runs/")) == [], "what passed between the steps is deleted"
    assert automation.tick(new_repositories) == "None of 110 repositories is due."
