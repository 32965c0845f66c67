"use strict";
// What LibreChat's server does for a custom endpoint, with its own library: a run for each answer, and
// for a new chat the title request, which leaves first and under the same ids.
// By require(): as an ES module the package does not load with the dependencies npm picks.

const { performance } = require("node:perf_hooks");
const { GraphEvents, Providers, Run, createContentAggregator, formatAgentMessages } =
  require("@librechat/agents");
const { serve, told } = require("./lines.cjs");

const { BASE_URL, API_KEY, MODEL } = process.env;
const USER = "6650f1a2b3c4d5e6f7a8b9c0";
const runs = new Map();
const posts = [];

// What leaves, in its order: LibreChat's requests are part of what is tested.
const realFetch = globalThis.fetch;
globalThis.fetch = async (url, init) => {
  const post = { at: performance.now(), url: String(url), body: init?.body ?? null };
  post.headers = Object.fromEntries(new Headers(init?.headers));
  posts.push(post);
  return await realFetch(url, init);
};

/** As `headers:` of librechat.yaml (docs/reference/clients.md), with the placeholders filled in. */
function headers({ conversation, message, parent }) {
  return {
    "X-Conversation-ID": conversation,
    "X-Message-ID": message,
    "X-Parent-Message-ID": parent,
    "X-User-ID": USER,
  };
}

function options(command, more) {
  return {
    model: MODEL,
    user: USER,
    apiKey: API_KEY,
    configuration: { baseURL: command.baseURL ?? BASE_URL, defaultHeaders: headers(command) },
    ...more,
  };
}

async function answer(command, run, contentParts, tell) {
  const { messages } = formatAgentMessages(command.messages);
  const stop = new AbortController();
  runs.set(command.message, stop);
  let failure = null;
  try {
    await run.processStream(
      { messages },
      {
        runId: command.message,
        configurable: { thread_id: command.conversation, user_id: USER },
        recursionLimit: 50,
        signal: stop.signal,
        streamMode: "values",
        version: "v2",
      },
    );
  } catch (error) {
    if (!stop.signal.aborted) failure = told(error);
  } finally {
    runs.delete(command.message);
  }
  const of = (type, field) =>
    contentParts.filter((part) => part?.type === type).map((part) => part[field]).join("");
  return { text: of("text", "text"), reasoning: of("think", "think"), failure };
}

async function title(command, run) {
  const asked = command.messages.at(-1).content;
  const made = await run.generateTitle({
    provider: Providers.OPENAI,
    inputText: asked,
    contentParts: [],
    titleMethod: "completion",
    clientOptions: options(command, { streaming: false, model: command.titleModel ?? MODEL }),
    chainOptions: {
      runName: "TitleRun",
      configurable: { thread_id: command.conversation, user_id: USER },
    },
  });
  return made.title;
}

serve({
  /** One answer of a chat; with `title`, of a new one. */
  async turn(command, tell) {
    const { contentParts, aggregateContent } = createContentAggregator();
    const collect = (event) => ({
      handle: (_, data) => {
        aggregateContent({ event, data });
        tell(event);
      },
    });
    const collected = [
      GraphEvents.ON_RUN_STEP,
      GraphEvents.ON_RUN_STEP_DELTA,
      GraphEvents.ON_MESSAGE_DELTA,
      GraphEvents.ON_REASONING_DELTA,
    ];
    const run = await Run.create({
      runId: command.message,
      graphConfig: {
        type: "standard",
        llmConfig: {
          provider: Providers.OPENAI,
          streaming: true,
          streamUsage: false,
          ...options(command),
        },
        instructions: command.instructions,
      },
      returnContent: true,
      customHandlers: Object.fromEntries(collected.map((event) => [event, collect(event)])),
    });
    const titled = command.title ? title(command, run) : Promise.resolve(null);
    const [titleMade, answered] = await Promise.all([
      titled.catch((error) => ({ failure: told(error) })),
      answer(command, run, contentParts, tell),
    ]);
    return { ...answered, title: titleMade };
  },

  /** The Stop button. */
  async stop(command) {
    runs.get(command.message).abort();
  },

  /** Every HTTP request since the last time this was asked. */
  async posts() {
    return posts.splice(0);
  },
});
