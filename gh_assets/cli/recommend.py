"""`gh-assets recommend`: recommendations with their reasons."""

import click

from gh_assets.cli.options import options_of
from gh_assets.cli.output import Table, json_option, print_json, stderr, stdout, wrapping
from gh_assets.serving.requests import RecommendationParameters
from gh_assets.settings import load_settings, split_list


@click.command()
@click.argument("login", required=False)
@click.option("--repos", help="Recommend for these repositories instead of a login: a/b,c/d.")
@click.option("--popular", is_flag=True, help="Recommend popular repositories of all kinds, for an unknown user.")
@click.option("--archived", is_flag=True, help="Include archived repositories.")
@options_of(RecommendationParameters, without=("archived",))
@json_option
def recommend(
    login: str | None,
    repos: str | None,
    popular: bool,
    archived: bool,
    options: RecommendationParameters,
    as_json: bool,
) -> None:
    """Recommend repositories, each with its reasons.

    Give the LOGIN of a GitHub user, --repos with repositories that a user likes, or --popular.
    """
    if [login is not None, repos is not None, popular].count(True) != 1:
        raise click.UsageError("Give either a login, --repos a/b,c/d, or --popular.")
    from gh_assets.serving.snapshot import load_current_snapshot

    request = options.model_copy(update={"archived": "yes" if archived else "no"}).request()
    snapshot = load_current_snapshot(load_settings())
    if login is not None:
        request = snapshot.for_login(login, request)
    elif repos is not None:
        request = snapshot.for_repositories(split_list(repos) or [repos], request)
    else:
        request = snapshot.for_new_user(request)
    answer = snapshot.recommend(request)
    for warning in answer.warnings:
        stderr.print(warning, style="yellow")
    if as_json:
        print_json(answer.to_json())
        return
    table = Table("#", wrapping("repository"), wrapping("because of"), title=answer.request.title, title_justify="left")
    for entry in (item.recommendation for item in answer.items):
        reasons = ", ".join(f"{reason.full_name} ({reason.share:.0%})" for reason in entry.because)
        table.add_row(str(entry.rank), entry.full_name, reasons)
    stdout().print(table)
    if answer.new:
        table = Table(wrapping("repository"), wrapping("similar to"), title="New", title_justify="left")
        for entry in (item.recommendation for item in answer.new):
            table.add_row(entry.full_name, ", ".join(reason.full_name for reason in entry.because))
        stdout().print(table)
