"""Agents in Docker containers. No other part of the project uses Docker."""
