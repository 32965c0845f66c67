"""The way out of an agent for its tools: `egress.sock`."""
