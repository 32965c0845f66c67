"""An open answer: follows a turn's events, each once, until its end."""
