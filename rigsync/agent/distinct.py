"""Whether agents that serve in one program have names and addresses of their own."""

from __future__ import annotations

from collections.abc import Iterable

from rigsync._text import shortened
from rigsync.agent.file import AgentFile
from rigsync.core.rigs import Address
from rigsync.errors import ConfigError

_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - nothing is opened here


def check_distinct_agents(files: Iterable[AgentFile]) -> None:
    """Check that no two files have one rig or one address; the error names the second one's key."""
    earlier: list[AgentFile] = []
    mistakes: list[ConfigError] = []
    for file in files:
        for other in earlier:
            if file.name == other.name:
                problem = f"two rigs have the name {shortened(file.name)}; the other stands in {other.source}"
                mistakes.append(file.error(problem, "name"))
            if _share_an_address(file.listen, other.listen):
                problem = f"{other.name} in {other.source} listens at {other.listen} already"
                mistakes.append(file.error(problem, "listen"))
        earlier.append(file)
    if mistakes:
        raise ConfigError.of(mistakes)


def _share_an_address(one: Address, two: Address) -> bool:
    if (one.scheme, one.port) != (two.scheme, two.port) or not one.port or one.is_brokered:
        return False
    return one.host == two.host or one.host in _WILDCARDS or two.host in _WILDCARDS
