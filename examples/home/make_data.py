"""Makes the data of the example: spoken commands to a house and what a program would do, as one line of JSON each, and
notes to a repair shop with the desk each belongs to.

    python examples/home/make_data.py FOLDER [--train 600] [--test 600] [--more 13500] [--seed 7]

Everything is made up by the rules below, nothing was said by anybody. The held-out test shares no command with the
rest, has names and things in it that no other file has (`HELD_OUT` of each list), and words every command in ways that
the others use too. `more.jsonl` has further commands without answers, for a teacher to answer: two of three have any
words, or letters that are no word, in place of most names and things, so that a student learns to copy words and not a
list of them.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

SYSTEM = "Turn the command into JSON."

ROOMS = ("kitchen", "bedroom", "bathroom", "living room", "hallway", "office", "garage", "cellar", "attic", "nursery",
         "guest room", "dining room", "playroom", "pantry", "studio", "balcony", "gym", "laundry room", "library",
         "workshop")
WHICH_ROOM = ("", "", "", "upstairs ", "downstairs ", "small ", "large ", "old ", "new ", "back ", "front ")
DEVICES = ("lamp", "heater", "fan", "radio", "television", "kettle", "dishwasher", "oven", "humidifier", "printer",
           "toaster", "speaker", "air conditioner", "coffee machine", "vacuum cleaner", "night light", "projector",
           "computer", "charger", "dryer", "freezer", "doorbell", "mixer", "washing machine", "water pump",
           "door camera")
WHICH_DEVICE = ("", "", "", "red ", "white ", "big ", "little ", "left ", "right ", "spare ", "old ")
PEOPLE = ("Anna", "Ben", "Carla", "David", "Elena", "Felix", "Grace", "Hugo", "Irene", "Jonas", "Karim", "Lena",
          "Marta", "Nils", "Olga", "Paulo", "Quinn", "Rosa", "Samir", "Tara", "Ulla", "Victor", "Wanda", "Yusuf", "Zoe")
#: Names that nobody has.
SYLLABLES = ("ba", "del", "fi", "gor", "ha", "jen", "ka", "lo", "mir", "na", "pel", "ri", "sol", "ta", "ven", "zu")
ITEMS = ("milk", "bread", "eggs", "apples", "rice", "coffee", "butter", "onions", "tomatoes", "pasta", "sugar", "flour",
         "cheese", "bananas", "carrots", "batteries", "candles", "peas", "noodles", "honey", "napkins", "salt",
         "peppers", "mushrooms", "oranges", "soap", "spinach", "beans", "tea", "potatoes", "yoghurt", "lemons", "nuts")
WHICH_ITEM = ("", "", "", "red ", "white ", "fresh ", "frozen ", "organic ", "cheap ", "small ", "large ", "good ")
UNITS = ("packs", "bottles", "boxes", "bags", "kilos")
EVENTS = ("dentist", "team meeting", "piano lesson", "yoga class", "haircut", "parents evening", "car inspection",
          "book club", "football training", "job interview", "swimming lesson", "birthday party", "house viewing",
          "board meeting", "guitar lesson", "chess club", "garden party", "eye test", "choir practice",
          "language course")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday", "today", "tomorrow")
SUBJECTS = ("the parcel", "the train", "dinner", "the meeting", "the dog", "the plumber", "grandma", "the car",
            "the bus", "the cat", "my sister", "the cake", "the doctor", "the letter", "my brother", "the neighbour",
            "the coach", "the heating", "the taxi", "the window cleaner")
PREDICATES = ("is ready", "is late", "has arrived", "is cancelled", "is waiting outside", "will be here soon",
              "is at the station", "comes tomorrow", "needs help", "is not here yet", "has left", "is fine again",
              "was great", "can wait", "is in the garden")
CITIES = ("Oslo", "Vienna", "Dublin", "Prague", "Athens", "Warsaw", "Madrid", "Rome", "Helsinki", "Zagreb", "Porto",
          "Lyon", "Turin", "Berlin", "Paris", "London", "Munich", "Milan", "Geneva", "Seville", "Krakow", "Basel",
          "Lisbon", "Bergen", "Ghent", "Graz")
#: In no command of the other files.
WORDS = """
    acorn album almond anchor ankle apron arrow autumn badge bakery bamboo banjo barn basin basket beach beaver
    bench berry bicycle blanket blossom bonfire bowl branch brass brick bridge brook brush bubble bucket buffalo
    button cabbage cabin cactus camel canal canvas carbon cargo carpet castle cedar ceramic chalk chapel cherry
    chestnut chimney cinema circus clay cliff clover cobalt cocoa comet compass copper coral cotton cradle crane
    cricket crystal cushion daisy dance deck desert diamond dinosaur dolphin dragon drawer drum eagle echo elbow
    elephant emerald engine farmer feather fence festival fiddle flannel flute forest fossil fountain fox fruit
    galaxy gallery garlic gate ginger giraffe glacier globe glove goose granite grape gravel gull hammer hammock
    harbour harvest hazel hedge heron hockey horizon hotel hunter iceberg island ivory ivy jacket jasmine jelly
    jigsaw journal jungle juniper kayak kernel kite knight ladder lagoon lantern lavender leather lilac linen lion
    lobster locker lotus magnet mango maple marble market meadow medal melon mint mirror monkey mosaic motor
    mountain museum mustard needle nest nickel nutmeg oak ocean olive opera orchard orchid otter owl oyster paddle
    palace panda parrot pasture pebble pelican pencil phoenix pickle picnic pigeon pillow pine planet plaster plum
    pocket poem polar pond poppy porch pottery prairie puddle pumpkin puppet puzzle quarry quartz quilt rabbit
    railway rainbow raven reef ribbon river robin rocket rope rose rubber saddle safari saffron sail salmon sandal
    sapphire satin saturn scarf school seal shadow shell shelter shoe silk silver skate sketch sled snow sofa
    sparrow spice spider spiral spring stable stadium stamp star steam stone storm straw stream summit sunset swan
    sweater tango tape temple tent theatre thistle thunder ticket tiger timber tower tractor trumpet tulip tunnel
    turtle umbrella valley vanilla velvet village vine violin volcano wagon walnut walrus whale wheat willow winter
    wolf wool yellow zebra
