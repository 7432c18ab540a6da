"""What `rigsync check` says of alerts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import click

from rigsync._text import printable
from rigsync.alerts.sender import problem_with
from rigsync.config.alerts import Alert, Desktop


def document_of(alert: Alert) -> dict[str, Any]:
    """Return an alert for JSON, with what is known against it here."""
    return {**alert.document(), "problem": problem_with(alert)}


def tell_problems(alerts: Iterable[Alert]) -> int:
    """Say which alerts cannot be told from this computer as it is now; return 1 if there are any, else 0."""
    status = 0
    for alert in alerts:
        if problem := problem_with(alert):
            is_bad = not isinstance(alert.way, Desktop)  # which may be meant for another computer
            click.echo(f"{'Error' if is_bad else 'Warning'}: {alert.name}: {printable(problem)}", err=True)
            status = max(status, int(is_bad))
    return status
