"""Owns turns and containers: claims turns, runs their agents, stops idle containers."""