""".split()  # noqa: SIM905 — three hundred quotes are harder to read
#: Of words that nobody has.
_ONSETS = ("b", "br", "c", "ch", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "l", "m", "n", "p", "pl", "qu", "r",
           "s", "sh", "st", "t", "th", "tr", "v", "w", "y", "z", "")
_VOWELS = ("a", "e", "i", "o", "u", "ai", "ea", "oo", "ou", "y")
_CODAS = ("", "", "", "b", "ck", "d", "g", "l", "ll", "m", "n", "nd", "ng", "p", "r", "rt", "s", "sh", "st", "t",
          "tch", "x")
#: So many, the last of each list, are only in the test set, in three of ten of its commands' words.
HELD_OUT = {"rooms": 3, "devices": 3, "people": 5, "items": 5, "events": 3, "subjects": 3, "cities": 4}

_SMALL = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
          "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen")
_TENS = {20: "twenty", 30: "thirty", 40: "forty", 50: "fifty", 60: "sixty", 70: "seventy", 80: "eighty", 90: "ninety"}


def in_words(number: int) -> str:
    """0 … 99."""
    if number < 20:
        return _SMALL[number]
    tens, rest = number // 10 * 10, number % 10
    return _TENS[tens] + (f"-{_SMALL[rest]}" if rest else "")


class Speech:
    """Draws words. held_out: three of ten names and things are those that no other file has; made_up: seven of ten
    are any words, one or two, that name no such thing."""

    def __init__(self, seed: str, *, held_out: bool = False, made_up: bool = False) -> None:
        self.random = random.Random(seed)
        self._held_out, self._made_up = held_out, made_up

    def of(self, kind: str, values: tuple[str, ...]) -> str:
        if self._made_up and self.random.random() < 0.7:
            return self._made_up_name(kind, values[:-HELD_OUT[kind]])
        known, new = values[:-HELD_OUT[kind]], values[-HELD_OUT[kind]:]
        return self.random.choice(new if self._held_out and self.random.random() < 0.3 else known)

    def one(self, *ways: str) -> str:
        return self.random.choice(ways)

    def room(self) -> str:
        return self.one(*WHICH_ROOM) + self.of("rooms", ROOMS)

    def device(self) -> str:
        return self.one(*WHICH_DEVICE) + self.of("devices", DEVICES)

    def item(self) -> str:
        return self.one(*WHICH_ITEM) + self.of("items", ITEMS)

    def person(self) -> str:
        if self.random.random() < 0.5:
            return self.of("people", PEOPLE)
        return "".join(self.random.sample(SYLLABLES, self.random.choice((2, 2, 3)))).capitalize()

    def _made_up_name(self, kind: str, known: tuple[str, ...]) -> str:
        """In place of one of the known: a word; two; or one before the last of a known one's two ("silver room")."""
        if kind in ("people", "cities"):
            return self._word().capitalize()
        first = self.one("the ", "the ", "my ") + self._word() if kind == "subjects" else self._word()
        if self.random.random() < 0.4:
            return first
        lasts = [name.split()[-1] for name in known if " " in name and kind != "subjects"]
        return f"{first} {self.one(*lasts) if lasts and self.random.random() < 0.5 else self._word()}"

    def _word(self) -> str:
        """Of five two are words, two are two in one, one is letters in an order that can be said."""
        kind = self.random.randrange(5)
        if kind < 2:
            return self.one(*WORDS)
        if kind < 4:
            return self.one(*WORDS) + self.one(*WORDS)
        return "".join(self.one(*_ONSETS) + self.one(*_VOWELS) + self.one(*_CODAS)
                       for _ in range(self.random.choice((1, 2))))

    def number(self, value: int) -> str:
        return in_words(value) if self.random.random() < 0.5 else str(value)

    def time(self) -> tuple[str, str]:
        """As it is said, and with its half of the day written in one way."""
        hour, minute = self.random.randrange(1, 13), self.random.choice((0, 0, 15, 30, 45))
        clock, half = f"{hour}:{minute:02d}" if minute else str(hour), self.one("am", "pm")
        return f"{clock} {half if self.random.random() < 0.5 else '.'.join(half) + '.'}", f"{clock} {half}"

    def polite(self, command: str) -> str:
        before = self.one("", "", "", "please ", "can you ", "could you please ", "hey, ", "I would like you to ")
        said = before + (command if before or self.random.random() < 0.3 else command[0].upper() + command[1:])
        return said + (self.one("?", "") if before.startswith(("can", "could")) else self.one("", ".", ", thanks"))


