"""How each field of a chat request is treated: honoured, refused, or accepted without effect.

`tests/unit/api/chat/test_fields.py` compares this with the request types of the installed `openai`
package, so that a field that OpenAI adds is noticed. A field includes everything inside it.
"""

from __future__ import annotations

HONOURED: frozenset[str] = frozenset(
    {
        "function_call", "functions", "functions[].description", "functions[].name",
        "functions[].parameters", "messages[].tool_calls[].id", "parallel_tool_calls",
        "function_call.name", "tool_choice", "tool_choice.allowed_tools",
        "tool_choice.allowed_tools.mode", "tool_choice.allowed_tools.tools",
        "tool_choice.function", "tool_choice.function.name", "tool_choice.type", "tools",
        "tools[].function", "tools[].function.description", "tools[].function.name",
        "tools[].function.parameters", "tools[].function.strict", "tools[].type",
        "messages", "messages[].content", "messages[].content[].file",
        "messages[].content[].file.file_data", "messages[].content[].file.file_id",
        "messages[].content[].file.filename",
        "messages[].content[].image_url", "messages[].content[].image_url.url",
        "messages[].content[].input_audio", "messages[].content[].input_audio.data",
        "messages[].content[].input_audio.format",
        "messages[].content[].refusal", "messages[].content[].text", "messages[].content[].type",
        "messages[].function_call", "messages[].function_call.arguments",
        "messages[].function_call.name", "messages[].name", "messages[].refusal",
        "messages[].role", "messages[].tool_call_id", "messages[].tool_calls",
        "messages[].tool_calls[].custom", "messages[].tool_calls[].custom.input",
        "messages[].tool_calls[].custom.name", "messages[].tool_calls[].function",
        "messages[].tool_calls[].function.arguments", "messages[].tool_calls[].function.name",
        "model", "response_format", "response_format.json_schema",
        "response_format.json_schema.description", "response_format.json_schema.name",
        "response_format.json_schema.schema", "response_format.json_schema.strict",
        "max_completion_tokens", "max_tokens", "reasoning_effort", "response_format.type", "stop",
        "stream", "stream_options", "stream_options.include_usage", "verbosity",
    }
)  # fmt: skip

OTHERS: frozenset[str] = frozenset({"reasoning"})
"""Honoured too, though not OpenAI's: OpenRouter's form of `reasoning_effort`."""

REFUSED: frozenset[str] = frozenset({"n", "tool_choice.custom", "tools[].custom"})
"""`n` above 1 and `custom` tools are 400."""

IGNORED_PARAMETERS: frozenset[str] = frozenset(
    {
        "audio", "frequency_penalty", "logit_bias", "logprobs",
        "metadata", "modalities", "moderation",
        "prediction", "presence_penalty", "prompt_cache_key",
        "prompt_cache_options", "prompt_cache_retention", "safety_identifier", "seed",
        "service_tier", "store", "temperature", "top_logprobs", "top_p", "user",
        "web_search_options",
    }
)  # fmt: skip
"""The agent decides these itself, or runs its own tools. In side requests
(`api.chat.messages.side_requests`) `temperature` and `top_p` count. Fields that we do not know are
ignored too."""

IGNORED_INSIDE: frozenset[str] = frozenset(
    {
        "messages[].audio", "messages[].content[].image_url.detail",
        "messages[].content[].prompt_cache_breakpoint",
        "messages[].tool_calls[].type", "stream_options.include_obfuscation",
    }
)  # fmt: skip
