"""The demo conversations of the agents that ship with the product (`infra/agents`)."""
