"""One CLI of the Agent SDK: how it is set up, started, used and got rid of."""
