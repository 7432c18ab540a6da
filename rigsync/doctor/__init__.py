"""Finds out why a rig does not answer."""
