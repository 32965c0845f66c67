"""What a client chooses for its conversation, and for one turn. Both pass as a whole from the
request to agent and gateway; nothing between them looks inside.
"""

from __future__ import annotations

from enum import StrEnum

from infra.wire.base import Message
from infra.wire.mcp.secrets import CallerSecrets


class ConversationOptions(Message):
    """The options that a request names; the conversation keeps each until another one is named.

    None in a field: the request says nothing about it. A claim fills in what the conversation had
    when the turn was asked for (`over`), so the worker that runs the turn finds all its options in
    its request.
    """

    egress_profile: str | None = None
    """The egress profile that its tools go out by; None for the deployment's own policy."""

    def over(self, kept: ConversationOptions) -> ConversationOptions:
        """These options, with the kept ones where these say nothing."""
        return kept.model_copy(update=self.model_dump(exclude_none=True))


NO_OPTIONS = ConversationOptions()


class ClientTool(Message):
    """A function of the client's that the agent may call. Nobody runs it here."""

    name: str
    description: str = ""
    parameters: str = '{"type":"object","properties":{}}'
    """The JSON Schema of its arguments, whose root is an object."""


class ClientTools(Message):
    """The client's functions that are offered to the agent in this turn. There is at least one."""

    tools: tuple[ClientTool, ...]
    is_required: bool = False
    """The turn has to end with a call."""
    is_parallel: bool = True
    """The turn may end with more than one call."""
    is_legacy: bool = False
    """The client sent them as `functions`: it takes one call, and that in the older form."""


class AnswerForm(Message):
    """The form of a turn's answer: one JSON object, with nothing before or after it."""

    name: str = "answer"
    """The client's name for it."""
    description: str | None = None
    """What the object is for, in the client's words."""
    schema_text: str | None = None
    """The JSON schema that the object fits, as JSON; None for an object of any shape. The API has
    checked it (`api.chat.options.schemas`): `infra.wire.form.checks` relies on that."""


class Effort(StrEnum):
    """How much a model thinks. The values are OpenAI's."""

    NONE = "none"
    MINIMAL = "minimal"
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    XHIGH = "xhigh"
    MAX = "max"


class Verbosity(StrEnum):
    """How long the answer should be. The values are OpenAI's."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class Sampling(Message):
    """How the model chooses its words. Only a side request's call of the model gets it: agents
    think, and with thinking the Messages API takes no temperature."""

    temperature: float | None = None
    """From 0 to 2, OpenAI's range."""
    top_p: float | None = None


NO_SAMPLING = Sampling()


class TurnOptions(Message):
    """The options that a request names for its own turn. The next turn knows nothing of them.

    None or empty in a field: the request says nothing about it.
    """

    max_tokens: int | None = None
    """Maximum tokens of the answer that the client sees: not of thinking, nor of tool inputs."""
    stop: tuple[str, ...] = ()
    """The answer ends before the first of these. At most four, none of them empty."""
    effort: Effort | None = None
    """How much the model thinks; None for its default."""
    verbosity: Verbosity | None = None
    sampling: Sampling = NO_SAMPLING
    answer_form: AnswerForm | None = None
    """The answer is a JSON object of this form; None for text."""
    client_tools: ClientTools | None = None
    """The client's functions that are offered; None for none."""
    mcp_secrets: CallerSecrets | None = None
    """What the caller sends for the agent's MCP servers."""

    @property
    def for_gateway(self) -> TurnOptions:
        """What the gateway gets of them: schemas may be large, and only the answerer reads them.

        An answer in a form is the input of a tool, so its limit says nothing about the text.
        """
        without: dict[str, object] = {"answer_form": None, "client_tools": None}
        if self.answer_form is not None:
            without["max_tokens"] = None
        return self.model_copy(update=without)

    @property
    def without_secrets(self) -> TurnOptions:
        """What an agent gets of them: nothing that is sealed."""
        return self.model_copy(update={"mcp_secrets": None})


NO_TURN_OPTIONS = TurnOptions()
