"""Network access for an agent's tools: `egress.sock`."""
