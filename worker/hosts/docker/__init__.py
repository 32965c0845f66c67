"""Agents in Docker containers. Nothing else in the project knows Docker."""
