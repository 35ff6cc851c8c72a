"""What instructor's README shows: a response model through tools, through JSON schemas, retried, and streamed."""

import json
import sys

import instructor
from pydantic import BaseModel, Field, field_validator

base_url, model = sys.argv[1:]


class User(BaseModel):
    name: str
    age: int


class Other(BaseModel):
    name: str = Field(max_length=8)

    @field_validator("name")
    @classmethod
    def not_john(cls, value: str) -> str:
        if value == "John":
            raise ValueError("take another name")
        return value


def client(**said):
    return instructor.from_provider(f"openai/{model}", base_url=base_url, api_key="none", **said)


def asked(text):
    return [{"role": "user", "content": text}]


def john(function):
    call = {"name": function, "arguments": {"name": "John", "age": 25}}
    return f"John is 25 years old. say: <tool_call>{json.dumps(call)}</tool_call>"


by_tools = client().create(response_model=User, messages=asked(john("User")))
by_schema = client(mode=instructor.Mode.JSON_SCHEMA).create(
    response_model=User, messages=asked('John is 25 years old. say: {"name": "John", "age": 25}'))
retried = client().create(response_model=Other, max_retries=2, messages=asked(
    'say: <tool_call>{"name": "Other", "arguments": {"name": "John"}}</tool_call>'))
partial = list(client().create_partial(response_model=User, messages=asked(john("PartialUser"))))
print(json.dumps({
    "by tools": by_tools.model_dump(), "by schema": by_schema.model_dump(), "retried": retried.name,
    "partial": partial[-1].model_dump(), "pieces": len(partial),
}))
