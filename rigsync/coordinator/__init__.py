"""The side that commands: many rigs on a loop, and the synchronous facade over it."""
