"""What can be wrong between this computer and a rig, the signs of it, and what to do. It only judges an `Evidence`."""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from rigsync import __version__
from rigsync._text import one_line, span_text
from rigsync.core.events import Dialect
from rigsync.core.messages import VERSION
from rigsync.core.rigs import Address, is_called
from rigsync.doctor.at_broker import at_broker
from rigsync.doctor.evidence import Evidence, SocketAddress, text_of
from rigsync.doctor.unwell import unwell
from rigsync.errors import RemoteProtocolError
from rigsync.net.interfaces import Interface

CLOCK_LIMIT = 1.0
"""Seconds by which a clock may be off."""

_REFERENCE = re.compile(r"[\w.:-]{1,100}", re.ASCII)  # a name that needs no quotes in a command
_LOOPBACK = ("127.0.0.1", "::1")
_ADDRESSES = "(ipconfig; ip address)"


class Fault(str, Enum):
    """Faults, as docs/doctor.md explains them; the values are for programs."""

    UNKNOWN_NAME = "unknown-name"
    SAME_ADDRESS = "same-address"
    NO_ROUTE = "no-route"
    WRONG_INTERFACE = "wrong-interface"
    OTHER_ADDRESS = "answers-from-another-address"
    OTHER_SCHEME = "other-protocol"
    CLOSED_PORT = "closed-port"
    DEAF = "deaf"
    SILENCE = "silence"
    BROKER = "broker"
    HANGS = "hangs"
    NOT_EXAMINED = "not-examined"
    NOT_A_RIG = "not-a-rig"
    WRONG_RIG = "wrong-rig"
    DIALECT = "wrong-dialect"
    VERSION = "version"
    MTU = "mtu"
    CLOCK = "clock"
    SECOND_COORDINATOR = "second-coordinator"
    UNWELL = "unwell"
    LIBRARY = "library"


@dataclass(frozen=True, slots=True)
class Finding:
    """One fault of one rig."""

    fault: Fault
    seen: str
    """What was seen."""
    meaning: str
    """What follows from it."""
    remedies: tuple[str, ...]
    """What to do, step by step. Steps that begin with ``$`` are commands."""


def judge(
    evidence: Evidence, everything: Sequence[Evidence], interfaces: Sequence[Interface] = ()
) -> tuple[Finding, ...]:
    """Return what is wrong with one rig.

    `everything` is the evidence of all rigs, this one too: together they show whose clock is off.
    """
    if not evidence.has_answered or evidence.refused:
        return (_unanswered(evidence, interfaces),)
    checks = (
        _same_address(evidence, everything) or _wrong_rig(evidence, everything),
        _dialect(evidence),
        _version(evidence),
        _mtu(evidence),
        _clock(evidence, everything),
        _second_coordinator(evidence, interfaces),
        _unwell(evidence),
    )
    return tuple(finding for finding in checks if finding)


def _unanswered(evidence: Evidence, interfaces: Sequence[Interface]) -> Finding:
    """Return the best single reason why a rig does not answer."""
    if evidence.rig.address.is_brokered:
        return _finding(Fault.BROKER, *at_broker(evidence))
    if evidence.unresolved is not None:
        return _unknown_name(evidence)
    if evidence.answered_from:
        return _other_address(evidence, evidence.answered_from)
    if evidence.junk:
        return _not_a_rig(evidence, evidence.junk)
    if evidence.other_scheme:
        return _other_scheme(evidence, evidence.other_scheme)
    if evidence.connected:
        return _hangs(evidence)
    if finding := _wrong_interface(evidence, interfaces):
        return finding
    if evidence.unreachable:
        return _no_route(evidence, evidence.unreachable)
    if evidence.refused:
        return _closed(evidence, interfaces)
    return _not_examined(evidence) if evidence.spared else _silence(evidence)


def _unknown_name(evidence: Evidence) -> Finding:
    host, name = evidence.rig.address.host, evidence.rig.name
    return _finding(
        Fault.UNKNOWN_NAME,
        f"the name {host} does not resolve: {evidence.unresolved}",
        "this computer cannot find out at which address the rig is",
        "check the spelling in the file of rigs, and that the rig's computer has this name",
        f"$ ping {host}",
        f"if it fails too, write the IP address instead, which the rig's computer shows {_ADDRESSES}: "
        f"{name}: {Address(evidence.scheme, '192.168.1.20', evidence.rig.address.port)}",
    )


