"""The contract: every message that crosses a process border, as pure data.

Only the standard library and pydantic; no I/O, no clock. `ids` names things, `states` says how
turns and conversations live, `errors` what can go wrong, `events` what an agent says, `frames` how
an event travels, `turns` what is asked of an agent, `link` the worker-agent protocol, `gateway` the
worker-gateway protocol, `control` what workers are told over Redis.
"""
