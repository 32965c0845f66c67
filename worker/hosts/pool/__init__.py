"""The warm pool: spare containers with a connected CLI, for conversations that are to come."""
