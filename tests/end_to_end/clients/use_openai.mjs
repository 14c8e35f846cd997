// The openai package of npm against the server at argv[2], with the key argv[3].
import assert from "node:assert/strict";
import OpenAI from "openai";

const [url, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey, maxRetries: 0 });
const model = "lightllm-demo";
const sum = { model, temperature: 0, messages: [{ role: "user", content: "What is 25 + 17?" }] };
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Get the current weather of a city",
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] },
  },
};
const paris = { model, temperature: 0, tools: [weather], messages: [{ role: "user", content: "What is the weather in Paris?" }] };

const whole = await client.chat.completions.create(sum);
assert.match(whole.choices[0].message.content, /42/);
assert.equal(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens);

let text = "";
let usage;
for await (const chunk of await client.chat.completions.create({ ...sum, stream: true, stream_options: { include_usage: true } })) {
  text += chunk.choices[0]?.delta.content ?? "";
  usage = chunk.usage ?? usage;
}
assert.equal(text, whole.choices[0].message.content);
assert.equal(usage.completion_tokens, whole.usage.completion_tokens);

const final = await client.chat.completions.stream(sum).finalChatCompletion();
assert.equal(final.choices[0].message.content, text);

const called = await client.chat.completions.create(paris);
const [call] = called.choices[0].message.tool_calls;
assert.deepEqual([call.function.name, JSON.parse(call.function.arguments)], ["get_weather", { city: "Paris" }]);
const told = await client.chat.completions.create({
  ...paris,
  messages: [...paris.messages, called.choices[0].message,
    { role: "tool", tool_call_id: call.id, content: '{"temperature": 21, "condition": "sunny"}' }],
});
assert.match(told.choices[0].message.content, /21/);
const streamed = await client.chat.completions.stream(paris).finalChatCompletion();
assert.deepEqual(JSON.parse(streamed.choices[0].message.tool_calls[0].function.arguments), { city: "Paris" });

const other = { type: "function", function: { name: "get_time", parameters: { type: "object", properties: {} } } };
const allowed = { mode: "required", tools: [{ type: "function", function: { name: "get_weather" } }] };
const forced = await client.chat.completions.create({
  ...sum, tools: [other, weather], tool_choice: { type: "allowed_tools", allowed_tools: allowed }, parallel_tool_calls: false,
});
assert.deepEqual(forced.choices[0].message.tool_calls.map(one => one.function.name), ["get_weather"]);
assert.equal(forced.choices[0].finish_reason, "tool_calls");

const run = client.chat.completions.runTools({
  ...paris,
  tools: [{ ...weather, function: { ...weather.function, parse: JSON.parse,
    function: () => ({ temperature: 21, condition: "sunny" }) } }],
});
assert.match(await run.finalContent(), /21/);

const completion = await client.completions.create({ model, prompt: "1 2 3 4 5", max_tokens: 5, temperature: 0, logprobs: 2 });
assert.equal(completion.choices[0].logprobs.tokens.length, 5);

const response = await client.responses.create({ model, input: "What is 25 + 17?", temperature: 0 });
assert.match(response.output_text, /42/);
assert.equal((await client.responses.retrieve(response.id)).output_text, response.output_text);
const finished = await client.responses.stream({ model, input: "What is 25 + 17?", temperature: 0 }).finalResponse();
assert.equal(finished.output_text, response.output_text);

const controller = new AbortController();
const stopped = await client.chat.completions.create({ ...sum, stream: true }, { signal: controller.signal });
for await (const chunk of stopped) { controller.abort(); break; }

assert.deepEqual((await client.models.list()).data.map(one => one.id), [model]);
assert.equal((await client.models.retrieve(model)).id, model);

await assert.rejects(new OpenAI({ baseURL: `${url}/v1`, apiKey: "wrong", maxRetries: 0 }).models.list(), OpenAI.AuthenticationError);
await assert.rejects(client.chat.completions.create({ ...sum, max_tokens: 1e9 }), OpenAI.BadRequestError);
await assert.rejects(client.chat.completions.create({ ...sum, model: "no-such-model" }), OpenAI.NotFoundError);
