"use strict";
// LibreChat's library: a graph of an agent with a function of LibreChat's own.

const { HumanMessage } = require("@langchain/core/messages");
const { tool } = require("@langchain/core/tools");
const { GraphEvents, Providers, Run, ToolEndHandler, createContentAggregator } =
  require("@librechat/agents");
const { serve } = require("../../e2e/clients/lines.cjs");
const { City, told, weather } = require("./weather.cjs");

const { BASE_URL, API_KEY, MODEL } = process.env;

async function answerParts({ prompt, tools, more, headers }) {
  const { contentParts, aggregateContent } = createContentAggregator();
  const collect = (event) => ({ handle: (_, data) => aggregateContent({ event, data }) });
  const collected = [
    GraphEvents.ON_RUN_STEP,
    GraphEvents.ON_RUN_STEP_DELTA,
    GraphEvents.ON_RUN_STEP_COMPLETED,
    GraphEvents.ON_MESSAGE_DELTA,
    GraphEvents.ON_REASONING_DELTA,
  ];
  const id = crypto.randomUUID();
  const run = await Run.create({
    runId: id,
    graphConfig: {
      type: "standard",
      tools,
      llmConfig: {
        provider: Providers.OPENAI,
        streaming: true,
        model: MODEL,
        apiKey: API_KEY,
        maxRetries: 0,
        configuration: {
          baseURL: BASE_URL,
          defaultHeaders: { "X-Conversation-ID": id, "X-Parent-Message-ID": id, ...headers },
        },
        ...more,
      },
    },
    returnContent: true,
    customHandlers: {
      ...Object.fromEntries(collected.map((event) => [event, collect(event)])),
      [GraphEvents.TOOL_END]: new ToolEndHandler(),
    },
  });
  await run.processStream(
    { messages: [new HumanMessage({ content: prompt })] },
    { configurable: { thread_id: id }, recursionLimit: 20, streamMode: "values", version: "v2" },
  );
  return contentParts;
}

async function answer(asked) {
  const texts = (await answerParts(asked)).filter((part) => part?.type === "text");
  return texts.map((part) => part.text).join("");
}

serve({
  async loop({ prompt }) {
    const called = [];
    const ours = tool((given) => told(called, given), {
      name: weather.name,
      description: weather.description,
      schema: City,
    });
    return { text: await answer({ prompt, tools: [ours] }), called };
  },

  // What its page shows of an answer, in order: [kind, words].
  async page({ prompt, headers }) {
    const parts = await answerParts({ prompt, headers });
    return { parts: parts.map((part) => [part.type, part.text ?? part.think]) };
  },

  async title({ method }) {
    const run = await Run.create({
      runId: crypto.randomUUID(),
      graphConfig: { type: "standard", llmConfig: { provider: Providers.OPENAI, model: MODEL } },
    });
    const told = await run.generateTitle({
      provider: Providers.OPENAI,
      inputText: "hi",
      contentParts: [{ type: "text", text: "hello" }],
      titlePrompt: "comply",
      titleMethod: method,
      skipLanguage: true,
      clientOptions: {
        model: "claude-utility",
        apiKey: API_KEY,
        configuration: { baseURL: BASE_URL },
      },
    });
    return { told };
  },

  async stream({ prompt, stop, max_tokens }) {
    const more = { ...(stop && { stop }), ...(max_tokens && { maxTokens: max_tokens }) };
    return { text: await answer({ prompt, more }) };
  },
});
