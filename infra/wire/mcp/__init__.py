"""MCP servers: what callers send for them, and operators' logins."""
