// What an agent makes: node files_out.mjs my-chat "Draw a plot and save it."
import OpenAI from "openai";

const [name, prompt] = process.argv.slice(2);
const client = new OpenAI({ defaultHeaders: { "X-Conversation-ID": name } });
const answer = await client.chat.completions.create({
  model: "claude-sonnet-4.5",
  messages: [{ role: "user", content: prompt }],
});
console.log(answer.choices[0].message.content);
for (const file of answer.agcluster?.files ?? []) {
  const content = await (await client.files.content(file.id)).arrayBuffer();
  console.log(`${file.path}: ${content.byteLength} bytes, ${file.url}`);
}
