"""Whether a folder lies on a network drive, where the locks of SQLite do not hold."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_OF_NETWORKS = frozenset(
    [
        "9p_net",
        "afpfs",
        "afs",
        "beegfs",
        "ceph",
        "cifs",
        "coda",
        "davfs",
        "fuse.cephfs",
        "fuse.davfs2",
        "fuse.glusterfs",
        "fuse.rclone",
        "fuse.s3fs",
        "fuse.sshfs",
        "glusterfs",
        "gpfs",
        "lustre",
        "ncpfs",
        "nfs",
        "nfs3",
        "nfs4",
        "ocfs2",
        "orangefs",
        "panfs",
        "pvfs2",
        "smb2",
        "smb3",
        "smbfs",
        "vboxsf",
        "webdav",
    ]
)
_MOUNTED = re.compile(r"^.* on (/.*) \((\w+)[,)]")
_ESCAPED = re.compile(r"\\([0-7]{3})")
_REMOTE = 4  # DRIVE_REMOTE of winbase.h
LONGEST = 2.0
"""Seconds for the system to tell what is mounted."""

if sys.platform == "win32":
    import ctypes

    def network_of(folder: Path) -> str | None:
        """Return which network drive a folder lies on, in words; None where it is a drive of this computer."""
        root = os.path.splitdrive(os.path.abspath(folder))[0]
        if root.startswith("\\\\") or ctypes.windll.kernel32.GetDriveTypeW(f"{root}\\") == _REMOTE:
            return root
        return None

elif sys.platform == "darwin":

    def network_of(folder: Path) -> str | None:
        """Return which network drive a folder lies on, in words; None where it is a drive of this computer."""
        try:
            told = subprocess.run(["/sbin/mount"], capture_output=True, text=True, timeout=LONGEST, check=False).stdout
        except (OSError, subprocess.TimeoutExpired):
            return None
        found = (_MOUNTED.match(line) for line in told.splitlines())
        return network_among(folder, ((match[1], match[2]) for match in found if match))

else:

    def network_of(folder: Path) -> str | None:
        """Return which network drive a folder lies on, in words; None where it is a drive of this computer."""
        try:
            with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
                return network_among(folder, mounts_in(file))
        except OSError:  # a system without it
            return None


def mounts_in(mountinfo: Iterable[str]) -> Iterable[tuple[str, str]]:
    """Yield mount point and type of each line of Linux's mountinfo (proc_pid_mountinfo(5))."""
    for line in mountinfo:
        before, _, after = line.partition(" - ")
        parts, kinds = before.split(), after.split()
        if len(parts) > 4 and kinds:
            yield _ESCAPED.sub(lambda match: chr(int(match[1], 8)), parts[4]), kinds[0]


def network_among(folder: Path, mounts: Iterable[tuple[str, str]]) -> str | None:
    """Return the mount point of a folder with its type, where that is one of a network."""
    real = os.path.realpath(folder)
    longest, kind = "", ""
    for point, its in mounts:
        if (real == point or real.startswith(point.rstrip("/") + "/")) and len(point) >= len(longest):
            longest, kind = point, its
    return f"{longest} ({kind})" if kind.lower() in _OF_NETWORKS else None
