"""The OpenAI-compatible edge: stateless, any number of replicas."""
