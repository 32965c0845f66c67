"""What the agent asks its user before it does it: calls of tools, and plans."""
