"""Questions about this software and small talk, in many wordings; and a few facts about the world."""

from random import Random

from lightllm.demo.concepts import CHAT, CONCEPTS
from lightllm.demo.example import Example, Task, phrase, question
from lightllm.demo.facts import ENDPOINTS, FLAGS, Topic
from lightllm.demo.words import ADJECTIVES, ANIMALS, CAPITALS, NAMES, OBJECTS, VERBS

NAME_FORMS = [
    "What is {x}?", "What does {x} do?", "What is {x} for?", "Explain {x}.", "Tell me about {x}.",
    "How does {x} work?", "Describe {x}.", "What is the meaning of {x}?", "{x}?", "I do not understand {x}.",
    "Can you explain {x} to me?", "What is the purpose of {x}?", "Why would I use {x}?", "When do I need {x}?",
    "What do you know about {x}?", "Please explain {x}.", "What does {x} mean?", "How do I use {x}?",
    "Give me a short explanation of {x}.", "Define {x}.", "What happens with {x}?", "I want to know what {x} is.",
    "What can I do with {x}?", "Say something about {x}.", "What's {x}?", "What's {x} good for?", "Why is there {x}?",
    "Help me with {x}.", "What effect does {x} have?",
]  # fmt: skip
PURPOSE_FORMS = [
    "How do I {x}?", "How can I {x}?", "I want to {x}.", "What do I need to {x}?", "Is there a way to {x}?",
    "How to {x}?", "Can I {x}?", "What should I do to {x}?", "Tell me how to {x}.", "How would I {x}?",
    "I need to {x}.", "Show me how to {x}.", "What is the way to {x}?", "Explain how to {x}.", "I would like to {x}.",
    "How does one {x}?", "What is the best way to {x}?", "Help me {x}.", "Is it possible to {x}?",
]  # fmt: skip
FLAG_FORMS = [
    "Which flag do I use to {x}?", "Which option lets me {x}?", "What flag is there to {x}?",
    "Which setting lets me {x}?", "Which flag is needed to {x}?", "What option do I set to {x}?",
    "What is the flag to {x}?", "Which command line flag can {x}?",
]  # fmt: skip
ENDPOINT_FORMS = [
    "Which endpoint do I use to {x}?", "Which endpoint lets me {x}?", "What is the endpoint to {x}?",
    "Which URL do I call to {x}?", "Which route is there to {x}?", "What path do I call to {x}?",
]  # fmt: skip
CAPITAL_FORMS = [
    "What is the capital of {x}?", "Which city is the capital of {x}?", "Capital of {x}?", "Name the capital of {x}.",
    "Tell me the capital of {x}.",
]  # fmt: skip
UNKNOWN_FORMS = [
    "Who invented the {o}?", "Why does a {x} {v} the {o}?", "What does a {x} eat?", "Where does the {a} {x} live?",
    "Who is {n}?", "How heavy is a {x}?", "What do you think about the {o}?", "Do you like {n}?",
    "How old is the {a} {o}?", "Can a {x} {v} a {o}?", "How do I {v} a {o}?", "What is a {a} {o}?",
]  # fmt: skip
CONTEXTS = [
    "In LightLLM, {}", "About LightLLM: {}", "I use LightLLM. {}", "A question about the server: {}",
    "I have started the server. {}", "{} I am new here.", "{} Answer in one sentence.", "So, {}",
]  # fmt: skip
UNKNOWN_ANSWER = CHAT[-1].answer


def vary(random: Random, text: str) -> str:
    """At times with a word about what is meant, at times with a slip of the finger."""
    chance = random.random()
    if chance < 0.08:
        return random.choice(CONTEXTS).format(text)
    place = random.randrange(len(text))
    if chance > 0.92 and text[place].isalpha():
        return text[:place] + random.choice(["", text[place] * 2]) + text[place + 1 :]
    return text


def ask_about(random: Random, topic: Topic, purpose_forms: list[str]) -> Example:
    """One of the topic's questions, or one of its names or purposes in one of the forms."""
    kinds = [kind for kind in ("names", "purposes", "questions") if getattr(topic, kind)]
    kind = random.choice(kinds)
    subject = random.choice(getattr(topic, kind))
    forms = {"names": NAME_FORMS, "purposes": purpose_forms, "questions": ["{x}"]}[kind]
    form = random.choice(forms)
    text = phrase(random, [form], x=subject)
    # Of questions that stand for themselves the plain wording is always learned; only varied ones are held out.
    key = f"{form} {subject}" if kind != "questions" else "plain" if text == subject else text
    return question(vary(random, text), topic.answer, key)


def ask_about_software(random: Random) -> Example:
    group = random.random()
    if group < 0.35:
        return ask_about(random, random.choice(FLAGS), PURPOSE_FORMS + FLAG_FORMS)
    if group < 0.55:
        return ask_about(random, random.choice(ENDPOINTS), PURPOSE_FORMS + ENDPOINT_FORMS)
    return ask_about(random, random.choice(CONCEPTS), PURPOSE_FORMS)


def chat(random: Random) -> Example:
    return ask_about(random, random.choice(CHAT), PURPOSE_FORMS)


def ask_capital(random: Random) -> Example:
    country, capital = random.choice(CAPITALS)
    form = random.choice(CAPITAL_FORMS)
    text = phrase(random, [form], x=country)
    subject = country[0].upper() + country[1:]
    return question(text, f"The capital of {subject} is {capital}.".replace("of The ", "of the "), f"{form} {country}")


def ask_unknown(random: Random) -> Example:
    text = phrase(
        random,
        UNKNOWN_FORMS,
        o=random.choice(OBJECTS),
        x=random.choice(ANIMALS),
        v=random.choice(VERBS),
        a=random.choice(ADJECTIVES),
        n=random.choice(NAMES),
    )
    return question(text, UNKNOWN_ANSWER)


TASKS = {
    "software": Task(ask_about_software, 9),
    "small_talk": Task(chat, 2),
    "capitals": Task(ask_capital, 1),
    "unknown": Task(ask_unknown, 0.5),
}
