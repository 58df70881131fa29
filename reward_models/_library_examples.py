"""Rows with good answers for the modules dialogue, controlled, reasoning and augmentation: what their rewards expect.

Written for this project. A check runs every reward on them: the answers must score high, and spoiled ones lower.
"""

from __future__ import annotations

import json
from typing import Any


def _chat(*texts: str) -> list[dict[str, str]]:
    """A conversation that the user opens."""
    return [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]


DIALOGUE: list[dict[str, Any]] = [
    {
        "prompt": _chat("I just adopted a puppy and she chews on all my shoes. What can I do?"),
        "completion": "Puppies chew when they are bored or teething, so give her a rubber toy and put the shoes in a "
        "closet for a while. How old is she?",
    },
    {
        "prompt": _chat(
            "My sister is getting married in June.",
            "How lovely! Are you helping with the wedding?",
            "Yes, I have to give a speech and I'm terrified of it.",
        ),
        "completion": "A short speech with one funny story about your sister works best. Practice it aloud a few "
        "times and the fear will fade. Do you have a story in mind?",
    },
    {
        "prompt": _chat("Can you recommend a good book about the ocean?"),
        "completion": "Try The Sea Around Us by Rachel Carson. It describes the ocean with the care of a scientist "
        "and reads like a poem. Do you usually enjoy nature books?",
    },
    {
        "prompt": _chat("I failed my driving test this morning and I feel awful."),
        "completion": "I'm sorry to hear that. Many good drivers failed their first test, and you can book another "
        "one soon. Which part went wrong for you?",
    },
    {
        "prompt": _chat(
            "What should I cook tonight? I have eggs, spinach and some cheese.",
            "You could make an omelette with the spinach.",
            "I had that yesterday. Anything else with the cheese?",
        ),
        "completion": "Then bake a quiche: mix the eggs with cream, add the greens and plenty of cheese, and leave it "
        "in the oven for half an hour. Do you have flour for a crust?",
    },
    {
        "prompt": _chat("My laptop gets very hot when I watch videos. Is that normal?"),
        "completion": "A warm laptop is normal, but a very hot one often has a dusty fan. Clean the vents and keep it "
        "on a hard table. Does the fan sound louder than it used to?",
    },
    {
        "prompt": "User: We are moving to Lisbon next spring and know nobody there.\n"
        "Assistant: That is a big step! Do you speak some Portuguese?\n"
        "User: Not a word. How do people make friends in a new city?",
        "completion": "A language class is a good start, since everybody there wants to meet people too. In a new "
        "city, sports clubs and neighbors help as well. What do you like to do at weekends?",
    },
    {
        "prompt": _chat("I can't sleep because my neighbors play loud music every night."),
        "completion": "That sounds exhausting. Knock on their door in the afternoon and tell them kindly how the "
        "music keeps you awake; many neighbors don't know how thin the walls are. Have you met them before?",
    },
    {
        "prompt": _chat("Do you think I should learn the guitar or the piano first?"),
        "completion": "The piano shows you how harmony works, while a guitar is cheaper and easy to carry to friends. "
        "If you want to sing along, choose the guitar. Which songs would you love to play?",
    },
    {
        "prompt": _chat("My tomato plants have yellow leaves. Am I giving them too much water?"),
        "completion": "Too much water is the usual reason for yellow leaves. Let the soil dry before you pour again, "
        "and check that the pots drain well. Are the lower leaves the worst?",
    },
]


def _controlled(prompt: str, completion: str, **asked: Any) -> dict[str, Any]:
    columns = ("sentiment", "keywords", "words", "sentences", "instruction_id_list", "kwargs")
    return {"prompt": _chat(prompt), "completion": completion, **{name: asked.get(name) for name in columns}}


