"""`RigServices` and `RemoteRig` are iblutil's `Services` and `Communicator` for `isinstance`.

They have the same members. Subclasses of `Auxiliaries` that serve the queue themselves, as iblrig's class does, find
iblutil's messages in it.
"""

from __future__ import annotations

from iblutil.io.net import app, base

from rigsync.coordinator.faces import message_kinds
from rigsync.coordinator.remote_rig import RemoteRig
from rigsync.coordinator.service import RigServices

app.Services.register(RigServices)
base.Communicator.register(RemoteRig)
message_kinds.append(base.ExpMessage)
