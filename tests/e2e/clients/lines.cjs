"use strict";
// Commands come as JSON lines on stdin, answers leave as JSON lines on stdout: {id, do, ...} ->
// {id, ok} or {id, error}, and {id, event} in between. Commands run side by side.

const readline = require("node:readline");

/** What of an error a user of the client could see. */
function told(error) {
  return {
    name: error.constructor.name,
    message: String(error.message),
    status: error.status ?? null,
    code: error.code ?? null,
    type: error.type ?? null,
    param: error.param ?? null,
  };
}

/** Serve `verbs` until stdin closes. A verb gets its command and `tell(event)`. */
function serve(verbs) {
  const say = (line) => process.stdout.write(JSON.stringify(line) + "\n");
  readline.createInterface({ input: process.stdin }).on("line", async (line) => {
    const command = JSON.parse(line);
    try {
      const tell = (event) => say({ id: command.id, event });
      say({ id: command.id, ok: await verbs[command.do](command, tell) });
    } catch (error) {
      say({ id: command.id, error: told(error) });
    }
  });
}

module.exports = { serve, told };
