"""The catalogue of agents and MCP servers, as callers see it."""
