// A file for the agent, of any type: node files_in.mjs table.csv "What is in this table?"
import { createReadStream } from "node:fs";
import OpenAI from "openai";

const [path, prompt] = process.argv.slice(2);
const client = new OpenAI();
const file = await client.files.create({ file: createReadStream(path), purpose: "user_data" });
const answer = await client.chat.completions.create({
  model: "claude-sonnet-4.5",
  messages: [
    {
      role: "user",
      content: [
        { type: "file", file: { file_id: file.id } },
        { type: "text", text: prompt },
      ],
    },
  ],
});
console.log(answer.choices[0].message.content);
