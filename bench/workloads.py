"""The frozen workloads: what is asked of both servers, in which sizes, how often.

They were fixed before anything was tuned, and `digest()` says that they still are: figures of two logs compare only
where it is the same. A change here is a new digest, a line in LOG.md, and new figures for both sides.

Prompts are plain English sentences of everyday words, each of which is one token of SmolLM2's vocabulary when a space
precedes it, and so is the full stop. Hence a prompt's length in tokens is its count of words and full stops, without a
tokenizer in the client; the servers' own `usage` is compared with it in every answer. No two prompts of one run begin
with the same words, so that no prefix cache can help; both sides get the same prompts in the same round.

Every request is greedy (temperature 0) and forbids the control tokens, end of text among them, with `logit_bias`, so
that all answers have exactly the length asked for. The bias is the same field with the same value on both sides.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from typing import Any, Literal

Endpoint = Literal["chat", "completions"]

#: SmolLM2's control tokens: ids 0 (end of text), 1 and 2 (ChatML's marks), 3 … 16 (file and repository marks).
CONTROL_TOKENS = tuple(range(17))
FORBIDDEN = -100

#: Opening nouns, one token each with and without a space before them; three of them number a prompt, the first one
#: changing fastest.
OPENINGS = tuple(word for line in """
    river window market bridge forest school hospital station museum library church castle factory farm ocean lake
    street tower water house road stone light letter paper music winter summer night horse tree table chair door room
    field city country family story game plan rule law star sea wind snow rain fire milk fish bird train ship plane
    wheel engine box key map
""".splitlines() for word in line.split())

SENTENCES = tuple(
    line.strip()
    for line in """
    the small boat left the harbor before the sun came up and did not return until late in the evening.
    people who live near the water know that the wind can change in less than an hour.
    she opened the old book and found a letter that her father had written many years before.
    a good teacher asks more questions than the students can answer in one day.
    the train to the north was late again so we had time for another cup of tea.
    in the winter the roads are closed and the village gets its food by air.
    most of the houses on this street were built after the war by the same family.
    he could not remember the name of the town but he knew the color of every door.
    the doctor told him to sleep more and to eat less salt.
    when the rain stopped the children ran out to look for their red ball.
    nobody had seen the cat since the day the new neighbors moved in.
    the price of bread went up twice last year while the price of milk stayed the same.
    a single seed can grow into a tree that is older than any person alive.
    the committee met for three hours and agreed on nothing but the date of the next meeting.
    music from the open window could be heard on the other side of the square.
    they walked along the river for two days before they found a place to cross.
    the first machine of this kind filled a whole room and needed four people to run it.
    every morning the baker gives the bread that was not sold to the school.
    it is easy to lose your way in the forest when there is snow on the ground.
    the farmer sold his horse and bought a small truck with the money.
    my sister wants to study the stars because she likes to be awake at night.
    the bridge was painted green so that it would not stand out from the hills.
    after the fire the library kept its most valuable books in a room under the ground.
    the captain wrote down the weather four times a day for thirty years.
    we need a plan that works even if one of the engines fails.
    there is a law that every new building must have a garden on the roof.
    the young man at the desk smiled and gave her the wrong key.
    light from that star left it before there were any people on the earth.
    the second half of the game was much better than the first.
    he fixed the clock with a piece of wire and it has been right ever since.
    the market opens at six and by noon all of the fish is gone.
    a long wall runs from the church to the sea and keeps the sand away from the fields.
    the president of the company answered every letter by hand.
    some birds can find their way home across a thousand miles of open ocean.
    the soup was too hot to eat so they talked about the weather.
    in the old days it took a week to send a message to the capital.
    the river is low this summer and you can see the stones of the old road.
    she learned the language by listening to the radio while she worked.
    the engineer drew a line on the map and said that the water would stop there.
    two of the windows face the street and the third one faces a wall.
    the story is true but the names have been changed.
    he kept the box for forty years and never told anyone what was in it.
    the new rule is simple and nobody follows it.
    a cold wind came down from the mountain and put out the light.
    the museum is free on the first day of every month.
    her brother plays the piano in a hotel near the airport.
    we counted the steps on the way up and got a different number on the way down.
    the dog waited at the station every evening for nine years.
    coffee from this valley is sold all over the world.
    the answer was on the last page but the last page was missing.
    they moved the whole hospital in one night without losing a single patient.
    the actor forgot his words and the audience thought it was part of the play.
    the tower can be seen from every corner of the city except one.
    no two leaves of this plant have the same shape.
    the judge asked for a glass of water and read the letter again.
    on a clear day you can see the coast of the other country.
    the paper was so thin that the words on the other side showed through it.
    he sat in the same chair by the window and read until it was dark.
    the flood took the road but left the little house beside it.
    the best time to plant a tree was twenty years ago.
    """.strip().splitlines()
)

#: Tokens a row must be able to hold, and rows both servers are started with.
CONTEXT_TOKENS = 2048
ROWS = 16


@dataclass(frozen=True)
class Workload:
    """`streams` requests at once, `repeats` times over; lengths in tokens; a chat template's marks come on top."""

    name: str
    endpoint: Endpoint
    prompt_tokens: int
    answer_tokens: int
    streams: int = 1
    repeats: int = 1

    @property
    def requests(self) -> int:
        return self.streams * self.repeats


