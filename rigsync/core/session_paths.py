"""The folder of a session, as ALF and BIDS name it.

ALF: https://int-brain-lab.github.io/ONE/alf_intro.html, ``subject/date/number``. BIDS:
https://bids-specification.readthedocs.io/en/stable/common-principles.html, ``sub-<label>/ses-<label>``.
"""

from __future__ import annotations

import re

from rigsync.core.lifecycle import reference_parts

SESSION_PATH, BIDS = "session_path", "bids"
"""Names of the variables that stand for such a folder."""
PATHS = (SESSION_PATH, BIDS)

_LEFT_OUT = re.compile(r"[-_. ]")
"""What a subject's name may have, and a label of BIDS may not."""
_LABEL = re.compile(r"[A-Za-z0-9]+", re.ASCII)
_SEPARATORS = re.compile(r"[/\\:]")


def session_path(reference: str) -> str:
    """Return a session's folder in ALF form, ``subject/yyyy-mm-dd/001``.

    Raises
    ------
    ValueError
        The reference has another form, or its subject is no name of one folder.
    """
    date, number, subject = _parts(reference)
    if _SEPARATORS.search(subject) or subject.strip(". ") != subject or not subject.isprintable():
        raise ValueError(f"its subject {subject!r} is no name of a folder")
    return f"{subject}/{date}/{number:0>3}"


def bids(reference: str) -> str:
    """Return a session's folder in BIDS form, ``sub-mouse/ses-20260131001``: its label is date and number.

    A label has letters and digits only. So ``_``, ``-``, dots and blanks of the subject are left out.

    Raises
    ------
    ValueError
        The reference has another form, or its subject has other characters.
    """
    date, number, subject = _parts(reference)
    label = _LEFT_OUT.sub("", subject)
    if not _LABEL.fullmatch(label):
        raise ValueError(f"its subject {subject!r} has other characters than letters and digits, which BIDS has not")
    return f"sub-{label}/ses-{date.replace('-', '')}{number:0>3}"


def _parts(reference: str) -> tuple[str, str, str]:
    parts = reference_parts(reference)
    if parts is None:
        raise ValueError("it is not a reference yyyy-mm-dd_n_subject")
    return parts
