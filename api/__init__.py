"""The OpenAI-compatible API: accepts a request, submits it to the cluster, relays the answer.

Stateless: a replica has no state that a client could miss. It never talks to a worker or an agent,
only to Redis through `infra.store`, and to the upstream to check keys.
"""
