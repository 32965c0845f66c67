"""Runs inside the container: drives the Agent SDK, numbers its events, and keeps them until
logged."""
