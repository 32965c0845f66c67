"""Translates the Agent SDK's messages into our events. Pure."""