def timer(say: Speech) -> tuple[str, dict[str, object]]:
    minutes, what = say.random.randrange(1, 100), say.item()
    number = say.number(minutes)
    plural = "minute" if minutes == 1 else "minutes"
    if say.random.random() < 0.5:
        return (say.one(f"set a timer for {number} {plural}", f"start a {number} minute timer",
                        f"count down {number} {plural}"), {"do": "timer", "minutes": minutes})
    return (say.one(f"set a timer for {number} {plural} for the {what}", f"time the {what} for {number} {plural}"),
            {"do": "timer", "minutes": minutes, "for": what})


def alarm(say: Speech) -> tuple[str, dict[str, object]]:
    said, time = say.time()
    day = say.one(*DAYS)
    on = day if day in ("today", "tomorrow") else f"on {day}"
    return (say.one(f"wake me at {said} {on}", f"set an alarm for {said} {on}", f"{on}, set the alarm to {said}"),
            {"do": "alarm", "time": time, "day": day.lower()})


def switch(say: Speech) -> tuple[str, dict[str, object]]:
    device, room, state = say.device(), say.room(), say.one("on", "off")
    return (say.one(f"turn {state} the {device} in the {room}", f"switch the {room} {device} {state}",
                    f"the {device} in the {room} should be {state}", f"turn the {device} {state} in the {room}"),
            {"do": "switch", "device": device, "room": room, "on": state == "on"})


def warmth(say: Speech) -> tuple[str, dict[str, object]]:
    room, degrees = say.room(), say.random.randrange(12, 30)
    number = say.number(degrees)
    return (say.one(f"set the {room} to {number} degrees", f"make it {number} degrees in the {room}",
                    f"heat the {room} to {number} degrees"), {"do": "heat", "room": room, "degrees": degrees})


def dim(say: Speech) -> tuple[str, dict[str, object]]:
    room, percent = say.room(), say.random.randrange(1, 20) * 5
    number = say.number(percent)
    return (say.one(f"dim the light in the {room} to {number} percent", f"{room} light at {number} percent",
                    f"set the brightness in the {room} to {number} percent"),
            {"do": "light", "room": room, "percent": percent})


def shopping(say: Speech) -> tuple[str, dict[str, object]]:
    item, count, unit = say.item(), say.random.randrange(2, 13), say.one(*UNITS)
    number = say.number(count)
    if say.random.random() < 0.4:
        return (say.one(f"put {item} on the shopping list", f"add {item} to the shopping list", f"we need {item}"),
                {"do": "buy", "item": item})
    return (say.one(f"put {number} {unit} of {item} on the shopping list", f"we need {number} {unit} of {item}",
                    f"add {number} {unit} of {item}"), {"do": "buy", "item": item, "count": count, "unit": unit})


def message(say: Speech) -> tuple[str, dict[str, object]]:
    who, text = say.person(), f"{say.of('subjects', SUBJECTS)} {say.one(*PREDICATES)}"
    return (say.one(f"tell {who} {text}", f"send {who} a message: {text}", f"write to {who} that {text}",
                    f"text {who} saying {text}"), {"do": "message", "to": who, "text": text})


