"""Bytes and connections: what happens to a request before a route sees it."""
