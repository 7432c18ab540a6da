"""The protocol as pure code: bytes, numbers and dataclasses; time and randomness come in as arguments."""
