"""One description of an experiment from those that the rigs send, as ``ibllib.io.session_params`` merges them."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import yaml

from rigsync._text import printable, shortened

FILE = "_ibl_experiment.description.yaml"
"""Its name: https://docs.internationalbrainlab.org, and ``ibllib/io/session_params.py``."""
SPEC_VERSION = "1.0.0"
"""The version of the format, where no rig names one."""
MARK = "# Written by rigsync of what the rigs have sent."
"""The first line: a file without it is somebody else's."""
_SYNC = "sync"
"""The key that one rig may have: the signal to which all others are aligned."""
_LONGEST = 100
"""Characters of a value in the text of a conflict."""


def merged(stubs: Mapping[str, Mapping[str, Any]]) -> tuple[dict[str, Any], list[str]]:
    """Return one description, and where its parts contradict each other, in words.

    Maps are merged, lists have all items of all, once. Of two other values the first counts, and both are named.

    Parameters
    ----------
    stubs : mapping of str to mapping
        The descriptions by rig, in the order in which they count.
    """
    whole: dict[str, Any] = {}
    origins: dict[tuple[str, ...], str] = {}
    conflicts: list[str] = []
    for rig, stub in stubs.items():
        _merge(whole, stub, rig, (), origins, conflicts)
    if whole:
        whole.setdefault("version", SPEC_VERSION)
    return whole, conflicts


def text_of(description: Mapping[str, Any], conflicts: list[str]) -> str:
    """Return the description as the text of its file; conflicts stand above it, as comments."""
    head = [MARK, *(f"# CONFLICT {printable(conflict)}" for conflict in conflicts)]
    return "\n".join(head) + "\n" + yaml.safe_dump(dict(description), sort_keys=False, allow_unicode=True)


def _merge(
    target: dict[str, Any],
    stub: Mapping[str, Any],
    rig: str,
    place: tuple[str, ...],
    origins: dict[tuple[str, ...], str],
    conflicts: list[str],
) -> None:
    for key, value in stub.items():
        here = (*place, key)
        if key not in target:
            target[key] = copy.deepcopy(value)
            origins[here] = rig
            continue
        present = target[key]
        if present == value and type(present) is type(value):
            continue
        if isinstance(present, dict) and isinstance(value, dict) and here != (_SYNC,):
            _merge(present, value, rig, here, origins, conflicts)
        elif isinstance(present, list) and isinstance(value, list):
            present += [copy.deepcopy(item) for item in value if item not in present]
        else:
            first = next(origins[here[:length]] for length in range(len(here), 0, -1) if here[:length] in origins)
            told = f"{shortened(present, _LONGEST)} of {first} counts, not {shortened(value, _LONGEST)} of {rig}"
            conflicts.append(f"{'.'.join(here)}: {told}")
