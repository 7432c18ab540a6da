"""The rigs and their times, read from a mapping or a YAML file and checked."""
