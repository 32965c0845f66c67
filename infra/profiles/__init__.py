"""Reads agents' profiles: a folder of YAML files, checked, with errors that name file and line."""
