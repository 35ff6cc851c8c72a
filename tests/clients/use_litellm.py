"""What litellm's README shows: completion, a stream, acompletion, embedding, and its exceptions."""

import asyncio
import json
import sys

import litellm

base_url, model = sys.argv[1:]
said = {"model": f"openai/{model}", "api_base": base_url, "api_key": "none", "max_retries": 0, "num_retries": 0}
messages = [{"content": "say: Hello, how are you?", "role": "user"}]

answer = litellm.completion(messages=messages, **said)
streamed = "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(
    messages=messages, stream=True, **said))
later = asyncio.run(litellm.acompletion(messages=messages, **said))
embedded = litellm.embedding(input=["a cat"], **{**said, "model": "openai/vectors"})
try:
    litellm.completion(messages=[{"role": "user", "content": "word " * 20_000}], **said)
    refused = "nothing"
except litellm.ContextWindowExceededError as error:
    refused = str(error.status_code)
try:
    litellm.completion(messages=messages, **{**said, "model": "openai/no-such-model"})
    unknown = "nothing"
except litellm.NotFoundError as error:
    unknown = str(error.status_code)
print(json.dumps({
    "text": answer.choices[0].message.content, "streamed": streamed, "later": later.choices[0].message.content,
    "usage": answer.usage.total_tokens, "vector": len(embedded.data[0]["embedding"]), "over the context": refused,
    "unknown": unknown,
}))
