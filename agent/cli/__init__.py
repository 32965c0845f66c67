"""One CLI of the Agent SDK: how it is configured, started, used and ended."""
