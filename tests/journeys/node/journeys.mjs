// The official Node SDKs against one gateway: every journey is a function that throws when something is not as it should be.
// Reads what to ask from the environment variable JOURNEYS (JSON), writes one JSON object: the name of each journey and what went wrong, if anything.
import assert from "node:assert/strict";

import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const { origin, secret, models, broken, flaky, missing } = JSON.parse(process.env.JOURNEYS);
const openai = new OpenAI({ baseURL: `${origin}/v1`, apiKey: secret, maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: origin, apiKey: secret, maxRetries: 0 });

const HELLO = [{ role: "user", content: "say hello to the world" }];
const SCHEMA = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const CHAT_TOOLS = ["look", "book"].map((name) => ({ type: "function", function: { name, parameters: SCHEMA } }));
const RESPONSES_TOOLS = ["look", "book"].map((name) => ({ type: "function", name, parameters: SCHEMA, strict: false }));
const MESSAGES_TOOLS = ["look", "book"].map((name) => ({ name, input_schema: SCHEMA }));
const NAMES = ["look", "book"];

function greets(text) {
  assert.match(text.toLowerCase(), /hello/);
}

function costs(usage) {
  assert.ok(usage.cost > 0, `no cost in ${JSON.stringify(usage)}`);
}

async function fails(work, type, status) {
  try {
    await work();
  } catch (error) {
    assert.ok(error instanceof type, `${error.constructor.name} instead of ${type.name}: ${error.message}`);
    if (status !== undefined) assert.equal(error.status, status);
    return error;
  }
  assert.fail(`no ${type.name}`);
}

const journeys = {};
for (const [family, { hello, tools }] of Object.entries(models)) {
  journeys[`chat, whole, ${family}`] = async () => {
    const answer = await openai.chat.completions.create({ model: hello, messages: HELLO, max_tokens: 100 });
    greets(answer.choices[0].message.content);
    assert.equal(answer.choices[0].finish_reason, "stop");
    costs(answer.usage);
  };
  journeys[`chat, stream, ${family}`] = async () => {
    const asked = { model: hello, messages: HELLO, max_tokens: 100, stream_options: { include_usage: true } };
    const answer = await openai.chat.completions.stream(asked).finalChatCompletion();
    greets(answer.choices[0].message.content);
    assert.ok(answer.usage.completion_tokens > 0);
    costs(answer.usage);
  };
  journeys[`chat, tools, ${family}`] = async () => {
    const answer = await openai.chat.completions.stream({ model: tools, messages: HELLO, max_tokens: 500, tools: CHAT_TOOLS }).finalChatCompletion();
    const calls = answer.choices[0].message.tool_calls;
    assert.deepEqual(calls.map((call) => call.function.name), NAMES);
    calls.forEach((call) => JSON.parse(call.function.arguments));
    assert.equal(answer.choices[0].finish_reason, "tool_calls");
    const results = calls.map((call) => ({ role: "tool", tool_call_id: call.id, content: "done" }));
    const next = [...HELLO, { role: "assistant", content: null, tool_calls: calls.map(({ id, type, function: { name, arguments: given } }) => ({ id, type, function: { name, arguments: given } })) }, ...results];
    await openai.chat.completions.create({ model: hello, messages: next, max_tokens: 100, tools: CHAT_TOOLS });
  };
  journeys[`responses, whole, ${family}`] = async () => {
    const answer = await openai.responses.create({ model: hello, input: "say hello to the world", max_output_tokens: 100 });
    greets(answer.output_text);
    assert.equal(answer.status, "completed");
    costs(answer.usage);
  };
  journeys[`responses, stream, ${family}`] = async () => {
    const answer = await openai.responses.stream({ model: hello, input: "say hello to the world", max_output_tokens: 100 }).finalResponse();
    greets(answer.output_text);
    assert.ok(answer.usage.output_tokens > 0);
    costs(answer.usage);
  };
  journeys[`responses, tools, ${family}`] = async () => {
    const asked = { model: tools, input: "say hello to the world", max_output_tokens: 500, tools: RESPONSES_TOOLS };
    const answer = await openai.responses.stream(asked).finalResponse();
    const calls = answer.output.filter((item) => item.type === "function_call");
    assert.deepEqual(calls.map((call) => call.name), NAMES);
    const results = calls.map((call) => ({ type: "function_call_output", call_id: call.call_id, output: "done" }));
    await openai.responses.create({ model: hello, previous_response_id: answer.id, input: results, tools: RESPONSES_TOOLS, max_output_tokens: 100 });
  };
  journeys[`messages, whole, ${family}`] = async () => {
    const message = await anthropic.messages.create({ model: hello, messages: HELLO, max_tokens: 100 });
    greets(message.content.find((block) => block.type === "text").text);
    assert.equal(message.stop_reason, "end_turn");
    costs(message.usage);
  };
  journeys[`messages, stream, ${family}`] = async () => {
    const seen = [];
    const stream = anthropic.messages.stream({ model: hello, messages: HELLO, max_tokens: 100 });
    stream.on("streamEvent", (event) => event.type === "message_delta" && seen.push(event.usage));
    const message = await stream.finalMessage();
    greets(message.content.find((block) => block.type === "text").text);
    assert.ok(message.usage.output_tokens > 0);
    costs(seen.at(-1));
  };
  journeys[`messages, tools, ${family}`] = async () => {
    const message = await anthropic.messages.stream({ model: tools, messages: HELLO, max_tokens: 500, tools: MESSAGES_TOOLS }).finalMessage();
    const calls = message.content.filter((block) => block.type === "tool_use");
    assert.deepEqual(calls.map((call) => call.name), NAMES);
    assert.equal(message.stop_reason, "tool_use");
    const results = calls.map((call) => ({ type: "tool_result", tool_use_id: call.id, content: "done" }));
    const next = [...HELLO, { role: "assistant", content: message.content }, { role: "user", content: results }];
    await anthropic.messages.create({ model: hello, messages: next, max_tokens: 100, tools: MESSAGES_TOOLS });
  };
  journeys[`chat, cut stream, ${family}`] = () =>
    fails(() => openai.chat.completions.stream({ model: broken[family], messages: HELLO, max_tokens: 100 }).finalChatCompletion(), OpenAI.APIError);
  journeys[`responses, cut stream, ${family}`] = async () => {
    let failed = false;
    try {
      const stream = openai.responses.stream({ model: broken[family], input: "say hello", max_output_tokens: 100 });
      for await (const event of stream) failed ||= event.type === "response.failed";
    } catch (error) {
      failed = true;
    }
    assert.ok(failed, "the stream ended as if all were well");
  };
  journeys[`messages, cut stream, ${family}`] = () =>
    fails(() => anthropic.messages.stream({ model: broken[family], messages: HELLO, max_tokens: 100 }).finalMessage(), Anthropic.APIError);
}

