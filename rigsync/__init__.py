"""rigsync: start, stop and watch every machine of a neuroscience rig together."""

__version__ = "0.1.0"
