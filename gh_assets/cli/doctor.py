"""`gh-assets doctor`: the settings, and whether every configured service works."""

import sys

import click

from gh_assets.cli.output import Table, escape, findings_table, json_option, print_json, report, stdout
from gh_assets.settings import load_settings, setting_rows


@click.command()
@click.option("--settings", "only_settings", is_flag=True, help="Only show the settings; check no service.")
@json_option
def doctor(only_settings: bool, as_json: bool) -> None:
    """Show all settings and check every configured service.

    For each problem, the finding says what is wrong and what to do.
    """
    settings = load_settings()
    rows = setting_rows(settings)
    if only_settings and as_json:
        print_json({row.name: row.value for row in rows})
        return
    if not as_json:
        table = Table("setting", "value", "meaning")
        for row in rows:
            changed = row.value != row.default
            table.add_row(f"[bold]{row.name}[/]" if changed else row.name, escape(row.value), escape(row.meaning))
        stdout().print(table)
        if only_settings:
            return
    from gh_assets.cli.service_checks import check_services

    findings = check_services(settings)
    table = findings_table("service", [(finding.ok, finding.service, finding.summary) for finding in findings])
    documents = [{"service": service, "ok": ok, "words": summary} for service, ok, summary in findings]
    report(documents, table, as_json)
    if not all(finding.ok for finding in findings):
        sys.exit(1)