FULL = (
    Workload("decode", "completions", prompt_tokens=256, answer_tokens=128, repeats=2),
    Workload("prefill", "completions", prompt_tokens=1024, answer_tokens=1, repeats=3),
    Workload("first-token", "chat", prompt_tokens=32, answer_tokens=2, repeats=5),
    Workload("streams-1", "chat", prompt_tokens=256, answer_tokens=128),
    Workload("streams-4", "chat", prompt_tokens=256, answer_tokens=128, streams=4),
    Workload("streams-8", "chat", prompt_tokens=256, answer_tokens=128, streams=8),
    Workload("streams-16", "chat", prompt_tokens=256, answer_tokens=128, streams=16),
)

#: The same shapes in seconds instead of minutes: proves that the harness and both servers work. Its figures are not to
#: be compared with those of FULL.
QUICK = (
    Workload("decode", "completions", prompt_tokens=64, answer_tokens=32),
    Workload("prefill", "completions", prompt_tokens=256, answer_tokens=1),
    Workload("first-token", "chat", prompt_tokens=32, answer_tokens=2, repeats=2),
    Workload("streams-1", "chat", prompt_tokens=64, answer_tokens=16),
    Workload("streams-4", "chat", prompt_tokens=64, answer_tokens=16, streams=4),
)

WARM_UP = Workload("warm-up", "chat", prompt_tokens=64, answer_tokens=8, streams=2)
COLD = Workload("cold", "chat", prompt_tokens=32, answer_tokens=2)


def words(number: int, tokens: int) -> list[str]:
    """The `tokens` words and full stops of prompt `number`; three opening nouns, then sentences drawn by its number."""
    count = len(OPENINGS)
    opening = [OPENINGS[number // count**place % count] for place in range(3)]
    drawn = random.Random(number)
    text = [*opening, "."]
    while len(text) < tokens:
        text += drawn.choice(SENTENCES).replace(".", " .").split()
    return text[:tokens]


def text(pieces: list[str]) -> str:
    return " ".join(pieces).replace(" .", ".")


def body(workload: Workload, number: int, model: str) -> dict[str, Any]:
    """The JSON body of request `number`. In chat the opening is the system message: a template's default one would be
    a prefix that all prompts share."""
    pieces = words(number, workload.prompt_tokens)
    prompt: dict[str, Any] = {"prompt": text(pieces)}
    if workload.endpoint == "chat":
        prompt = {"messages": [
            {"role": "system", "content": text(pieces[:4])},
            {"role": "user", "content": text(pieces[4:])},
        ]}
    return prompt | {
        "model": model,
        "max_tokens": workload.answer_tokens,
        "temperature": 0,
        "logit_bias": {str(token): FORBIDDEN for token in CONTROL_TOKENS},
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def digest(workloads: tuple[Workload, ...]) -> str:
    """12 hex digits over every body of the first round: the same where the same things were measured."""
    sizes = [CONTEXT_TOKENS, ROWS, *(workload.repeats for workload in workloads)]
    bodies = [body(workload, number, "") for workload in workloads for number in range(workload.requests)]
    return hashlib.sha256(json.dumps([sizes, bodies]).encode()).hexdigest()[:12]
