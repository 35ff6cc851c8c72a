// The npm package `openai` against a running edged: lists models, chats, streams. Prints one JSON object.
// node chat.mjs BASE_URL MODEL
import OpenAI from "openai";

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const messages = [{ role: "user", content: "What is the capital of France?" }];
const options = { model, messages, temperature: 0, max_tokens: 24 };

const models = [];
for await (const one of client.models.list()) models.push(one.id);

const plain = await client.chat.completions.create(options);

let streamed = "";
let chunks = 0;
let usage = null;
let finish = null;
const stream = await client.chat.completions.create({ ...options, stream: true, stream_options: { include_usage: true } });
for await (const chunk of stream) {
  chunks += 1;
  streamed += chunk.choices[0]?.delta?.content ?? "";
  finish = chunk.choices[0]?.finish_reason ?? finish;
  usage = chunk.usage ?? usage;
}

let refused = null;
try {
  await client.chat.completions.create({ ...options, model: "no-such-model" });
} catch (error) {
  refused = { status: error.status, code: error.code, type: error.type };
}

console.log(JSON.stringify({
  models, plain: plain.choices[0].message.content, usagePlain: plain.usage, streamed, chunks, usage, finish, refused,
}));