CONTROLLED: list[dict[str, Any]] = [
    _controlled(
        "Write a positive review of a small cafe in two sentences.",
        "The owner greeted us with a warm smile and the best almond cake in town. We loved the quiet garden behind "
        "the house and will happily come back.",
        sentiment="positive",
        sentences=2,
    ),
    _controlled(
        "Write one angry sentence about a late train. Use the words platform and refund.",
        "The train was two hours late, the platform was a miserable mess, and the rude clerk refused to discuss a "
        "refund.",
        sentiment="negative",
        keywords=["platform", "refund"],
        sentences=1,
    ),
    _controlled(
        "Describe how tea is made, in about 30 words and a neutral tone.",
        "Boil some water and pour it over the leaves in a pot. Leave them for three or four minutes, then take the "
        "leaves out and serve the tea in a cup.",
        sentiment="neutral",
        words=30,
    ),
    _controlled(
        "Name what a hiker should pack. Use exactly three bullet points and no commas.",
        "* A map of the whole valley\n* Two bottles of water and some bread\n* A warm jacket for the evening",
        instruction_id_list=["detectable_format:number_bullet_lists", "punctuation:no_comma"],
        kwargs=[{"num_bullets": 3}, {}],
    ),
    _controlled(
        "Explain why bees matter. Mention pollen at least twice and finish with: Plant a flower today.",
        "Bees carry pollen from one flower to the next while they look for food. Without that pollen many fruits "
        "would never grow, and farmers would have far less to sell. Plant a flower today.",
        instruction_id_list=["keywords:frequency", "startend:end_checker"],
        kwargs=[
            {"keyword": "pollen", "frequency": 2, "relation": "at least"},
            {"end_phrase": "Plant a flower today."},
        ],
    ),
    _controlled(
        "Write a note to a neighbor about a lost cat, in lower case only, with fewer than 40 words.",
        "our grey cat has been missing since monday and may be hiding in your garage. please have a look behind the "
        "boxes and call us if you see her.",
        instruction_id_list=["change_case:english_lowercase", "length_constraints:number_words"],
        kwargs=[{}, {"num_words": 40, "relation": "less than"}],
    ),
    _controlled(
        "Give a title in double angular brackets and then two sentences about winter, with the words snow and fire.",
        "<<A Quiet Winter>>\nThe snow lay deep on the fields and nobody was out on the road. We sat by the fire and "
        "read old letters until it was dark.",
        keywords=["snow", "fire"],
        instruction_id_list=["detectable_format:title"],
        kwargs=[{}],
    ),
    _controlled(
        "Write a negative comment on a new phone in about 25 words. Use battery.",
        "I hate this phone: the battery is terrible, the screen broke within a week, and the awful service made us "
        "wait for a month without help.",
        sentiment="negative",
        keywords=["battery"],
        words=25,
    ),
    _controlled(
        "Thank a colleague for help with a report. Use deadline and figures, and do not use the word very.",
        "Thank you for your kind help with the report on Friday. Your careful figures were excellent, and without you "
        "we would not have met the deadline.",
        sentiment="positive",
        keywords=["deadline", "figures"],
        instruction_id_list=["keywords:forbidden_words"],
        kwargs=[{"forbidden_words": ["very"]}],
    ),
    _controlled(
        "Put the whole answer in double quotation marks: what did the captain tell the crew? Use storm.",
        '"We will sail before the storm comes in, so check the ropes and get some sleep while you can."',
        keywords=["storm"],
        instruction_id_list=["startend:quotation"],
        kwargs=[{}],
    ),
]


def _reasoning(prompt: str, completion: str, **given: Any) -> dict[str, Any]:
    columns = ("answer", "choices", "entry")
    return {"prompt": _chat(prompt), "completion": completion, **{name: given.get(name) for name in columns}}


def _sum(question: str, answer: str, expression: str) -> str:
    metadata = {"source_dataset": "chain_sum", "source_index": 0, "expression": expression}
    return json.dumps({"question": question, "answer": answer, "metadata": metadata})


REASONING: list[dict[str, Any]] = [
    _reasoning(
        "A farmer has 12 hens and each lays 5 eggs a week. How many eggs does he get in 4 weeks?",
        "The hens lay 12 * 5 = 60 eggs in one week. In 4 weeks that makes 60 * 4 = 240 eggs.\n#### 240",
        answer="240",
    ),
    _reasoning(
        "Solve for x: 3x - 7 = 11.",
        r"Adding 7 to both sides gives 3x = 18. Dividing by 3 leaves x = 6, so the answer is \boxed{6}.",
        answer="6",
    ),
    _reasoning(
        "What is the probability of rolling an even number greater than 2 with one die?",
        r"The numbers that fit are 4 and 6, which is two of six sides. The probability is \boxed{\frac{1}{3}}.",
        answer="1/3",
    ),
    _reasoning(
        "Expand (x + 2)(x - 5).",
        r"Multiplying each term gives x^2 - 5x + 2x - 10, and together that is \boxed{x^2 - 3x - 10}.",
        answer="x^2-3x-10",
    ),
    _reasoning(
        "A coat costs 80 dollars and is reduced by 15 percent. What does it cost now?",
        "Fifteen percent of 80 is 12. Taking that off leaves 80 - 12 = 68 dollars. The answer is $68.",
        answer="68",
    ),
    _reasoning(
        "Where would you keep milk so that it stays fresh?\nA. oven\nB. refrigerator\nC. bookshelf\nD. garden",
        "Milk spoils when it is warm, and only one of these places is cold. The answer is B.",
        answer="B",
        choices=["oven", "refrigerator", "bookshelf", "garden"],
    ),
    _reasoning(
        "What do people use to cut paper?\nA. spoon\nB. pillow\nC. scissors\nD. candle",
        "To cut something you need a sharp edge, which a spoon or a pillow lacks. The correct answer is (C) scissors.",
        answer="C",
        choices=["spoon", "pillow", "scissors", "candle"],
    ),
    _reasoning(
        "The ground is wet in the morning although nobody watered it. What happened most likely?\n"
        "A. It rained at night.\nB. The sun shone.\nC. A bird sang.\nD. The clock stopped.",
        "Water must have come from somewhere, and neither sun nor a bird brings any. The answer is A.",
        answer="A",
        choices=["It rained at night.", "The sun shone.", "A bird sang.", "The clock stopped."],
    ),
    _reasoning(
        "State the final answer to the following arithmetic problem: 57 + 87 + 70 =",
        "First 57 + 87 = 144, and then 144 + 70 = 214 in the end.\n<answer>214</answer>",
        entry=_sum("57 + 87 + 70 =", "214", "57 + 87 + 70"),
    ),
    _reasoning(
        "State the final answer to the following arithmetic problem: 903 - 15 + 2 =",
        "Taking 15 from 903 leaves 888, and adding 2 makes 890 as the result.\n<answer>890</answer>",
        entry=_sum("903 - 15 + 2 =", "890", "903 - 15 + 2"),
    ),
]

