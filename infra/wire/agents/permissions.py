"""What an agent may do without asking its user, and what it asks for. Pure.

A rule names tools, and may say which of their calls: `Bash`, `Bash(git push:*)`,
`Write(/workspace/docs/*)`, `WebFetch(domain:example.com)`, `mcp__github__*`. The agent's server
applies the rules before each call of a tool (`agent.approvals`).
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import unquote

from pydantic import AfterValidator, Field

from infra.wire.agents.part import ProfilePart

RULES_MAX = 200
"""Rules of one kind that somebody may write."""
PLACES: Mapping[str, str] = {
    "Read": "file_path",
    "Write": "file_path",
    "Edit": "file_path",
    "NotebookEdit": "notebook_path",
    "Grep": "path",
    "Glob": "path",
}
"""The tools whose rules may name a path, and where their input has it."""

_ALSO: Mapping[str, str] = {"Agent": "Task"}
"""The tool for sub-agents has two names in the CLI, and profiles know the second."""
_RULE = re.compile(r"(\*|[A-Za-z][A-Za-z0-9_-]{0,127}\*?)(?:\(([^\x00-\x1f]{1,300})\))?")
_DOMAIN = "domain:"
_PREFIX = ":*"
_UNQUOTED = str.maketrans("", "", "'\"\\")
_OPERATORS = re.compile(r"[\s;&|<>(){}`$]+")
_SEARCHES = frozenset({"Grep", "Glob"})
_WILD = re.compile(r"[*?\[{].*", re.DOTALL)
# As browsers and Node read an address: see `host_of`.
_LEFT_OUT = re.compile(r"^[\x00-\x20]+|[\t\n\r]")
_ADDRESS = re.compile(
    r"https?:/*(?:[^/?#]*@)?(?:\[([0-9a-f:.]+)\]|([^/?#:@\[\]\s]+))(?::[0-9]*)?(?:[/?#]|\s*$)",
    re.IGNORECASE,
)


def _checked(rule: str) -> str:
    found = _RULE.fullmatch(rule)
    if found is None:
        raise ValueError(
            "must be a tool's name, perhaps with `*` at its end, and perhaps with a pattern in "
            "parentheses"
        )
    tool, pattern = found.groups()
    if pattern is not None and tool not in ("Bash", "WebFetch", *PLACES):
        raise ValueError(f"has a pattern, and only Bash, WebFetch and {', '.join(PLACES)} take one")
    if tool == "WebFetch" and pattern is not None and not pattern.startswith(_DOMAIN):
        raise ValueError(f"must be `WebFetch({_DOMAIN}HOST)`")
    return rule


Rule = Annotated[str, AfterValidator(_checked)]
Rules = Annotated[tuple[Rule, ...], Field(max_length=RULES_MAX)]


class Permissions(ProfilePart):
    """What an agent may do without asking its user. A field that is absent leaves the
    deployment's."""

    mode: Literal["default", "ask", "plan"] | None = None
    """`default`: everything is allowed in the sandbox, except what `ask` and `deny` name. `ask`:
    each call asks, except of tools that only read. `plan`: it only reads, until its user has
    approved a plan."""
    ask: Rules | None = None
    """Calls that ask in every mode, such as `Bash(git push:*)` or `mcp__github__*`."""
    allow: Rules | None = None
    """Calls that need not ask in the modes `ask` and `plan`."""
    deny: Annotated[tuple[Rule, ...], Field(max_length=2 * RULES_MAX)] | None = None
    """Calls that are refused. Stronger than everything else. At most 200 rules; the deployment's
    come on top."""
    always: Literal["conversation", "turn", "never"] | None = None
    """How long "yes, always" counts; `never`: it is not offered."""
    unanswered: Literal["deny", "ask"] | None = None
    """What becomes of a call if its user says something that is no answer. `deny`: it is not made,
    and the agent hears what they said. `ask`: they are asked again."""

    def over(self, usual: Permissions) -> Permissions:
        """These, and the usual ones where these say nothing. What is usually refused always is."""
        told = self.model_dump(exclude_none=True)
        if denied := (*(usual.deny or ()), *(self.deny or ())):
            told["deny"] = tuple(dict.fromkeys(denied))
        return usual.model_copy(update=told)

    @property
    def is_free(self) -> bool:
        """Whether no call is ever asked about or refused."""
        return self.mode in (None, "default") and not (self.ask or self.deny)

    @property
    def has_too_many_denied(self) -> bool:
        """Whether more is denied than one profile, or one deployment, may say."""
        return len(self.deny or ()) > RULES_MAX

    @property
    def in_effect(self) -> Permissions:
        """These, or none if they change nothing."""
        return Permissions() if self.is_free else self


