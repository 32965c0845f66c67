"""Owns turns and containers: claims turns, runs their agents, reaps what is idle."""
