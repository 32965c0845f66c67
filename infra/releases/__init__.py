"""Signed releases of agents: what is in one, who may sign it, what an installed agent may do."""