_TOPICS = [
    {"text": text, "label": label}
    for label, texts in {
        "sports": (
            "The team scored twice in the second half and won the cup.",
            "Our goalkeeper saved a penalty in the last minute of the match.",
            "She ran the marathon in less than three hours and took the medal.",
            "The coach praised the players after a hard game at the stadium.",
            "The club lost the final by one goal.",
            "Thousands of fans watched the tennis player win the championship.",
        ),
        "cooking": (
            "Chop the onions and fry them in butter until they are brown.",
            "Add salt, pepper and cream, and simmer the soup for ten minutes.",
            "Knead the dough and let it rest before you bake the bread.",
            "The recipe needs two eggs, flour and a cup of sugar.",
            "Roast the chicken in the oven with garlic and lemon.",
            "Stir the sauce slowly and serve it with fresh pasta.",
        ),
    }.items()
    for text in texts
]


def _augmented(label: str, seed: str, completion: str, others: list[str], topics: bool = False) -> dict[str, Any]:
    prompt = f"Write another sentence about the same thing with the label {label}: {seed}"
    columns = {"seed": seed, "label": label, "others": others, "labeled": _TOPICS if topics else None}
    return {"prompt": _chat(prompt), "completion": completion, **columns}


AUGMENTATION: list[dict[str, Any]] = [
    _augmented(
        "positive",
        "The hotel room was clean and the staff were wonderful.",
        "I loved how friendly everybody at the hotel was, and our room looked great every day.",
        ["What a great hotel, with kind people at the desk!"],
    ),
    _augmented(
        "negative",
        "The movie was boring and far too long.",
        "I almost fell asleep during this terrible movie because nothing happened for an hour.",
        ["A dull and painfully slow film."],
    ),
    _augmented(
        "positive",
        "This coffee machine makes delicious espresso in a minute.",
        "I am so happy with the machine, for it gives me a perfect coffee before work.",
        ["Great espresso without any fuss, and so fast."],
    ),
    _augmented(
        "negative",
        "My order arrived late and two of the plates were broken.",
        "I am angry, because the plates came in pieces and nobody answered when I complained about my order.",
        ["Damaged goods after a long wait: a bad shop."],
    ),
    _augmented(
        "negative",
        "The battery of this phone dies after three hours.",
        "It is a bad phone with a weak battery that fails me by noon, which is really annoying.",
        ["Terrible battery life, do not buy it."],
    ),
    _augmented(
        "positive",
        "Our guide knew everything about the castle and told funny stories.",
        "We had a fantastic tour of the castle, and the guide made all of us laugh.",
        ["The best guide we ever had, so clever and kind."],
    ),
    _augmented(
        "neutral",
        "The library opens at nine and closes at six on weekdays.",
        "On weekdays you can visit the library from nine in the morning until the evening.",
        ["Hours of the library are from nine to six."],
    ),
    _augmented(
        "neutral",
        "The bus to the airport leaves from platform four.",
        "Go to the fourth platform of the station, where the bus to the airport waits.",
        ["Airport passengers leave the station by bus."],
    ),
    _augmented(
        "sports",
        "The striker scored a goal in the last minute.",
        "With only seconds left, a late goal by the young striker won the match for the team.",
        ["The forward hit the net at the very end."],
        topics=True,
    ),
    _augmented(
        "cooking",
        "Bake the bread in a hot oven for forty minutes.",
        "After the dough has rested, put your bread into the oven and wait until the crust is brown.",
        ["Forty minutes of strong heat make a good loaf."],
        topics=True,
    ),
]
