"""What rigs there are and how they are timed: from a mapping or a YAML file, checked."""
