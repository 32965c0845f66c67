"""The catalogue of agents and MCP servers, kept in the file store."""