def _other_address(evidence: Evidence, source: SocketAddress) -> Finding:
    asked = evidence.asked or ("", 0)
    answering = _uri(evidence, source)
    if source[0] == asked[0]:
        meaning = "another port answers than the one asked, as behind a relay or a router that translates addresses"
        remedy = "remove the relay or the port forwarding, or give each rig one that answers from the port asked"
    else:
        meaning = (
            "the rig's computer has several addresses, and answers from another one than was asked; rigsync takes no "
            "answer from elsewhere, since it may be forged"
        )
        remedy = f"or let the rig's program listen at that address alone, in place of 0.0.0.0: {_uri(evidence, asked)}"
    return _finding(
        Fault.OTHER_ADDRESS,
        f"asked at {text_of(asked)}, and the answer came from {text_of(source)}",
        meaning,
        f"write the address that answers into the file of rigs: {evidence.rig.name}: {answering}",
        remedy,
    )


def _other_scheme(evidence: Evidence, scheme: str) -> Finding:
    address, name = evidence.rig.address, evidence.rig.name
    right = Address(scheme, address.host, address.port)
    return _finding(
        Fault.OTHER_SCHEME,
        f"nothing answers at {address}, and the rig does at {right}",
        "the file of rigs and the rig's program name different protocols",
        f"correct the file of rigs: {name}: {right}",
        f"or start the rig's program at {evidence.scheme}:// in place of {scheme}://",
    )


def _not_a_rig(evidence: Evidence, junk: RemoteProtocolError) -> Finding:
    protocol, listening = ("TCP", "-ltnp") if evidence.scheme == "tcp" else ("UDP", "-ulnp")
    if junk.kind == "foreign version":
        return _finding(
            Fault.VERSION,
            f"what answers at {evidence.where} speaks another version of the protocol: {junk.problem}",
            "the rig and this computer do not understand each other",
            *_updates(),
            f"this is rigsync {__version__}, which speaks version {VERSION}",
        )
    return _finding(
        Fault.NOT_A_RIG,
        f"what answers at {evidence.where} is no rig: {junk}",
        "another program has this port, or the address is that of another computer",
        "check address and port in the file of rigs",
        "on the rig's computer, see which program has the port; on Windows, then on Linux:",
        f"$ netstat -ano -p {protocol} | findstr :{evidence.rig.address.port}",
        f"$ ss {listening} | grep :{evidence.rig.address.port}",
    )


def _wrong_interface(evidence: Evidence, interfaces: Sequence[Interface]) -> Finding | None:
    name, asked = evidence.rig.name, evidence.asked
    if evidence.reached_at:
        here, there = text_of(asked or ()), text_of(evidence.reached_at)
        return _finding(
            Fault.WRONG_INTERFACE,
            f"{evidence.rig.address.host} has several addresses; the rig answers at {there}, and not at {here}",
            "the rig's program listens at one of its computer's interfaces, and this computer asks at another",
            f"write the address that answers into the file of rigs: {name}: {_uri(evidence, evidence.reached_at)}",
            "or let the rig's program listen at all interfaces: "
            + str(Address(evidence.scheme, "0.0.0.0", evidence.rig.address.port)),  # noqa: S104 - advice, not bound
        )
    if asked is None:
        return None
    ip = ipaddress.ip_address(asked[0].partition("%")[0])
    if kind := _unfit(ip, interfaces):
        return _finding(
            Fault.WRONG_INTERFACE,
            f"{ip} is {kind}",
            "no rig can be reached there",
            "on the rig's computer, see which addresses it has; on Windows, then on Linux:",
            "$ ipconfig",
            "$ ip address",
            "then write the one in this computer's network into the file of rigs",
        )
    chosen = evidence.local
    nearest = next((own for own in interfaces if ip in own.address.network and own.address.ip != ip), None)
    in_network = any(ip in own.address.network for own in interfaces if str(own.address.ip) == chosen)
    if nearest is None or chosen is None or in_network:
        return None
    label = f" ({nearest.name})" if nearest.name else ""
    return _finding(
        Fault.WRONG_INTERFACE,
        f"what is sent to {ip} leaves from {chosen}, although the interface {nearest.address}{label} is in the rig's "
        "own network",
        "the system sends it the wrong way: a VPN or a route takes it, or that interface is switched off",
        "see that the cable of that interface is plugged in and that it is switched on; disconnect VPNs",
        "see which way it takes; on Windows, then on Linux:",
        f'$ powershell -Command "Find-NetRoute -RemoteIPAddress {ip}"',
        f"$ ip route get {ip}",
    )


