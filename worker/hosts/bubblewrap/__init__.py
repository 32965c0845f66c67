"""Agents in bubblewrap sandboxes."""
