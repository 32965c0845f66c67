"""Answers in a form: the tool that gives one, and what it is held against. Pure."""