class RuleTarget(NamedTuple):
    """A call, as rules see it."""

    tool: str
    subject: str = ""
    """The command of Bash, the host of WebFetch, the path of a tool for files."""


def host_of(url: object) -> str:
    """The host that a browser would ask for an address; empty if that cannot be told.

    A browser leaves out tabs and line breaks, takes `\\` for `/`, does not count slashes, and knows
    several spellings of a letter. A rule must not be passed by with one of these.
    """
    if not isinstance(url, str):
        return ""
    found = _ADDRESS.match(_LEFT_OUT.sub("", url).replace("\\", "/"))
    if found is None:
        return ""
    try:
        return found[1] or unquote(found[2]).encode("idna").decode().lower().removesuffix(".")
    except UnicodeError:
        return ""


def subject_of(tool: str, given: Mapping[str, Any]) -> str:
    """What a rule's pattern is compared with."""
    if tool == "WebFetch":
        return host_of(given.get("url"))
    told = given.get("command" if tool == "Bash" else PLACES.get(tool, ""))
    subject = told if isinstance(told, str) else ""
    if tool == "Glob":
        return posixpath.join(subject, _searched(given.get("pattern")))
    return subject


def _searched(pattern: object) -> str:
    """Where Glob looks, as seen from its path: the folders that its pattern names."""
    if not isinstance(pattern, str):
        return ""
    fixed = _WILD.sub("", pattern)
    if fixed == pattern:
        return pattern
    return "/" if ".." in pattern[len(fixed) :] else fixed[: fixed.rfind("/") + 1]


def may_mean(rule: str, target: RuleTarget) -> bool:
    """Whether a rule that restricts means this call, or might.

    A command of the shell can say the same in many ways. So quotes and operators are left out, and
    the rule's words may stand anywhere in it.
    """
    return _means(rule, target, is_sure=False)


def surely_means(rule: str, target: RuleTarget) -> bool:
    """Whether a rule that allows means this call, and all that it does: a command of the shell must
    be a single one."""
    return _means(rule, target, is_sure=True)


def _means(rule: str, target: RuleTarget, *, is_sure: bool) -> bool:
    found = _RULE.fullmatch(rule)
    if found is None or not _is_named(found[1], target.tool):
        return False
    pattern: str | None = found[2]
    if pattern is None:
        return True
    if target.tool == "Bash":
        return (_surely_says if is_sure else _may_say)(pattern, target.subject)
    if target.tool == "WebFetch":
        if not target.subject:  # It may go anywhere.
            return not is_sure
        return fnmatchcase(target.subject, pattern.removeprefix(_DOMAIN).lower())
    if target.tool in _SEARCHES and not is_sure and _is_below(pattern, target.subject):
        return True
    return fnmatchcase(target.subject, pattern)


def _is_below(pattern: str, folder: str) -> bool:
    """Whether a pattern means what is in a folder, which a search of it finds."""
    return _WILD.sub("", pattern).startswith(folder.rstrip("/") + "/")


def _is_named(name: str, tool: str) -> bool:
    known = (tool, _ALSO.get(tool, tool))
    return tool.startswith(name[:-1]) if name.endswith("*") else name in known


def _may_say(pattern: str, command: str) -> bool:
    words = _OPERATORS.sub(" ", command.translate(_UNQUOTED)).split()
    told = _OPERATORS.sub(" ", pattern.removesuffix(_PREFIX).translate(_UNQUOTED)).split()
    joined = " " + " ".join(words) + " "
    if "*" in pattern.removesuffix(_PREFIX):
        return fnmatchcase(joined, f"* {' '.join(told)} *")
    return f" {' '.join(told)} " in joined


def _surely_says(pattern: str, command: str) -> bool:
    if re.search(r"[;&|<>(){}`$\n\r\\]", command):
        return False
    said = " ".join(command.split())
    if pattern.endswith(_PREFIX):
        prefix = " ".join(pattern.removesuffix(_PREFIX).split())
        return said == prefix or said.startswith(prefix + " ")
    return fnmatchcase(said, " ".join(pattern.split()))
