// Go on after a hang-up: node hang_up.mjs "What can you do?"
import { setTimeout } from "node:timers/promises";
import OpenAI, { ConflictError } from "openai";

const client = new OpenAI({ maxRetries: 0 });
const stream = await client.chat.completions.create(
  {
    model: "claude-sonnet-4.5",
    messages: [{ role: "user", content: process.argv[2] }],
    stream: true,
  },
  { headers: { "X-On-Disconnect": "continue" } },
);
let id;
for await (const chunk of stream) {
  id = chunk.id;
  break; // which closes the connection
}
console.log("hung up");

// The agent works on. Anybody who has the id and the key comes back for its answer, within an hour.
let answer;
while (!answer) {
  try {
    answer = await client.chat.completions.retrieve(id);
  } catch (running) {
    if (!(running instanceof ConflictError)) throw running;
    await setTimeout(500);
  }
}
console.log(answer.choices[0].message.content);
