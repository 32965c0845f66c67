"""Hosts run agents in isolation: the seam, what all hosts share, and a folder for each kind."""
