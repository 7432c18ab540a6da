"""For tests, yours too: real coordinator and rig cores on a simulated, seeded, bad network. Nothing sleeps.

Example
-------
>>> network = SimNetwork(seed=7, loss=0.3)
>>> rig = network.add_rig("cameras", {"EXPSTART": 0.5})
>>> coordinator = network.coordinator()
>>> when = coordinator.push("EXPSTART")
>>> network.run(60, until=lambda: when in coordinator.results)
True
>>> coordinator.results[when].failures["cameras"].error
'StateError'
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from rigsync.core.answers import Identity
from rigsync.core.arguments import validate_event
from rigsync.core.messages import Command, Verb
from rigsync.core.ownership import LEASE
from rigsync.core.timing import Timing
from rigsync.testing.network import EPOCH, DriftingClock, Network, Node, SimAddress
from rigsync.testing.nodes import Coordinator, EchoRig, FakeRig, Handler

__all__ = ["EPOCH", "Coordinator", "DriftingClock", "EchoRig", "FakeRig", "Handler", "Node", "SimAddress", "SimNetwork"]

SimRig = TypeVar("SimRig", FakeRig, EchoRig)


class SimNetwork(Network):
    """A network that loses, duplicates, reorders and delays, the same way for the same seed.

    Parameters
    ----------
    seed : int
        Seed of all that is random in it, also of the cores' back-off.
    loss, duplication, reordering : float
        Shares of datagrams, each way, from 0 to 1. A reordered one is held back for up to 50 ms.
    delay : (float, float)
        Bounds of the one-way delay in seconds.

    Attributes
    ----------
    now : float
        Virtual monotonic seconds.
    cut_off : set of str
        Hosts that are cut off: nothing is carried from or to them.
    """

    rigs: dict[str, FakeRig | EchoRig]

    def add_rig(
        self,
        name: str,
        handlers: Mapping[str, float | Handler] | None = None,
        *,
        commands: Mapping[str, float | Handler] | None = None,
        offset: float = 0.0,
        drift: float = 0.0,
        lease: float = LEASE,
        **identity: Any,
    ) -> FakeRig:
        """Plug in a rig that speaks the rigsync dialect.

        Parameters
        ----------
        name : str
            Its name.
        handlers : mapping, optional
            By message, the seconds that its handler takes, or a function that is called at once with the message's
            arguments.
        commands : mapping, optional
            The same by name of a command; the function returns the command's value.
        offset, drift : float
            Seconds that its clock is ahead, and that it gains a second.
        lease : float
            Seconds for which the coordinator in charge may be silent.
        **identity
            Further fields of `Identity`, such as ``main_sync``.

        Raises
        ------
        TypeError, ValueError
            An unknown message, or an impossible name of a command.
        """
        known: dict[Verb, float | Handler] = {validate_event(event): do for event, do in (handlers or {}).items()}
        known.update({Command(command): do for command, do in (commands or {}).items()})
        rig = FakeRig(self, name, known, Identity(name, **identity), offset, drift, lease)
        return self._plug_rig(name, rig)

    def add_echo_rig(self, name: str, latency: float = 0.001) -> EchoRig:
        """Plug in a model of an iblutil rig.

        Parameters
        ----------
        name : str
            Its name.
        latency : float
            Seconds between its echo of a message and its answer.
        """
        return self._plug_rig(name, EchoRig(self, name, latency))

    def coordinator(
        self, rigs: Iterable[str] | None = None, timing: Timing | None = None, **config: Any
    ) -> Coordinator:
        """Plug in a coordinator, and begin to probe.

        Parameters
        ----------
        rigs : iterable of str, optional
            Names of its rigs; by default all that are plugged in.
        timing : Timing, optional
            Other times than the usual ones.
        **config
            Further fields of `RigConfig`, the same for all rigs, such as ``timeout``.

        Raises
        ------
        KeyError
            There is no such rig.
        ConfigError
            A field has an impossible value.
        """
        self._coordinators += 1
        host = f"10.0.{self._coordinators // 250 + 100}.{1 + self._coordinators % 250}"
        names = list(self.rigs if rigs is None else rigs)
        addresses = {name: self.rigs[name].address for name in names}
        coordinator = Coordinator(self, host, addresses, timing or Timing(), config)
        self._nodes.append(coordinator)
        for address in coordinator.lines:
            self._at[address] = coordinator
        coordinator.fanout.connect(self.now)
        coordinator.pump()
        return coordinator

    def kill(self, coordinator: Coordinator) -> None:
        """End a coordinator as SIGKILL does: it says nothing more, and nothing listens where it was."""
        self._nodes.remove(coordinator)
        nobody = Node()
        nobody.listening = False
        self._at.update(dict.fromkeys(coordinator.lines, nobody))

    def _plug_rig(self, name: str, rig: SimRig) -> SimRig:
        rig.address = (f"10.0.1.{len(self.rigs) + 1}", 11001)
        self.rigs[name] = rig
        self._nodes.append(rig)
        self._at[rig.address] = rig
        return rig
