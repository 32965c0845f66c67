"""The names in a session's socket folder.

Only names: an agent reads its launch file before it imports anything else.
"""

MODEL_SOCKET = "model.sock"
EGRESS_SOCKET = "egress.sock"
AGENT_SOCKET = "agent.sock"
LAUNCH_FILE = "launch.json"
"""What the agent's CLI is started with (`infra.wire.link.Launch`). The agent reads it once and
removes it."""
