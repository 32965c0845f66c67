// A function of yours, called by the agent: node functions.mjs "How is the weather in Rome?"
import OpenAI from "openai";

function getWeather({ city }) {
  console.log(`called get_weather: sunny in ${city}`);
  return `sunny in ${city}`;
}

const runner = new OpenAI().chat.completions.runTools({
  model: "claude-sonnet-4.5",
  messages: [{ role: "user", content: process.argv[2] }],
  tools: [
    {
      type: "function",
      function: {
        name: "get_weather",
        description: "Tell the weather of a city.",
        parameters: {
          type: "object",
          properties: { city: { type: "string" } },
          required: ["city"],
        },
        parse: JSON.parse,
        function: getWeather,
      },
    },
  ],
});
console.log(await runner.finalContent());
