// openai for Node: chat, streams, tools that run, parsed JSON, vectors, responses.
import OpenAI from "openai";

const client = new OpenAI({ baseURL: `${process.argv[2]}/v1`, apiKey: "none" });
const messages = [{ role: "user", content: "How do I sort a list in Python?" }];
const asked = { model: "starchat", messages, temperature: 0, max_tokens: 200 };
const check = (fact, what) => { if (!fact) throw new Error(what); };

const whole = await client.chat.completions.create(asked);
const text = whole.choices[0].message.content;
check(text && whole.usage.total_tokens > 20, JSON.stringify(whole));
let streamed = "", usage;
const options = { stream: true, stream_options: { include_usage: true } };
for await (const chunk of await client.chat.completions.create({ ...asked, ...options })) {
  streamed += chunk.choices[0]?.delta.content ?? "";
  usage = chunk.usage;
}
check(streamed === text && usage.total_tokens === whole.usage.total_tokens, streamed);

const number = { type: "integer", minimum: 0, maximum: 99 };
const parameters = { type: "object", properties: { a: number }, required: ["a"], additionalProperties: false };
let called;
const add = { name: "add", parameters, parse: JSON.parse, function: ({ a }) => { called = a; return String(a); } };
const runner = client.chat.completions.runTools(
  { ...asked, stream: true, tool_choice: { type: "function", function: { name: "add" } },
    tools: [{ type: "function", function: add }] },
  { maxChatCompletions: 2 },
);
await runner.done();
check(Number.isInteger(called), `called with ${called}`);

const schema = { name: "one", strict: true, schema: parameters };
const form = { response_format: { type: "json_schema", json_schema: schema } };
const parsed = await client.chat.completions.parse({ ...asked, ...form });
check(Number.isInteger(parsed.choices[0].message.parsed.a), JSON.stringify(parsed));

const input = ["sort a list", "open a socket"];
const vectors = await client.embeddings.create({ model: "starchat", input });
const floats = await client.embeddings.create({ model: "starchat", input, encoding_format: "float" });
check(vectors.data[1].embedding.every((x, i) => x === floats.data[1].embedding[i]), "other vectors");

const response = { model: "starchat", input: messages, temperature: 0 };
check((await client.responses.create(response)).output_text === text, "another response");
const events = client.responses.stream(response);
check((await events.finalResponse()).output_text === text, "another streamed response");
try {
  await client.chat.completions.create({ ...asked, top_p: 7 });
  throw new Error("top_p of 7 was taken");
} catch (error) {
  check(error instanceof OpenAI.BadRequestError && error.param === "top_p", String(error));
}
console.log("fine");
