// A PDF with the message itself: node attach_pdf.mjs contract.pdf "When does it end?"
import { readFileSync } from "node:fs";
import { basename } from "node:path";
import OpenAI from "openai";

const [path, prompt] = process.argv.slice(2);
const data = readFileSync(path).toString("base64");
const answer = await new OpenAI().chat.completions.create({
  model: "claude-sonnet-4.5",
  messages: [
    {
      role: "user",
      content: [
        {
          type: "file",
          file: { filename: basename(path), file_data: `data:application/pdf;base64,${data}` },
        },
        { type: "text", text: prompt },
      ],
    },
  ],
});
console.log(answer.choices[0].message.content);
