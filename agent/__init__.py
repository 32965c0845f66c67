"""Runs inside the isolation: drives the Agent SDK, numbers what it says, keeps it until logged."""
