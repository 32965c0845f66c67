"""Which test shows each field of an agent's profile: one table.

`tests/unit/docs/test_profile_fields.py` holds it against the profile, so a field without a test is
an error. A test named here goes through the real CLI, or sees the effect where it is: at the API,
at the gateway, or in the container. Fields inside a mapping are written `field.inner`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel

from infra.wire.agents.profile import AgentProfile

SHOWN_BY: Mapping[str, str] = {
    "description": "test_agents_are_listed_for_those_who_may_use_them",
    "icon": "test_agents_are_listed_for_those_who_may_use_them",
    "url": "test_agents_are_listed_for_those_who_may_use_them",
    "system_prompt": "test_an_added_prompt_stands_behind_claude_codes_own",
    "system_prompt.text": "test_an_added_prompt_stands_behind_claude_codes_own",
    "system_prompt.mode": "test_an_added_prompt_stands_behind_claude_codes_own",
    "models": "test_a_turn_says_which_agent_and_which_version",
    "model": "test_a_turn_says_which_agent_and_which_version",
    "tools": "test_only_its_tools_are_there",
    "max_turns": "test_its_model_calls_are_counted",
    "effort": "test_its_effort_is_on_the_wire",
    "client_tools": "test_a_client_s_functions_are_offered_as_the_agent_says",
    "structured_output": "test_an_agent_may_answer_in_text_only",
    "tool_display": "test_its_tools_are_shown_where_it_says",
    "artifact_display": "test_what_it_makes_is_shown_as_it_says",
    "sub_agents": "test_a_sub_agent_has_its_own_prompt_tools_and_model",
    "sub_agents.description": "test_a_sub_agent_has_its_own_prompt_tools_and_model",
    "sub_agents.prompt": "test_a_sub_agent_has_its_own_prompt_tools_and_model",
    "sub_agents.tools": "test_a_sub_agent_has_its_own_prompt_tools_and_model",
    "sub_agents.model": "test_a_sub_agent_has_its_own_prompt_tools_and_model",
    "sub_agents.max_turns": "test_a_sub_agents_model_calls_are_counted",
    "delegates": "test_an_agent_calls_another_on_another_host",
    "mcp_servers": "test_its_tools_are_the_agents_and_its_key_is_the_gateways",
    "mcp_servers.url": "test_its_tools_are_the_agents_and_its_key_is_the_gateways",
    "mcp_servers.headers": "test_its_tools_are_the_agents_and_its_key_is_the_gateways",
    "mcp_servers.login": "test_an_operator_logs_in_once_and_the_gateway_renews_it",
    "mcp_servers.timeout_s": "test_a_call_that_takes_too_long_is_ended",
    "skills": "test_it_uses_its_skills_and_no_others",
    "workspace": "test_a_new_workspace_has_its_files_and_an_old_one_keeps_its_own",
    "bundle": "test_skills_and_files_are_part_of_the_version",
    "mcp_servers.command": "test_a_server_in_the_container_is_its_own_program",
    "mcp_servers.args": "test_a_server_in_the_container_is_its_own_program",
    "mcp_servers.env": "test_it_sees_what_is_declared_and_no_more",
    "image": "test_it_works_in_its_own_image_and_others_do_not",
    "container": "test_its_limits_hold_beside_agents_with_more",
    "container.memory_mb": "test_its_limits_hold_beside_agents_with_more",
    "container.cpus": "test_its_limits_hold_beside_agents_with_more",
    "container.pids": "test_its_limits_hold_beside_agents_with_more",
    "workspace_max_mb": "test_its_workspace_is_as_small_as_it_says",
    "questions": "test_an_agent_asks_in_plain_chat_and_goes_on_with_the_answer",
    "permissions": "test_an_approved_call_runs_once_and_as_it_was_shown",
    "permissions.mode": "test_a_plan_is_approved_before_anything_is_changed",
    "permissions.ask": "test_an_approved_call_runs_once_and_as_it_was_shown",
    "permissions.allow": "test_in_ask_mode_only_reading_is_free",
    "permissions.deny": "test_what_is_denied_is_refused_and_in_sub_agents_too",
    "permissions.always": "test_how_long_always_counts",
    "permissions.unanswered": "test_words_that_are_no_answer_can_be_asked_again",
    "environment": "test_its_variables_are_seen_by_its_tools_and_replace_none_of_ours",
    "egress_profile": "test_an_agents_egress_is_not_the_clients_to_choose",
    "idle_timeout_s": "test_a_turn_says_which_agent_and_which_version",
    "turn_deadline_s": "test_a_turn_says_which_agent_and_which_version",
    "turn_budget_tokens": "test_the_smaller_budget_counts",
    "tenants": "test_agents_are_listed_for_those_who_may_use_them",
}


def fields_of(model: type[BaseModel] = AgentProfile, *, above: str = "") -> Iterator[str]:
    """All fields of a profile, those inside another one too."""
    for name, field in model.model_fields.items():
        yield f"{above}{name}"
        for part in _parts_of(field.annotation):
            yield from fields_of(part, above=f"{above}{name}.")


def _parts_of(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
        return
    for inner in get_args(annotation):
        yield from _parts_of(inner)
