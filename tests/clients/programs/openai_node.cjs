"use strict";
// The official openai client for node, with its helpers for zod.

const { OpenAI } = require("openai");
const { zodResponseFormat } = require("openai/helpers/zod");
const { serve } = require("../../e2e/clients/lines.cjs");
const { Trip, told, weather } = require("./weather.cjs");

const { BASE_URL, API_KEY, MODEL } = process.env;
const client = new OpenAI({ baseURL: BASE_URL, apiKey: API_KEY, maxRetries: 0, timeout: 90_000 });
const chat = client.chat.completions;
const user = (prompt) => [{ role: "user", content: prompt }];

serve({
  async parse({ prompt, method }) {
    const response_format = zodResponseFormat(Trip, "trip");
    const asked = { model: MODEL, messages: user(prompt), response_format };
    const answer =
      method === "stream"
        ? await chat.stream(asked).finalChatCompletion()
        : await chat.parse(asked);
    return answer.choices[0].message.parsed;
  },

  async loop({ prompt, choice }) {
    const called = [];
    const tools = [
      {
        type: "function",
        function: {
          ...weather,
          parse: JSON.parse,
          function: (given) => told(called, given),
        },
      },
    ];
    const asked = { model: MODEL, messages: user(prompt), tools };
    const runner = chat.runTools(choice ? { ...asked, tool_choice: choice } : asked);
    return { text: await runner.finalContent(), called };
  },

  async ask({ prompt, id, do: _, ...more }) {
    const answer = await chat.create({ model: MODEL, messages: user(prompt), ...more });
    const [choice] = answer.choices;
    return { text: choice.message.content, finish: choice.finish_reason, usage: answer.usage };
  },

  async stream({ prompt, id, do: _, ...more }) {
    const stream = chat.stream({ model: MODEL, messages: user(prompt), ...more });
    const [choice] = (await stream.finalChatCompletion()).choices;
    return { text: choice.message.content, finish: choice.finish_reason };
  },
});
