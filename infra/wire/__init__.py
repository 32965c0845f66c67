"""The contract: every message that crosses a process border, as pure data.

Only the standard library and pydantic; no I/O, no clock. `ids` names things; `states` has the
states of turns and conversations; `errors` what can go wrong; `events` what an agent reports;
`frames` how an event is sent; `turns` what an agent is asked to do; `link` the worker-agent
protocol; `gateway` the worker-gateway protocol; `control` the messages to workers over Redis;
`socket_folder` the names in a session's folder.
"""
