// An answer that survives cuts of the connection: node resume.mjs "What can you do?"
import { randomUUID } from "node:crypto";
import { setTimeout } from "node:timers/promises";

const API = `${process.env.OPENAI_BASE_URL}/chat/completions`;
const key = { authorization: `Bearer ${process.env.OPENAI_API_KEY}` };
const body = {
  model: "claude-sonnet-4.5",
  messages: [{ role: "user", content: process.argv[2] }],
  stream: true,
};
// The turn goes on without us, and its events have numbers. The same request again joins it.
const ask = {
  method: "POST",
  headers: {
    ...key,
    "content-type": "application/json",
    "x-on-disconnect": "continue",
    "x-event-ids": "true",
    "idempotency-key": randomUUID(),
  },
  body: JSON.stringify(body),
};

/** The number and the data of each event that arrived whole. */
async function* events(response) {
  let text = "";
  for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
    const blocks = (text + piece).split("\n\n");
    text = blocks.pop();
    for (const block of blocks) {
      const data = block.match(/^data: (.*)$/m);
      if (data) yield [block.match(/^id: (.*)$/m)?.[1], data[1]];
    }
  }
}

/** The words of an answer, each once. */
async function* answer() {
  let completion, seen;
  // Cuts in a row.
  for (let cuts = 0; cuts < 10; cuts++) {
    try {
      const response = completion
        ? await fetch(`${API}/${completion}?stream=true`, {
            headers: { ...key, "last-event-id": seen },
          })
        : await fetch(API, ask);
      if (!response.ok) throw new Error(await response.text());
      for await (const [number, data] of events(response)) {
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw new Error(chunk.error.message);
        [completion, seen, cuts] = [chunk.id, number, 0];
        yield chunk.choices[0]?.delta?.content ?? "";
      }
    } catch (cut) {
      // What fetch throws for a lost connection; anything else is a mistake of ours.
      if (!(cut instanceof TypeError) || !cut.cause) throw cut;
      console.error(`(cut: ${cut.message})`);
    }
    await setTimeout(200 * (cuts + 1));
  }
  throw new Error("nobody answers");
}

for await (const words of answer()) process.stdout.write(words);
console.log();
