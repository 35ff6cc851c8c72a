// The npm package `ollama` against a running edged. Prints one JSON object.
// node ollama.mjs HOST MODEL SLOW_TO_LOAD FOLDER: a model that chats, one that loads long, and a folder to pull.
import { Ollama } from "ollama";

const [host, model, late, folder] = process.argv.slice(2);
const client = new Ollama({ host });
const warnings = [];
console.warn = (...words) => warnings.push(words.join(" "));

async function all(stream) {
  const parts = [];
  for await (const part of await stream) parts.push(part);
  return parts;
}

async function refusal(asked) {
  try {
    await asked;
  } catch (error) {
    return { name: error.name, status: error.status_code ?? null, error: error.message };
  }
  return null;
}

const said = (text) => [{ role: "user", content: `say: ${text}` }];
const weather = {
  type: "function",
  function: { name: "weather", description: "of a city", parameters: { type: "object", properties: { city: { type: "string" } } } },
};
const thought = '<think>Hm.</think>Let me see.<tool_call>{"name": "weather", "arguments": {"city": "Rome"}}</tool_call>';

const result = { version: await client.version() };
result.loading = await all(client.chat({ model: late, messages: said("at last"), stream: true }));
result.chat = await client.chat({ model, messages: said("two words") });
result.streamed = await all(client.chat({ model, messages: said("two words"), stream: true }));
result.tools = await client.chat({ model, messages: said(thought), tools: [weather], think: true });
result.format = await client.chat({
  model, messages: said('{"a": 1}'), options: { num_predict: 200 },
  format: { type: "object", properties: { a: { type: "integer" } }, required: ["a"], additionalProperties: false },
});
result.generate = await client.generate({ model, prompt: "say: one" });
result.again = await client.generate({ model, prompt: "say: two", context: result.generate.context });
result.embed = await client.embed({ model: "vectors", input: ["a", "b"] });
result.loaded = await client.generate({ model, prompt: "" });
result.list = await client.list();
result.show = await client.show({ model });
result.ps = await client.ps();
result.pull = await all(client.pull({ model: folder, stream: true }));
result.pulled = await client.pull({ model: folder });
result.deleted = await client.delete({ model: folder.split("/").pop() });
result.unknown = await refusal(client.chat({ model: "no-such-model", messages: said("x") }));
result.wrong = await refusal(client.chat({ model, messages: said("x"), options: { num_ctx: 10_000_000 } }));
result.broken = await refusal(all(client.chat({ model: "brittle", messages: [{ role: "user", content: "x" }], stream: true })));
result.unloaded = await client.chat({ model, messages: [], keep_alive: 0 });
result.warnings = warnings;
console.log(JSON.stringify(result));
