"""The OpenAI-compatible edge: takes a request in, hands it to the cluster, relays what comes back.

Stateless: a replica holds nothing a client could miss. It never talks to a worker or an agent, only
to Redis through `infra.store`, and to the upstream only to ask whether a key is good.
"""
