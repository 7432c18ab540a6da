"""A rig that needs no code: what it does at each message stands in a YAML file."""
