"use strict";
// Vercel's AI SDK with its provider for services like OpenAI's.

const { createOpenAICompatible } = require("@ai-sdk/openai-compatible");
const ai = require("ai");
const { serve } = require("../../e2e/clients/lines.cjs");
const { City, Trip, told, weather } = require("./weather.cjs");

const { BASE_URL, API_KEY, MODEL } = process.env;
const provider = createOpenAICompatible({
  name: "agcluster",
  baseURL: BASE_URL,
  apiKey: API_KEY,
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const plain = createOpenAICompatible({ name: "agcluster", baseURL: BASE_URL, apiKey: API_KEY });
const common = { model: provider(MODEL), maxRetries: 0 };

const seen = (answer) => ({
  text: answer.text,
  finish: answer.finishReason,
  usage: answer.usage,
});

serve({
  async parse({ prompt, method }) {
    const asked = { ...common, schema: Trip, prompt };
    if (method === "json_object") asked.model = plain(MODEL);
    if (method !== "stream") return (await ai.generateObject(asked)).object;
    const made = ai.streamObject(asked);
    for await (const _ of made.partialObjectStream);
    return await made.object;
  },

  async loop({ prompt, choice }) {
    const called = [];
    const ours = ai.tool({
      description: weather.description,
      inputSchema: City,
      execute: async (given) => told(called, given),
    });
    const answer = await ai.generateText({
      ...common,
      prompt,
      tools: { get_weather: ours },
      stopWhen: ai.stepCountIs(5),
      prepareStep: ({ stepNumber }) =>
        choice && stepNumber === 0 ? { toolChoice: choice } : { toolChoice: "auto" },
    });
    return { text: answer.text, called };
  },

  async ask({ prompt, stop, max_tokens }) {
    const asked = { ...common, prompt, stopSequences: stop, maxOutputTokens: max_tokens };
    return seen(await ai.generateText(asked));
  },

  async stream({ prompt, stop, max_tokens }) {
    const asked = { ...common, prompt, stopSequences: stop, maxOutputTokens: max_tokens };
    const made = ai.streamText(asked);
    return seen({ text: await made.text, finishReason: await made.finishReason });
  },

  /** Ask about a file; `data` is in hex. */
  async show({ prompt, data, media_type }) {
    const file = { type: "file", data: Buffer.from(data, "hex"), mediaType: media_type };
    const content = [{ type: "text", text: prompt }, file];
    return seen(await ai.generateText({ ...common, messages: [{ role: "user", content }] }));
  },
});