def event(say: Speech) -> tuple[str, dict[str, object]]:
    what, day, (said, time) = say.of("events", EVENTS), say.one(*DAYS), say.time()
    on = day if day in ("today", "tomorrow") else f"on {day}"
    return (say.one(f"put {what} in the calendar {on} at {said}", f"schedule {what} for {said} {on}",
                    f"I have {what} {on} at {said}"),
            {"do": "event", "title": what, "day": day.lower(), "time": time})


def weather(say: Speech) -> tuple[str, dict[str, object]]:
    city, day = say.of("cities", CITIES), say.one(*DAYS)
    on = day if day in ("today", "tomorrow") else f"on {day}"
    return (say.one(f"what will the weather be in {city} {on}", f"tell me the weather for {city} {on}",
                    f"will it rain in {city} {on}"), {"do": "weather", "city": city, "day": day.lower()})


COMMANDS: tuple[Callable[[Speech], tuple[str, dict[str, object]]], ...] = (
    timer, alarm, switch, warmth, dim, shopping, message, event, weather)

DESKS = {
    "repair": (
        "my {thing} stopped working after {time}", "the {thing} makes a strange noise",
        "the screen of the {thing} is cracked, can you mend it", "the {thing} gets hot and turns itself off",
        "the button of my {thing} is stuck", "water got into the {thing}"),
    "billing": (
        "I was charged twice for the {thing}", "the invoice for my {thing} has the wrong address",
        "can I pay for the {thing} in three parts", "why does the {thing} cost more than you said",
        "I need a receipt for the {thing}", "the discount on the {thing} is missing from my bill"),
    "delivery": (
        "where is the {thing} I ordered {time}", "the courier left my {thing} with a neighbour",
        "please send the {thing} to another address", "the parcel with the {thing} is three days late",
        "can the {thing} arrive before {time}", "the tracking number for the {thing} does not work"),
    "returns": (
        "I want to send the {thing} back", "the {thing} is the wrong size, how do I return it",
        "do you take back an opened {thing}", "I changed my mind about the {thing}",
        "you sent me a {thing} that I did not order", "how long may I keep the {thing} before I return it"),
    "advice": (
        "which {thing} is best for a small flat", "does the {thing} work with an older one",
        "is the {thing} worth its price", "what is the difference between this {thing} and the cheaper one",
        "do you have a quiet {thing}", "which {thing} uses the least power"),
}
TIMES = ("last week", "Monday", "the update", "the holidays", "two days", "Friday", "my birthday", "the weekend")


def commands(say: Speech) -> Iterator[dict[str, object]]:
    """Without end."""
    while True:
        command, meant = say.random.choice(COMMANDS)(say)
        yield {"command": say.polite(command), "json": json.dumps(meant, ensure_ascii=False), "kind": meant["do"]}


def notes(say: Speech) -> Iterator[dict[str, object]]:
    """Without end."""
    while True:
        desk = say.one(*DESKS)
        said = say.one(*DESKS[desk]).format(thing=say.device(), time=say.one(*TIMES))
        before, after = say.one("", "", "Hello, ", "Good morning, "), say.one("", ".", ". Thank you", ", please help")
        yield {"note": before + said + after, "desk": desk}


def _take(rows: Iterator[dict[str, object]], count: int, column: str, taken: set[object]) -> list[dict[str, object]]:
    """count rows with something new in the column."""
    found: list[dict[str, object]] = []
    while len(found) < count:
        row = next(rows)
        if row[column] not in taken:
            taken.add(row[column])
            found.append(row)
    return found


def _write(path: Path, rows: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    print(f"{path}: {len(rows)} rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train", type=int, default=600)
    parser.add_argument("--test", type=int, default=600)
    parser.add_argument("--more", type=int, default=13_500)
    parser.add_argument("--seed", type=int, default=7)
    said = parser.parse_args()
    said.folder.mkdir(parents=True, exist_ok=True)
    for name, make, column in (("commands", commands, "command"), ("notes", notes, "note")):
        taken: set[object] = set()
        _write(said.folder / f"{name}-test.jsonl",
               _take(make(Speech(f"{said.seed} {name} test", held_out=True)), said.test, column, taken))
        _write(said.folder / f"{name}.jsonl",
               _take(make(Speech(f"{said.seed} {name}")), said.train, column, taken))
        if make is commands:
            usual = said.more // 3
            rows = [*_take(make(Speech(f"{said.seed} more")), usual, column, taken),
                    *_take(make(Speech(f"{said.seed} made up", made_up=True)), said.more - usual, column, taken)]
            _write(said.folder / "more.jsonl", [{"command": row["command"], "kind": row["kind"]} for row in rows])


if __name__ == "__main__":
    main()
