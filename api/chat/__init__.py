"""OpenAI's chat completions dialect: turns a request into an `Ask`, and a turn's events into
chunks."""
