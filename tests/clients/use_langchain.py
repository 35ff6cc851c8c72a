"""What langchain-openai's README shows: invoke, stream, bind_tools, with_structured_output."""

import json
import sys

from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

base_url, model = sys.argv[1:]
llm = ChatOpenAI(model=model, base_url=base_url, api_key="none", temperature=0, max_retries=0)
messages = [("system", "You translate English to French."), ("human", "say: J'adore la programmation.")]


class GetWeather(BaseModel):
    """Get the current weather in a given location"""

    location: str = Field(description="The city and state, e.g. San Francisco, CA")


class Joke(BaseModel):
    setup: str
    punchline: str


answer = llm.invoke(messages)
called = llm.bind_tools([GetWeather]).invoke(
    'say: <tool_call>{"name": "GetWeather", "arguments": {"location": "Los Angeles, CA"}}</tool_call>')
streamed = list(llm.bind_tools([GetWeather]).stream(
    'say: <tool_call>{"name": "GetWeather", "arguments": {"location": "Los Angeles, CA"}}</tool_call>'))
whole = streamed[0]
for chunk in streamed[1:]:
    whole += chunk
joke = llm.with_structured_output(Joke).invoke('say: {"setup": "Why?", "punchline": "Because."}')
print(json.dumps({
    "text": answer.content, "usage": answer.usage_metadata,
    "streamed": "".join(chunk.content for chunk in llm.stream(messages)),
    "calls": [[call["name"], call["args"]] for call in called.tool_calls],
    "calls streamed": [[call["name"], call["args"]] for call in whole.tool_calls],
    "joke": joke.model_dump(),
    "logprobs": len(llm.bind(logprobs=True).invoke(messages).response_metadata["logprobs"]["content"]),
}))
