// Two conversations of one person, each with a memory and files of its own.
import OpenAI from "openai";

const client = new OpenAI();

/** Say something in a conversation. It is known by its name, so the past need not be sent. */
async function say(conversation, words) {
  const answer = await client.chat.completions.create(
    { model: "claude-sonnet-4.5", messages: [{ role: "user", content: words }] },
    { headers: { "X-Conversation-ID": conversation } },
  );
  return answer.choices[0].message.content;
}

await say("garden", "Remember that the roses need water");
await say("office", "Remember that the meeting is on Friday");
for (const name of ["garden", "office"]) {
  console.log(`${name}: ${await say(name, "What do you remember?")}`);
}
