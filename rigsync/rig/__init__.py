"""The side that is commanded."""