def _unfit(ip: ipaddress.IPv4Address | ipaddress.IPv6Address, interfaces: Iterable[Interface]) -> str | None:
    """Return why no rig can be at an address."""
    if ip.is_unspecified:
        return "an address to listen at, not one to send to"
    if ip.is_multicast:
        return "a multicast address"
    networks = [own.address.network for own in interfaces if own.address.network.prefixlen < 31]
    if isinstance(ip, ipaddress.IPv4Address) and (
        str(ip) == "255.255.255.255" or any(ip in (net.broadcast_address, net.network_address) for net in networks)
    ):
        return "the broadcast address of a network"
    if isinstance(ip, ipaddress.IPv4Address) and ip.is_link_local:
        return "an address that a computer gives itself when the network (DHCP) gives it none"
    return None


def _no_route(evidence: Evidence, said: str) -> Finding:
    host = (evidence.asked or (evidence.rig.address.host,))[0]
    sent = f" (sent from {evidence.local})" if evidence.local else ""
    return _finding(
        Fault.NO_ROUTE,
        f"the network cannot carry anything to {host}: {said}{sent}",
        "the rig's computer is off or has another address now, this computer is not in its network, or a firewall here "
        "or on the way rejects",
        f"check that the rig's computer is on, plugged in and at this address {_ADDRESSES}",
        "check that this computer has an address in the same network; on Windows, then on Linux:",
        "$ ipconfig",
        f"$ ip route get {host}",
        *_open_port(evidence, "if both are well, a firewall rejects, as firewalld does: "),
    )


def _closed(evidence: Evidence, interfaces: Sequence[Interface]) -> Finding:
    closes_when_deaf = evidence.scheme == "udp"  # on TCP it goes on listening
    is_iblutil = evidence.rig.dialect == Dialect.IBLUTIL.value or evidence.dialect is Dialect.IBLUTIL
    if closes_when_deaf and is_iblutil:
        return _finding(
            Fault.DEAF,
            f"the host of {evidence.where} is up and nothing listens at that port",
            "the iblutil rig has gone deaf: such a rig closes its socket for good after a lost or late echo, while its "
            "program may still run",
            "restart the rig's program; look at its recording first, which may still run",
            "a rig that uses rigsync.Rig stays up: consider changing over",
        )
    ip = ipaddress.ip_address((evidence.asked or ("0.0.0.0",))[0].partition("%")[0])  # noqa: S104 - never sent to
    own = ip.is_loopback or any(ip == interface.address.ip for interface in interfaces)
    steps = ["start the rig's program; if it runs, compare its address with the file of rigs, also udp:// or tcp://"]
    if closes_when_deaf:
        steps.append(
            "if it is an iblutil rig and its program runs, it has gone deaf after a lost echo: restart it (with "
            "dialect: iblutil in the file of rigs, the doctor says so at once)"
        )
    if not own:  # a computer's firewall lets its own datagrams through
        steps += _open_port(evidence, "if a firewall there rejects: ")
    return _finding(
        Fault.CLOSED_PORT,
        f"the host of {evidence.where} is up and nothing listens at that port",
        "the rig's program is not running there, or listens at another port or address"
        + ("; this address is this computer's own" if own else ""),
        *steps,
    )


def _silence(evidence: Evidence) -> Finding:
    tried = f"{evidence.probes} probes" if evidence.scheme == "udp" else "the call for a TCP connection"
    seen = f"no answer from {evidence.where} to {tried}" + (f", sent from {evidence.local}" if evidence.local else "")
    if evidence.host_is_up:
        seen += "; its host is up, for it refuses at other ports"
        meaning = "a firewall drops what comes for this port, or the rig's program hangs"
        first = "look at the rig: does its program react? If not, restart it"
    else:
        seen += ", and nothing else from its host"
        meaning = "a firewall drops what comes, or the rig's computer is off, unplugged, or no longer at this address"
        first = f"check that the rig's computer is on, plugged in and at this address {_ADDRESSES}"
    return _finding(Fault.SILENCE, seen, meaning, first, *_open_port(evidence))


def _hangs(evidence: Evidence) -> Finding:
    return _finding(
        Fault.HANGS,
        f"the host of {evidence.where} takes a TCP connection, and nothing answers on it",
        "the rig's program hangs (the system takes connections for it), or another program has the port",
        "look at the rig: does its program react? If not, look at its recording, which may go on, and restart it",
        "check address and port in the file of rigs",
    )


