// The npm package `openai` and its `responses` against a running edged. Prints one JSON object.
// node responses.mjs BASE_URL MODEL
import OpenAI from "openai";

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const options = { model, input: "Say something.", temperature: 0, max_output_tokens: 24 };

const plain = await client.responses.create(options);

let streamed = "";
const stream = client.responses.stream(options);
for await (const event of stream) {
  if (event.type === "response.output_text.delta") streamed += event.delta;
}
const final = await stream.finalResponse();

const second = await client.responses.create({ ...options, input: "And then?", previous_response_id: plain.id });
const again = await client.responses.retrieve(second.id);
const inputs = [];
for await (const item of client.responses.inputItems.list(second.id)) inputs.push(item.content[0].text);

const queued = await client.responses.create({ ...options, background: true });
const cancelled = await client.responses.cancel(queued.id);

await client.responses.delete(second.id);
let gone = null;
try {
  await client.responses.retrieve(second.id);
} catch (error) {
  gone = error.status;
}

console.log(JSON.stringify({
  plain: plain.output_text, streamed, final: final.status, first: plain.id, previous: again.previous_response_id, inputs,
  cancelled: cancelled.status, gone,
}));
