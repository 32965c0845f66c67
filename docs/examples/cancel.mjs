// Stop an answer after some characters: node cancel.mjs 20 "What can you do?"
import OpenAI from "openai";

const [most, prompt] = process.argv.slice(2);
const client = new OpenAI();
const stream = await client.chat.completions.create({
  model: "claude-sonnet-4.5",
  messages: [{ role: "user", content: prompt }],
  stream: true,
});
let said = "";
let isCancelled = false;
try {
  for await (const chunk of stream) {
    said += chunk.choices[0]?.delta?.content ?? "";
    if (said.length >= Number(most) && !isCancelled) {
      // With the id and the key, any other program can do it as well.
      await client.post(`/chat/completions/${chunk.id}/cancel`);
      isCancelled = true;
    }
  }
  console.log(said);
} catch (ended) {
  console.log(`${said}\n[${ended.code}]`);
}
