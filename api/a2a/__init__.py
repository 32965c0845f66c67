"""A2A 1.0: each agent as a server that other agents and their hosts can call."""
