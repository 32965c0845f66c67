"""What the Agent SDK says, as our events. Pure."""
