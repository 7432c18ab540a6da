"""The folder of a session, as ALF and BIDS name it.

ALF: https://int-brain-lab.github.io/ONE/alf_intro.html, ``subject/date/number``. BIDS:
https://bids-specification.readthedocs.io/en/stable/common-principles.html, ``sub-<label>/ses-<label>``.
"""

from __future__ import annotations

import contextlib
import re

from rigsync.core.lifecycle import reference_parts

SESSION_PATH, BIDS = "session_path", "bids"
"""Names of the variables that stand for such a folder."""
PATHS = (SESSION_PATH, BIDS)

_LEFT_OUT = re.compile(r"[-_. ]")
"""What a subject's name may have, and a label of BIDS may not."""
_LABEL = re.compile(r"[A-Za-z0-9]+", re.ASCII)
_VARIABLE = re.compile(r"\{(\w*)\}")
VARIABLES = ("exp_ref", "date", "number", "subject", *PATHS)
"""The variables of `place`."""
_KNOWN = re.compile(rf"\{{({'|'.join(VARIABLES)})\}}")
# What Windows takes for a device in any folder and with any extension ("Naming Files, Paths, and Namespaces").
DEVICE = re.compile(r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[0-9\u00b9\u00b2\u00b3]) *(?:\..*)?", re.I | re.S)
_SEPARATORS = re.compile(r"[/\\:]")


def session_path(reference: str) -> str:
    """Return a session's folder in ALF form, ``subject/yyyy-mm-dd/001``.

    Raises
    ------
    ValueError
        The reference has another form, or its subject is no name of one folder.
    """
    date, number, subject = _parts(reference)
    is_odd = subject.rstrip(". ") != subject or not subject.isprintable() or DEVICE.fullmatch(subject)
    if is_odd or _SEPARATORS.search(subject):
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


def folder_names(reference: str) -> dict[str, str]:
    """Return both forms by the name of their variable, but for one that the subject's name does not allow."""
    found = {}
    for name, function in ((SESSION_PATH, session_path), (BIDS, bids)):
        with contextlib.suppress(ValueError):
            found[name] = function(reference)
    return found


def check_place(template: str) -> None:
    """Raise a ValueError where the template of a folder has a variable that `place` does not know."""
    for name in _VARIABLE.findall(template):
        if name not in VARIABLES:
            raise ValueError(f"unknown variable {{{name}}}; the variables here are {', '.join(VARIABLES)}")


def place(template: str, reference: str) -> str:
    """Return the folder for a session, ``D:/data/{session_path}`` for instance, with its variables filled in.

    Raises
    ------
    ValueError
        The reference has no such part, or the subject is no name of one folder.
    """
    values: dict[str, str] = {}
    if _KNOWN.search(template):
        date, number, subject = _parts(reference)
        session_path(reference)  # which looks at the subject
        values = {"exp_ref": f"{date}_{number}_{subject}", "date": date, "number": number, "subject": subject}
        if f"{{{BIDS}}}" in template:
            bids(reference)  # which says what is wrong
    return _KNOWN.sub(lambda found: {**values, **folder_names(reference)}[found[1]], template)


def _parts(reference: str) -> tuple[str, str, str]:
    parts = reference_parts(reference)
    if parts is None:
        raise ValueError("it is not a reference yyyy-mm-dd_n_subject")
    return parts