def _not_examined(evidence: Evidence) -> Finding:
    name, is_iblutil = evidence.rig.name, evidence.rig.dialect == Dialect.IBLUTIL.value
    if not evidence.rig.tells_start:
        seen = f"nothing was sent to {evidence.rig.address}, where a program of another protocol is"
        return _finding(Fault.NOT_EXAMINED, seen, "only ping can ask it", f"$ rigsync ping {shlex.quote(name)}")
    up = "its host is up, for it refuses at other ports" if evidence.host_is_up else "its host has sent nothing either"
    who = "the rig speaks iblutil" if is_iblutil else "the rig may speak iblutil"
    steps = ["while no experiment runs, let the doctor connect:", f"$ rigsync doctor --idle {shlex.quote(name)}"]
    if not is_iblutil:
        steps.append("if its program uses rigsync.Rig, write dialect: rigsync into the file of rigs: it is asked then")
    return _finding(
        Fault.NOT_EXAMINED,
        f"the doctor has not connected to {evidence.where}; {up}",
        f"{who}. Over TCP such a rig answers on its newest connection: one from here would take it from its task. "
        "So nobody has examined whether its port is open and its program answers",
        *steps,
    )


def _same_address(evidence: Evidence, everything: Iterable[Evidence]) -> Finding | None:
    place = (evidence.scheme, evidence.asked)
    others = [other.rig.name for other in everything if other is not evidence and (other.scheme, other.asked) == place]
    if not others:
        return None
    return _finding(
        Fault.SAME_ADDRESS,
        f"it has the same address as {', '.join(others)}: {evidence.where}",
        "nobody can tell two rigs at one address apart",
        "give each rig an address of its own in the file of rigs",
    )


def _wrong_rig(evidence: Evidence, everything: Iterable[Evidence]) -> Finding | None:
    name, alive = evidence.rig.name, evidence.alive
    if alive is None or is_called(name, alive.name):
        return None
    told = one_line(alive.name)
    right = next((other.rig for other in everything if other.alive and is_called(name, other.alive.name)), None)
    return _finding(
        Fault.WRONG_RIG,
        f"the rig at {evidence.where} says that it is {told}",
        f"{name} answers at the address of {right.name}" if right else "rigsync sends nothing to a rig of another name",
        f"correct the address of {name} in the file of rigs" + (f"; it answers at {right.address}" if right else ""),
        f"or correct the name {told} where that rig's program is started",
    )


def _dialect(evidence: Evidence) -> Finding | None:
    if evidence.rig.dialect != Dialect.RIGSYNC.value or evidence.dialect is not Dialect.IBLUTIL:
        return None
    return _finding(
        Fault.DIALECT,
        "the file of rigs says dialect: rigsync, and the rig speaks iblutil",
        "the rig does not understand rigsync's messages",
        "remove the line dialect: rigsync from the file of rigs; rigsync finds out what a rig speaks",
    )


def _version(evidence: Evidence) -> Finding | None:
    if evidence.alive is None or _series(evidence.alive.version) == _series(__version__):
        return None
    return _finding(
        Fault.VERSION,
        f"the rig has rigsync {evidence.alive.version}, this computer {__version__}",
        "they understand each other, but the older one lacks functions of the newer one",
        *_updates(),
    )


def _series(version: str) -> str:
    found = re.match(r"\d+\.\d+", version, re.ASCII)
    return found[0] if found else version


def _updates() -> tuple[str, ...]:
    return (
        "update the older one, in the environment in which the rig's program, or the task, runs:",
        "$ pip install --upgrade rigsync",
        "then restart the rig's program",
    )


def _mtu(evidence: Evidence) -> Finding | None:
    if evidence.lost_size is None:
        return None
    largest = evidence.largest or 0
    loss = 1 - evidence.answers / evidence.probes
    lossy = f" (of small ones {100 * loss:.0f}% are lost)" if loss else ""
    return _finding(
        Fault.MTU,
        f"datagrams of {largest:,} bytes come back, those of {evidence.lost_size:,} bytes do not{lossy}"
        if largest
        else f"short datagrams come back, those of {evidence.lost_size:,} bytes do not{lossy}",
        "something on the way carries no packets of that size: network cards have jumbo frames on one side only, or a "
        "switch, VPN or firewall drops fragments. EXPINIT with much data will time out",
        "set the same MTU (1500 unless every switch on the way knows jumbo frames) on both computers; on Windows, "
        "then on Linux:",
        "$ netsh interface ipv4 show subinterfaces",
        "$ ip link show",
        "let firewalls on the way pass fragments; until then, send paths in place of large data",
    )


