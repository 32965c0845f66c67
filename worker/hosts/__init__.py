"""Hosts run agents in isolation: their common protocol, what all hosts share, and a folder for each
kind."""