journeys["chat, unknown key"] = () => {
  const stranger = new OpenAI({ baseURL: `${origin}/v1`, apiKey: "sk-gw-nobody", maxRetries: 2 });
  return fails(() => stranger.chat.completions.create({ model: missing, messages: HELLO }), OpenAI.AuthenticationError, 401);
};
journeys["chat, unknown model"] = async () => {
  const error = await fails(() => openai.chat.completions.create({ model: missing, messages: HELLO }), OpenAI.NotFoundError, 404);
  assert.equal(error.code, "model_not_found");
  assert.ok(error.requestID);
};
journeys["messages, unknown model"] = async () => {
  const error = await fails(() => anthropic.messages.create({ model: missing, messages: HELLO, max_tokens: 5 }), Anthropic.NotFoundError, 404);
  assert.ok(error.requestID);
};
journeys["chat, a provider that is down is a server error in the end"] = () => {
  const patient = new OpenAI({ baseURL: `${origin}/v1`, apiKey: secret, maxRetries: 2 });
  return fails(() => patient.chat.completions.create({ model: flaky.down, messages: HELLO, max_tokens: 5 }), OpenAI.InternalServerError);
};
journeys["chat, a busy provider is asked again"] = async () => {
  const patient = new OpenAI({ baseURL: `${origin}/v1`, apiKey: secret, maxRetries: 2 });
  const answer = await patient.chat.completions.create({ model: flaky.chat, messages: HELLO, max_tokens: 20 });
  assert.ok(answer.choices[0].message.content);
};
journeys["messages, a busy provider is asked again"] = async () => {
  const patient = new Anthropic({ baseURL: origin, apiKey: secret, maxRetries: 2 });
  const message = await patient.messages.create({ model: flaky.messages, messages: HELLO, max_tokens: 20 });
  assert.ok(message.content.length > 0);
};

const outcome = {};
await Promise.all(
  Object.entries(journeys).map(async ([name, journey]) => {
    try {
      await journey();
      outcome[name] = "";
    } catch (error) {
      outcome[name] = String(error.stack ?? error);
    }
  }),
);
process.stdout.write(JSON.stringify(outcome));
