"""Authentication and limits: who may send requests, how often, and to which models."""
