// An answer, word by word: node stream.mjs "What can you do?"
import OpenAI from "openai";

const stream = await new OpenAI().chat.completions.create({
  model: "claude-sonnet-4.5",
  messages: [{ role: "user", content: process.argv[2] }],
  stream: true,
});
for await (const chunk of stream) {
  process.stdout.write(chunk.choices[0]?.delta?.content ?? "");
}
console.log();
