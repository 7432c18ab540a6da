"""Every event by its public name: `from rigsync.events import LinkLost`. They are made in `rigsync.hub.events`."""

from rigsync.hub.events import *  # noqa: F403 - the names are those of __all__
from rigsync.hub.events import __all__ as __all__
