"""Every key and channel, one function each. No other file contains a key literal.

`<c>` is a conversation key, `<t>` a tenant. No key contains user text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from infra.wire.ids import (
    ConversationKey,
    FileId,
    HostId,
    ReplicaId,
    TenantId,
    TurnId,
    UploadId,
    WorkerId,
)


@dataclass(frozen=True)
class Keys:
    """The names of a deployment; `prefix` keeps two deployments apart in one Redis."""

    prefix: str = "agc"

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_.:-]{1,64}", self.prefix):
            raise ValueError(f"a key prefix is made of letters, digits and _.:- ({self.prefix!r})")

    def nothing(self) -> str:
        """Always empty. Scripts delete it first if they must be able to run in a full Redis."""
        return f"{self.prefix}:nothing"

    def conversation(self, c: ConversationKey) -> str:
        """Hash: tenant, label, state, owner, host, fence, container, sdk_session, turns, created,
        last_active, idle_at (of one without a turn), options (what its client chose, JSON),
        turn (the unfinished one), owner_host, retention, idle_timeout, lane, resends (1: the client
        sends its history), transcript_full (an SDK session too large to keep), hibernated (why its
        container was stopped early: memory or room; until it has one again), hibernated_at (ms),
        begun (how many of its turns submit began), kept_until (ms), caller (the conversation whose
        agent called this one's). Scripts write it; lives for the retention, and up to an eighth
        longer."""
        return f"{self.prefix}:conv:{c}"

    def todo(self, c: ConversationKey) -> str:
        """List: turn ids waiting, first in first out. submit pushes, claim pops; 1 d."""
        return f"{self.prefix}:conv:{c}:todo"

    def accepted(self, c: ConversationKey) -> str:
        """List: the prompts in the agent's memory, oldest first
        (`infra.wire.history.decision.Accepted`), with a digest of what the client showed before
        each (`infra.wire.history.going_on`). Contains the beginnings of their answers, so operators
        may not read it. finish; as long as the conversation."""
        return f"{self.prefix}:conv:{c}:accepted"

    def unheard(self, c: ConversationKey) -> str:
        """Hash: turn -> request of a message that was stopped before it reached the agent, for a
        client that will not send it again. The scripts that end a turn; until the next message has
        reached the agent."""
        return f"{self.prefix}:conv:{c}:unheard"

    def conversation_turns(self, c: ConversationKey) -> str:
        """List: its recorded turns, and some older ones, the newest last. submit; as long as the
        conversation."""
        return f"{self.prefix}:conv:{c}:turns"

    def called(self, c: ConversationKey) -> str:
        """Set: the conversations of agents that its agent has called, which are deleted with it.
        submit; as long as the conversation."""
        return f"{self.prefix}:conv:{c}:called"

    def transcripts(self, c: ConversationKey) -> str:
        """Hash: SDK session -> bytes of its transcript, with a hundred for each entry.
        transcript_append; as long as the conversation."""
        return f"{self.prefix}:conv:{c}:transcripts"

    def transcript(self, c: ConversationKey, session: str) -> str:
        """List: the entries of an SDK session, each `<subpath>`, a line break, its JSON.
        transcript_append; as long as the conversation, or until another session replaces it."""
        return f"{self.prefix}:conv:{c}:transcript:{session}"

    def transcript_seen(self, c: ConversationKey, session: str) -> str:
        """Set: the uuids of those entries; entries without one by their message and position.
        transcript_append; as long as the transcript."""
        return f"{self.prefix}:conv:{c}:transcript:{session}:seen"

    def conversation_usage(self, c: ConversationKey) -> str:
        """Hash: calls, input_tokens, output_tokens, cache_creation_input_tokens,
        cache_read_input_tokens, thinking_tokens, spent_tokens (what counts against a budget), and
        each again as `<model>:<name>`. meter, finish; as long as the conversation."""
        return f"{self.prefix}:conv:{c}:usage"

    def lease(self, c: ConversationKey) -> str:
        """String: the worker that owns the conversation. acquire, renew, release; 15 s."""
        return f"{self.prefix}:lease:{c}"

    def turn(self, turn: TurnId) -> str:
        """Hash: conv, tenant, lane, replica, model, state, attempt, fence, seq, said (bytes of its
        events), created, claimed, started, ended (ms), reason, usage, metered (what the gateways
        told, by instance and model: calls, input, output, cache creation, cache read, thinking),
        idem, on_disconnect, cancel, delivered, key_sealed, key_expires, base
        (`infra.store.turns.history`), sdk_session, remembered, given (the worker that take handed
        it to), unowned (since when a begun one has no owner), options (its conversation's, as they
        were at its submit), request_bytes, begun (its number, if submit began it), known (the
        accepted prompts then), expires (of an open one, ms), caller (the turn whose agent called
        this one's), called (the turns that its agent has called, each with the tokens it may
        spend). Scripts write it; for an hour after the end. An ended one has an empty
        `key_sealed`."""
        return f"{self.prefix}:turn:{turn}"

    def turn_request(self, turn: TurnId) -> str:
        """String: the `TurnRequest` as JSON. submit writes, the worker reads; until the turn's
        end."""
        return f"{self.prefix}:turn:{turn}:request"

    def turn_events(self, turn: TurnId) -> str:
        """Stream, the turn log: `<n>-0` -> field `e`, event n as JSON, or `r`, a run of events that
        ends with n, one in a line. append, finish; as long as the turn."""
        return f"{self.prefix}:turn:{turn}:events"

    def turn_heads(self, turn: TurnId) -> str:
        """String: the beginnings of the answers in the history that came with the turn, as JSON,
        for finish. start; until the turn ends."""
        return f"{self.prefix}:turn:{turn}:heads"

    def turn_readers(self, turn: TurnId) -> str:
        """Set: the open answers of clients for the turn, each `<replica> <serial>`. submit adds,
        leave removes; until the turn ends, or the sweep misses its record."""
        return f"{self.prefix}:turn:{turn}:readers"

    def idempotency(self, tenant: TenantId, digest: str) -> str:
        """String: the turn id of a repeated request. submit; as long as the turn."""
        return f"{self.prefix}:idem:{tenant}:{digest}"

    def chain(self, tenant: TenantId, chain: str) -> str:
        """Set: the conversation of a client that named none, by a digest of what was said, or `*`
        if nobody may have it. take_chain, put_chain; the retention."""
        return f"{self.prefix}:chain:{tenant}:{chain}"

    def newest(self, c: ConversationKey) -> str:
        """String: the conversation that a temporary name stands for; `<c>` is the name's own key.
        API; the retention."""
        return f"{self.prefix}:newest:{c}"

    def turns_open(self) -> str:
        """Sorted set: turns that have not ended, by when to check them next (ms). Scripts."""
        return f"{self.prefix}:turns:open"

    def turns_waiting(self) -> str:
        """Sorted set: turns that wait for a worker, by submit time (ms): those of the conversations
        in the waiting room. Scripts."""
        return f"{self.prefix}:turns:waiting"

    def ring(self) -> str:
        """Sorted set, the ring: tenants with turns in the waiting room, by when each was last
        served, or arrived (ms, all different). The first one is next. Scripts."""
        return f"{self.prefix}:place"

    def room(self, tenant: TenantId) -> str:
        """Sorted set, a tenant's part of the waiting room: its conversations that wait for a
        worker, by when they began to wait (ms). Scripts; 1 d."""
        return f"{self.prefix}:place:{tenant}"

    def idle(self) -> str:
        """Sorted set: warm conversations by idle deadline (ms). finish adds, claim and reap
        remove."""
        return f"{self.prefix}:idle"

    def workers(self) -> str:
        """Sorted set: workers by the end of their last heartbeat (ms). The registry."""
        return f"{self.prefix}:workers"

    def worker(self, worker: WorkerId) -> str:
        """Hash: host, pid, version, slots, used, state, started, beat, memory_mb (available on its
        host), memory_needed_mb, starts_max (agents that its host starts at once), machine (the id
        of its host's machine), hibernated, spares, spare_hits and spare_misses (since it started),
        upstream (`ok`, or why the model's service does not answer its gateway),
        coming (turns given to it since its last heartbeat). Its worker and take; 15 s."""
        return f"{self.prefix}:worker:{worker}"

    def host_workers(self, host: HostId) -> str:
        """Sorted set: the workers of that host, by the end of their last heartbeat (ms). The
        registry; 1 d."""
        return f"{self.prefix}:host:{host}:workers"

    def host_containers(self, host: HostId) -> str:
        """Hash: container id -> conversation, of what runs on the host, for people to read. That
        host's workers; 60 s."""
        return f"{self.prefix}:host:{host}:containers"

    def host_starts(self, host: HostId) -> str:
        """Sorted set: conversations whose agent is starting there, by when they stop to count (ms).
        take, begin_start and keep_starts add, the worker removes when the agent has started; half a
        minute after its last report."""
        return f"{self.prefix}:host:{host}:starts"

    def epoch(self) -> str:
        """String: since when Redis has had its data (Redis TIME, us). A worker that starts, or the
        first heartbeat after Redis was emptied; no expiry."""
        return f"{self.prefix}:epoch"

    def host_wipes(self, host: HostId) -> str:
        """Set: deleted conversations whose files are still on that host. delete adds, the host's
        workers remove; as long as the conversation would have been kept."""
        return f"{self.prefix}:host:{host}:wipes"

    def tenant_conversations(self, tenant: TenantId) -> str:
        """Sorted set: the tenant's conversations by last use (ms). submit, finish; retention."""
        return f"{self.prefix}:tenant:{tenant}:conversations"

    def tenant_running(self, tenant: TenantId) -> str:
        """Sorted set: the tenant's turns that have not ended, by start (ms). submit, finish."""
        return f"{self.prefix}:tenant:{tenant}:running"

    def tenant_waiting(self, tenant: TenantId) -> str:
        """Sorted set: those of them that nobody has claimed yet. submit, requeue; whatever ends or
        claims them."""
        return f"{self.prefix}:tenant:{tenant}:waiting"

    def tenant_held(self, tenant: TenantId) -> str:
        """Hash: the tenant's bytes in Redis, by turn (request and log), by conversation (stored
        data, including transcripts) and by day (`chains 20260131`), and their sum as `total`.
        Logs of open turns and transcripts count in steps of 2 KiB, ahead.
        Scripts; as long as the longest part."""
        return f"{self.prefix}:tenant:{tenant}:held"

    def tenant_held_until(self, tenant: TenantId) -> str:
        """Sorted set: the fields of that hash, by when their data expires (ms). Scripts; as long as
        the hash."""
        return f"{self.prefix}:tenant:{tenant}:held:until"

    def tenant_usage(self, tenant: TenantId) -> str:
        """Hash: what all turns of the tenant used, in the form of a conversation's usage. meter,
        finish; 400 d after the last turn."""
        return f"{self.prefix}:tenant:{tenant}:usage"

    def tenant_usage_of(self, tenant: TenantId, day: str) -> str:
        """Hash: the same for one day (UTC, `20260131`). meter, finish; 62 d."""
        return f"{self.prefix}:tenant:{tenant}:usage:{day}"

    def file(self, file: FileId) -> str:
        """Hash: tenant, store (the identity of the file store with its bytes), state (`uploading`,
        `part`, `ready`, `deleting`), held (bytes it counts for its tenant), name, type, purpose,
        bytes, digest (SHA-256), created, expires (ms). Scripts; until its bytes are gone."""
        return f"{self.prefix}:file:{file}"

    def conversation_made(self, c: ConversationKey) -> str:
        """Hash: file -> its path in the workspace: what its agent made or changed, newest last by
        id. note_made; as long as the youngest of them. Contains paths, so operators may not read
        it."""
        return f"{self.prefix}:conv:{c}:made"

    def upload(self, upload: UploadId) -> str:
        """Hash: tenant, status, name, type, purpose, bytes (announced), received (in parts), life
        (s, of the file), created, expires (ms), file (that it made). Scripts; an hour after it
        expires."""
        return f"{self.prefix}:upload:{upload}"

    def upload_parts(self, upload: UploadId) -> str:
        """Hash: part -> its bytes. keep_part; as long as the upload."""
        return f"{self.prefix}:upload:{upload}:parts"

    def tenant_uploads(self, tenant: TenantId) -> str:
        """Sorted set: the tenant's uploads, by when each is forgotten (ms). begin_upload; as long
        as the last one."""
        return f"{self.prefix}:tenant:{tenant}:uploads"

    def tenant_files(self, tenant: TenantId, purpose: str) -> str:
        """Sorted set: the tenant's files of that purpose, or of `all`, in the order they were made;
        all scores are 0. keep_file; until the last one goes."""
        return f"{self.prefix}:tenant:{tenant}:files:{purpose}"

    def tenant_filed(self, tenant: TenantId) -> str:
        """Hash: files, bytes: what the tenant keeps in the file store, with what is being uploaded.
        Scripts; until the last one goes."""
        return f"{self.prefix}:tenant:{tenant}:filed"

    def files_due(self, store: str) -> str:
        """Sorted set: files of that store, by when a worker is to remove them (ms). Scripts."""
        return f"{self.prefix}:files:{store}:due"

    def files_tidied(self, store: str) -> str:
        """String: there if somebody has looked for objects without a record lately; an hour."""
        return f"{self.prefix}:files:{store}:tidied"

    def file_stores(self) -> str:
        """Sorted set: identities of the file stores that programs use, by until when that is known
        (ms). see_file_store."""
        return f"{self.prefix}:files:stores"

    def mcp_logins(self) -> str:
        """Hash: `<agent>/<server>` -> an operator's login at an MCP server, sealed
        (`infra.wire.mcp.logins.SealedLogin`). `agcluster mcp login`, workers; until
        `agcluster mcp logout`."""
        return f"{self.prefix}:mcp:logins"

    def mcp_seen(self, agent: str) -> str:
        """Hash: MCP server -> how it was when that agent last had it
        (`infra.wire.mcp.secrets.ServerState`). Workers, at a turn's end; 30 d."""
        return f"{self.prefix}:mcp:seen:{agent}"

    def mcp_renewal(self, name: str) -> str:
        """String: somebody renews that login. Workers; 30 s."""
        return f"{self.prefix}:mcp:renewal:{name}"

    def agent_profile(self, digest: str) -> str:
        """String: JSON of a version of an agent's profile. API; kept for an eighth longer than a
        conversation, renewed each minute in which it is asked for."""
        return f"{self.prefix}:agent:{digest}"

    def agent_bundle(self, digest: str) -> str:
        """String: the files of a version of an agent, as a tar archive. API; workers read it once
        for each host. Kept as long as its profile."""
        return f"{self.prefix}:agent-bundle:{digest}"

    def key_verdict(self, tenant: TenantId) -> str:
        """String: `ok` or `refused`, what the upstream said about the tenant's key. API;
        minutes."""
        return f"{self.prefix}:tenant:{tenant}:key"

    def rates(self) -> str:
        """Strings, by `:{<kind>/<who>/<limit>/1/minute}`: requests of a tenant (`requests`) and bad
        keys of an address (`keys`; an HMAC) in the current and the last minute (`limits`). API; 2
        min."""
        return f"{self.prefix}:rate"

    def place_queue(self) -> str:
        """arq queue of hints that something is in the waiting room; take decides what."""
        return f"{self.prefix}:q:place"

    def side_queue(self) -> str:
        """arq queue of side turns, which need no container. Every worker serves it."""
        return f"{self.prefix}:q:side"

    def worker_queue(self, worker: WorkerId) -> str:
        """arq queue of conversations that this worker owns."""
        return f"{self.prefix}:q:{worker}"

    def bell(self, queue: str) -> str:
        """List: rung by the script of each enqueue; the queue's workers block on it; seconds."""
        return f"{queue}:bell"

    def replica_channel(self, replica: ReplicaId) -> str:
        """Channel: joined frames of the turns that this API replica asked for."""
        return f"{self.prefix}:api:{replica}"

    def control_channel(self, worker: WorkerId) -> str:
        """Channel: messages to one worker (`infra.wire.control`)."""
        return f"{self.prefix}:ctl:{worker}"
