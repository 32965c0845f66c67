"use strict";
// LangChain for JavaScript.

const { HumanMessage, ToolMessage } = require("@langchain/core/messages");
const { tool } = require("@langchain/core/tools");
const { ChatOpenAI } = require("@langchain/openai");
const { serve } = require("../../e2e/clients/lines.cjs");
const { City, Trip, told, weather } = require("./weather.cjs");

const { BASE_URL, API_KEY, MODEL } = process.env;

function model(more) {
  return new ChatOpenAI({
    model: MODEL,
    apiKey: API_KEY,
    configuration: { baseURL: BASE_URL },
    maxRetries: 0,
    timeout: 90_000,
    ...more,
  });
}

/** The bounds of a command by LangChain's names: it puts its own above those in `modelKwargs`. */
function bounded({ stop, max_tokens }) {
  return model({ ...(stop && { stop }), ...(max_tokens && { maxTokens: max_tokens }) });
}

const seen = (answer) => ({
  text: answer.content,
  finish: answer.response_metadata.finish_reason,
  usage: answer.usage_metadata,
});

serve({
  async parse({ prompt, method }) {
    return await model().withStructuredOutput(Trip, { method, name: "trip" }).invoke(prompt);
  },

  async loop({ prompt, choice }) {
    const called = [];
    const ours = tool((given) => told(called, given), {
      name: weather.name,
      description: weather.description,
      schema: City,
    });
    const messages = [new HumanMessage(prompt)];
    let answer = await model()
      .bindTools([ours], choice ? { tool_choice: choice } : {})
      .invoke(messages);
    while (answer.tool_calls.length) {
      messages.push(answer);
      for (const call of answer.tool_calls) {
        const content = await ours.invoke(call.args);
        messages.push(new ToolMessage({ content, tool_call_id: call.id }));
      }
      answer = await model().bindTools([ours]).invoke(messages);
    }
    return { text: answer.content, called };
  },

  async ask({ prompt, ...more }) {
    return seen(await bounded(more).invoke([new HumanMessage({ content: prompt })]));
  },

  async stream({ prompt, ...more }) {
    let whole = null;
    for await (const chunk of await bounded(more).stream([new HumanMessage({ content: prompt })])) {
      whole = whole === null ? chunk : whole.concat(chunk);
    }
    return seen(whole);
  },
});
