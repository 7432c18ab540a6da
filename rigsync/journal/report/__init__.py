"""The report of a session: one page of HTML, to be read, printed and put into the lab book (docs/report.md)."""
