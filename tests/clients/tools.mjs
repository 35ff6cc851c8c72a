// The npm package `openai` against a running edged: a loop of tools by its own runner, streamed calls by its own
// accumulator. The fake model is told what to say (edged/engines/fake_script.py). Prints one JSON object.
// node tools.mjs BASE_URL MODEL
import OpenAI from "openai";

const [baseURL, model] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: "none", maxRetries: 0 });
const call = '<tool_call>{"name": "weather", "arguments": {"city": "Bonn"}}</tool_call>';
const parameters = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const messages = [{ role: "user", content: `say: <think>Hm.</think>I look.${call}` }];
const options = { model, messages, temperature: 0, max_tokens: 100 };

const asked = [];
const weather = async ({ city }) => {
  asked.push(city);
  return "say: It rains.";
};
const tool = {
  type: "function",
  function: { name: "weather", description: "of a city", parameters, parse: JSON.parse, function: weather },
};
const runner = client.chat.completions.runTools({ ...options, tools: [tool] });
const answer = await runner.finalContent();
const streamedRunner = client.chat.completions.runTools({ ...options, tools: [tool], stream: true });
const streamedAnswer = await streamedRunner.finalContent();

const plainTool = { type: "function", function: { name: "weather", description: "of a city", parameters } };
const stream = client.chat.completions.stream({ ...options, tools: [plainTool] });
const pieces = [];
stream.on("tool_calls.function.arguments.delta", (event) => pieces.push(event.arguments_delta));
const streamed = (await stream.finalChatCompletion()).choices[0];
const plain = (await client.chat.completions.create({ ...options, tools: [plainTool] })).choices[0];

const told = ({ message, finish_reason }) => ({
  content: message.content,
  calls: message.tool_calls.map(({ type, function: { name, arguments: given } }) => [type, name, given]),
  finish_reason,
});
console.log(JSON.stringify({
  asked, answer, streamedAnswer, pieces, streamed: told(streamed), plain: told(plain),
  reasoning: plain.message.reasoning_content,
}));
