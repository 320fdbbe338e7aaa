// Vercel's AI SDK: a stream of text with its usage, and a streamed tool call.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, streamText, tool } from "ai";

const starchat = createOpenAICompatible({
  name: "starchat",
  baseURL: `${process.argv[2]}/v1`,
  includeUsage: true,
});
const model = starchat("starchat");
const check = (fact, what) => { if (!fact) throw new Error(JSON.stringify(what)); };

const prompt = "How do I sort a list in Python?";
const stream = streamText({ model, prompt, temperature: 0 });
let text = "";
for await (const piece of stream.textStream) text += piece;
const whole = await generateText({ model, prompt, temperature: 0 });
check(text === whole.text && text.startsWith("You can"), text);
check(await stream.finishReason === "stop", await stream.finishReason);
check((await stream.usage).outputTokens === whole.usage.outputTokens, await stream.usage);

const number = { type: "integer" };
const inputSchema = jsonSchema({
  type: "object",
  properties: { a: number, b: number },
  required: ["a", "b"],
});
const calling = streamText({
  model,
  prompt: "What is 2 + 3?",
  temperature: 0,
  tools: { add: tool({ description: "Add two numbers", inputSchema }) },
  toolChoice: "required",
});
const parts = [];
for await (const part of calling.fullStream) parts.push(part);
const kinds = parts.map((part) => part.type);
check(kinds.includes("tool-input-delta") && !kinds.includes("error"), parts);
const call = parts.find((part) => part.type === "tool-call");
check(call.toolName === "add" && Number.isInteger(call.input.a), call);
check(await calling.finishReason === "tool-calls", await calling.finishReason);
console.log("fine");
