"""A command in the foreground of this program's terminal. It does not outlive this program, however that ends.

Ctrl-C and Ctrl-Z reach it like any program: it has this program's process group, input and output. On Linux and macOS
a keeper (`rigsync.agent.keeper`) stands between the two. On Windows the command is in a job object.
"""

from __future__ import annotations

import sys

if sys.platform == "win32":
    from rigsync.agent.windows_job import Foreground as Foreground
else:
    from rigsync.agent.kept_command import Foreground as Foreground
