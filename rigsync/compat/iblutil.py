"""`RigServices` and `RemoteRig` are iblutil's `Services` and `Communicator`: for `isinstance`, and for who asks for it.

Their members are rigsync's own; this says no more than that they are the same.
"""

from __future__ import annotations

from iblutil.io.net import app, base

from rigsync.coordinator.remote_rig import RemoteRig
from rigsync.coordinator.service import RigServices

app.Services.register(RigServices)
base.Communicator.register(RemoteRig)
