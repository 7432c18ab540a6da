"""The journal: what happened, kept in a file, and asked of it later."""
