"""Agents that serve side by side, until this program is told to end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from rigsync.agent.agent import Agent
from rigsync.errors import NotRunning
from rigsync.rig import WAKE_INTERVAL, stop_signals


def serve(agents: Sequence[Agent], announce: Callable[[Agent], object]) -> None:
    """Serve until Ctrl-C or SIGTERM; then end all commands of all agents at once.

    Parameters
    ----------
    agents : sequence of Agent
        The agents.
    announce : callable
        Called with each that listens.

    Raises
    ------
    ListenError
        A port is in use, or an address is not this machine's; then none serves.
    NotRunning
        The event loop of one has died.
    """
    asked = threading.Event()
    with stop_signals(asked):
        try:
            for agent in agents:
                agent.start()
            for agent in agents:
                announce(agent)
            while not asked.wait(WAKE_INTERVAL):
                for agent in agents:
                    if not agent.is_running:
                        raise NotRunning(f"rig {agent.name} has stopped; see the log, then start it again")
        finally:
            # Side by side: a recorder that takes its time to end must not let the others go on.
            closing = [threading.Thread(target=agent.close, name=f"rigsync closes {agent.name}") for agent in agents]
            for thread in closing:
                thread.start()
            for thread in closing:
                thread.join()
