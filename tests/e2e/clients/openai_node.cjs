"use strict";
// The official openai client for node.

const { OpenAI } = require("openai");
const { serve } = require("./lines.cjs");

const { BASE_URL, API_KEY, MODEL } = process.env;
const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY, maxRetries: 0, timeout: 90_000 });
const streams = new Map();

function request(command) {
  return { model: MODEL, messages: command.messages, ...command.body };
}

serve({
  async whole(command) {
    return await client.chat.completions.create(request(command), { headers: command.headers });
  },

  /** All chunks; each is told as it comes. `abort` ends it. */
  async stream(command, tell) {
    const chunks = [];
    const stream = await client.chat.completions.create(
      { ...request(command), stream: true },
      { headers: command.headers },
    );
    streams.set(command.id, stream);
    for await (const chunk of stream) {
      chunks.push(chunk);
      tell(chunk);
    }
    return chunks;
  },

  async abort(command) {
    streams.get(command.stream).controller.abort();
  },

  async models() {
    return (await client.models.list()).data;
  },
});