def _clock(evidence: Evidence, everything: Iterable[Evidence]) -> Finding | None:
    clock = evidence.clock
    if clock is None or abs(clock.offset) - clock.bound <= CLOCK_LIMIT:
        return None
    others = [other.clock.offset for other in everything if other is not evidence and other.clock]
    with_us = sum(abs(offset) <= CLOCK_LIMIT for offset in others)
    with_rig = sum(abs(offset - clock.offset) <= CLOCK_LIMIT for offset in others)
    if with_us > with_rig:
        wrong = "the rig's is off, for this computer's agrees with other rigs'"
        where = "the rig's computer"
    elif with_rig > with_us:
        wrong = "this computer's is off, for the rigs agree among each other"
        where = "this computer"
    else:
        wrong = "no third clock tells which of the two is off"
        where = "whichever shows the wrong time"
    return _finding(
        Fault.CLOCK,
        f"the rig's clock is {abs(clock.offset):,.3f} s {'ahead of' if clock.offset > 0 else 'behind'} this "
        f"computer's; {wrong}",
        "times in files and logs of the two do not fit together; scheduled starts do, since rigsync computes them for "
        "each clock",
        f"have {where} set by a time server; on Windows, then on Linux:",
        "$ w32tm /resync",
        "$ sudo timedatectl set-ntp true",
        "then restart the rig's program, which reads the clock once, at its start",
    )


def _second_coordinator(evidence: Evidence, interfaces: Sequence[Interface]) -> Finding | None:
    owner = evidence.owner
    if owner is None or owner == evidence.local:
        return None
    own_addresses = {str(own.address.ip) for own in interfaces}
    is_here = evidence.asked is not None and evidence.asked[0] in own_addresses
    on_loopback = owner in _LOOPBACK
    if owner in own_addresses and (is_here or not on_loopback):
        return None
    where = f"rig's own computer ({owner})" if on_loopback and not is_here else f"computer {owner}"
    name, alive = shlex.quote(evidence.rig.name), evidence.alive
    reference = alive.exp_ref if alive else None
    shown = reference if reference and _REFERENCE.fullmatch(reference) else "REFERENCE"
    status = f" ({alive.status.name})" if alive else ""
    silent = f", and has been silent for {span_text(alive.silence / 1000)}" if alive and alive.silence else ""
    when = "after its lease (300 s, unless its program says otherwise)"
    if alive and alive.lease is not None:
        when = f"in {span_text(alive.lease / 1000)}"
    take_over = f'{{"exp_ref": "{shown}", "takeover": true}}'
    return _finding(
        Fault.SECOND_COORDINATOR,
        f"the {where} is in charge of the rig's experiment {reference or 'without a reference'}{status}{silent}",
        "the rig refuses this computer's messages with BusyError, except EXPINFO, EXPSTATUS and EXPINTERRUPT; if the "
        f"task in charge has crashed, the rig interrupts by itself {when}",
        f"close the task on the {where}, if it should not run",
        "or stop that experiment from here:",
        f"$ rigsync push EXPINTERRUPT --to {name}",
        "or take it over, if the task that began it is gone:",
        f"$ rigsync push EXPINIT '{take_over}' --to {name}",
    )


def _unwell(evidence: Evidence) -> Finding | None:
    found = unwell(evidence)
    return _finding(Fault.UNWELL, *found) if found else None


def _finding(fault: Fault, seen: str, meaning: str, *remedies: str) -> Finding:
    return Finding(fault, seen, meaning, remedies)


def _open_port(evidence: Evidence, when: str = "") -> list[str]:
    port, protocol = evidence.rig.address.port, evidence.scheme
    rule = f'name="rigsync {port}" dir=in action=allow protocol={protocol.upper()} localport={port}'
    return [
        f"{when}let {protocol.upper()} port {port} through the firewall of the rig's computer: on Windows (as "
        "administrator), or on Linux with ufw, firewalld or nftables",
        f"$ netsh advfirewall firewall add rule {rule}",
        f"$ sudo ufw allow {port}/{protocol}",
        f"$ sudo firewall-cmd --permanent --add-port={port}/{protocol} && sudo firewall-cmd --reload",
        f"$ sudo nft insert rule inet filter input {protocol} dport {port} accept",
    ]


def _uri(evidence: Evidence, address: SocketAddress) -> str:
    """Return a socket address as it stands in the file of rigs."""
    return str(Address(evidence.scheme, *address[:2]))
