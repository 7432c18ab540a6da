"""Lab Streaming Layer: what happens as markers for recorders, and other programs' markers as events."""

from rigsync.bridges.lsl.bridge import LslBridge as LslBridge
from rigsync.bridges.lsl.markers import LslMarker as LslMarker
