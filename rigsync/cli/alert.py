"""`rigsync alert`."""

from __future__ import annotations

import click

from rigsync.agent.file import read_agent_file
from rigsync.agent.keys import is_agent_file
from rigsync.alerts.limits import Limit, NotSent
from rigsync.alerts.sender import longest, problem_with, trial
from rigsync.cli.logs import start_logging
from rigsync.cli.options import json_option, rigs_option, verbose_option
from rigsync.cli.output import write_json
from rigsync.cli.rigs import read, rigs_of_file
from rigsync.cli.tables import print_table
from rigsync.config.alerts import Alert
from rigsync.errors import ConfigError


@click.command(short_help="Show who is told of what, and try it.")
@click.argument("file", metavar="[FILE]", required=False, type=click.Path())
@click.option("--test", "is_test", is_flag=True, help="Send each alert once, and say what has become of it.")
@rigs_option
@json_option
@verbose_option
def command(file: str | None, is_test: bool, rigs_file: str | None, as_json: bool) -> int:
    """Show who is told of failures, lost rigs and ends of sessions, by the FILE of rigs or of an agent.

    Without FILE, it reads the file of rigs that the other commands take. With --test, each alert is sent once, as a
    test. The exit status is 1 if one cannot be told from this computer, or was not. No URL is shown.

    \b
    rigsync alert
    rigsync alert --test
    rigsync alert left.yaml --test
    """  # noqa: D301 - click's mark for lines that it must not rewrap
    if file and rigs_file:
        raise click.UsageError("give either FILE or --rigs FILE")
    start_logging()
    source, alerts = _alerts_of(file, rigs_file)
    if not alerts:
        raise ConfigError("nobody is told of anything: write a section alerts: (docs/alerts.md)", file=source)
    problems = [_tried(alert) if is_test else problem_with(alert) for alert in alerts]
    told = list(zip(alerts, problems, strict=True))
    if as_json:
        documents = [{**alert.document(), "problem": problem} for alert, problem in told]
        write_json({"file": source, "test": is_test, "alerts": documents})
        return int(any(problems))
    well = "sent" if is_test else "ok"
    rows = [[alert.key, ", ".join(alert.on), alert.way.what, problem or well] for alert, problem in told]
    print_table(["alert", "on", "tells by", "outcome" if is_test else "from here"], rows)
    return int(any(problems))


def _alerts_of(file: str | None, rigs_file: str | None) -> tuple[str | None, tuple[Alert, ...]]:
    """Return the file that is meant, and its alerts."""
    if file and is_agent_file(file):
        return file, read_agent_file(file).alerts
    rigs = read(file) if file else rigs_of_file(rigs_file)
    return rigs.source, rigs.alerts


def _tried(alert: Alert) -> str | None:
    """Send an alert as a test; return why nobody was told, None where somebody was."""
    try:
        trial(alert, Limit(longest(alert)))
    except NotSent as error:
        return str(error)
    return None
