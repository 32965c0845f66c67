"""The files that came with a turn's messages."""
