"use strict";
// What every program here asks for: an object, and a function.

const { z } = require("zod");

const Trip = z.object({ city: z.string(), days: z.number().int() });
const City = z.object({ city: z.string() });

const weather = {
  name: "get_weather",
  description: "Tell the weather of a city.",
  parameters: {
    type: "object",
    properties: { city: { type: "string" } },
    required: ["city"],
  },
};

/** The function itself; each call is added to `called`. */
function told(called, given) {
  called.push(["get_weather", given]);
  return `sunny in ${given.city}`;
}

module.exports = { City, Trip, told, weather };
