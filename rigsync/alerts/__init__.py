"""Who is told of failures, lost rigs and ends of sessions: a web address, a command, the desktop (docs/alerts.md)."""
