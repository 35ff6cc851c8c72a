// The npm package `@anthropic-ai/sdk` against a running edged: answers, streams, calls a tool, counts tokens, is refused.
// Prints one JSON object. node messages.mjs BASE_URL MODEL
// The models of the tests say what a message tells them to after `say: `.
import Anthropic from "@anthropic-ai/sdk";

const [baseURL, model] = process.argv.slice(2);
const client = new Anthropic({ baseURL, apiKey: "none", maxRetries: 0 });
const ask = (content) => ({ model, max_tokens: 400, messages: [{ role: "user", content }] });
const tools = [{ name: "weather", input_schema: { type: "object", properties: { at: { type: "string" } } } }];
const said = "say: <think>Look first.</think>I look."
  + '<tool_call>{"name": "weather", "arguments": {"at": "Oslo"}}</tool_call>';

const plain = await client.messages.create(ask("say: Good day."));

let text = "";
const events = [];
const stream = client.messages.stream(ask("say: Good day."));
stream.on("text", (piece) => { text += piece; });
stream.on("streamEvent", (event) => events.push(event.type));
const final = await stream.finalMessage();

const loop = { ...ask(said), tools, thinking: { type: "enabled", budget_tokens: 300 } };
const called = await client.messages.create(loop);
let thinking = "";
let inputs = "";
const calling = client.messages.stream(loop);
calling.on("thinking", (piece) => { thinking += piece; });
calling.on("inputJson", (piece) => { inputs += piece; });
const calledInStream = await calling.finalMessage();

const counted = await client.messages.countTokens({ model, messages: ask("say: Good day.").messages });

let refused = null;
try {
  await client.messages.create({ ...ask("hi"), model: "no-such-model" });
} catch (error) {
  refused = { name: error.constructor.name, status: error.status, type: error.error.error.type, id: error.requestID };
}

console.log(JSON.stringify({
  plain, text, events, final, called, calledInStream, thinking, inputs, counted, refused,
}));
