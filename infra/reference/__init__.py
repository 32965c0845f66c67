"""Writes the generated documents: settings, diagrams, keys, licences."""
