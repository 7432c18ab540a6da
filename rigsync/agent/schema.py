"""The JSON Schema of an agent's file, by which editors complete and check it."""

from __future__ import annotations

from typing import Any

from rigsync.agent.keys import AGENT


def agent_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12).

    It comes from the table of keys by which `read_agent_file` checks. What concerns several keys, such as unknown
    variables, only that function finds.
    """
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "The file of a rigsync agent",
        **AGENT.schema(),
    }
