// An answer that is an object: node structured_output.mjs "Plan a trip to Rome."
import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

const Trip = z.object({ city: z.string(), days: z.number().int() });

const answer = await new OpenAI().chat.completions.parse({
  model: "claude-sonnet-4.5",
  messages: [{ role: "user", content: process.argv[2] }],
  response_format: zodResponseFormat(Trip, "trip"),
});
const trip = answer.choices[0].message.parsed;
console.log(`${trip.days} days in ${trip.city}`);
