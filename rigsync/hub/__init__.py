"""What happens, and who hears of it: pure, with the clocks handed in."""

from rigsync.hub import events as events
