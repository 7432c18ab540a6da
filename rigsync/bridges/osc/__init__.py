"""Open Sound Control: commands and events for Bonsai, Max, TouchDesigner, and other programs that speak it."""

from rigsync.bridges.osc.bridge import OscBridge as OscBridge
