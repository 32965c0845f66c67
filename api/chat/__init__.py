"""OpenAI's chat completions dialect: from a request to an `Ask`, from a turn's events to chunks."""
