"""What the other programs of a lab speak: each a codec, a source of commands, and a subscriber to events."""
