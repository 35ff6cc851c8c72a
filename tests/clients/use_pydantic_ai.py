"""What pydantic-ai's README shows: an agent that answers, and one with tools and a typed output."""

import json
import sys

from pydantic import BaseModel, Field
from pydantic_ai import Agent, RunContext
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

base_url, model = sys.argv[1:]
chat = OpenAIChatModel(model, provider=OpenAIProvider(base_url=base_url, api_key="none"))


class SupportOutput(BaseModel):
    support_advice: str = Field(description="Advice returned to the customer")
    block_card: bool
    risk: int = Field(ge=0, le=10)


BALANCE = '<tool_call>{"name": "customer_balance", "arguments": {"include_pending": true}}</tool_call>'
FINAL = ('<tool_call>{"name": "final_result", "arguments": {"support_advice": "Your balance is 123.45.", '
         '"block_card": false, "risk": 1}}</tool_call>')
simple = Agent(chat, instructions="Be concise, reply with one sentence.")
support = Agent(chat, deps_type=int, output_type=SupportOutput, instructions="You are a support agent in our bank.")
asked = []


@support.tool
def customer_balance(context: RunContext[int], include_pending: bool) -> str:
    """Returns the customer's current account balance."""
    asked.append((context.deps, include_pending))
    return f"123.45. say: {FINAL}"


text = simple.run_sync('Where does "hello world" come from? say: From Kernighan.')
typed = support.run_sync(f"What is my balance? say: {BALANCE}", deps=7)
with simple.run_stream_sync("say: From Kernighan.") as running:
    streamed = list(running.stream_text(delta=True))
print(json.dumps({
    "text": text.output, "typed": typed.output.model_dump(), "asked": asked, "streamed": "".join(streamed),
    "tokens": text.usage().output_tokens if callable(text.usage) else text.usage.output_tokens,
}))
