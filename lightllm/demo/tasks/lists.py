"""Sorting, counting, reversing and choosing among a few numbers or words."""

from random import Random

from lightllm.demo.example import Example, Task, phrase, question
from lightllm.demo.words import ANIMALS, FRUITS, OBJECTS, WORDS

UPWARD = [
    "Sort these numbers: {x}", "Sort in ascending order: {x}", "Put these numbers in order: {x}", "Sort {x}",
    "Sort the numbers {x} from smallest to largest.", "Order these from small to large: {x}",
]  # fmt: skip
DOWNWARD = [
    "Sort in descending order: {x}", "Sort these numbers from largest to smallest: {x}",
    "Order these from large to small: {x}", "Sort {x} in descending order.",
]  # fmt: skip
ALPHABETIC = [
    "Sort these words: {x}", "Sort alphabetically: {x}", "Put these words in alphabetical order: {x}",
    "Order these words by the alphabet: {x}", "Sort these names: {x}",
]  # fmt: skip
REVERSE = ["Reverse this list: {x}", "Write this list backwards: {x}", "Give me this list in reverse order: {x}"]
COUNT = [
    "How many words are in this list: {x}?", "Count these items: {x}", "How many items are there: {x}?",
    "How many things are in this list? {x}", "Count the entries: {x}",
]  # fmt: skip
OCCURRENCES = [
    'How many times does "{w}" occur in this list: {x}?', 'Count the word "{w}" in: {x}',
    'How often does "{w}" appear here: {x}?',
]  # fmt: skip
LARGEST = [
    "Which number is the largest: {x}?", "What is the maximum of {x}?", "Find the largest of {x}.",
    "Which of these is biggest: {x}?",
]  # fmt: skip
SMALLEST = [
    "Which number is the smallest: {x}?", "What is the minimum of {x}?", "Find the smallest of {x}.",
    "Which of these is the least: {x}?",
]  # fmt: skip
ORDINALS = ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth"]
PICK = [
    "What is the {n} item of this list: {x}?", "Which word is {n} in this list: {x}?",
    "Give me the {n} entry of: {x}",
]  # fmt: skip
EVEN = ["Is {n} even?", "Is {n} an even number?", "Answer yes or no: is {n} even?"]
ODD = ["Is {n} odd?", "Is {n} an odd number?", "Answer yes or no: is {n} odd?"]


def some_numbers(random: Random, least: int, most: int) -> list[int]:
    return random.sample(range(random.choice([20, 100, 1000])), random.randint(least, most))


def some_words(random: Random, least: int, most: int) -> list[str]:
    source = random.choice([WORDS, OBJECTS, ANIMALS, FRUITS])
    return random.sample(source, random.randint(least, min(most, len(source))))


def joined(items: list) -> str:
    return ", ".join(map(str, items))


def sort_numbers(random: Random) -> Example:
    numbers = some_numbers(random, 2, 8)
    downward = random.random() < 0.4
    text = phrase(random, DOWNWARD if downward else UPWARD, x=joined(numbers))
    return question(text, joined(sorted(numbers, reverse=downward)), f"sort {numbers}")


def sort_words(random: Random) -> Example:
    words = some_words(random, 2, 7)
    return question(phrase(random, ALPHABETIC, x=joined(words)), joined(sorted(words)), f"sort {words}")


def reverse(random: Random) -> Example:
    items = some_numbers(random, 2, 9) if random.random() < 0.5 else some_words(random, 2, 9)
    return question(phrase(random, REVERSE, x=joined(items)), joined(items[::-1]), f"reverse {items}")


def count(random: Random) -> Example:
    if random.random() < 0.5:
        items = some_words(random, 2, 12)
        return question(phrase(random, COUNT, x=joined(items)), str(len(items)), f"count {items}")
    kinds = some_words(random, 2, 4)
    items = random.choices(kinds, k=random.randint(3, 12))
    word = random.choice(kinds)
    return question(
        phrase(random, OCCURRENCES, x=joined(items), w=word), str(items.count(word)), f"count {word} {items}"
    )


def choose(random: Random) -> Example:
    """The largest, the smallest or the so-manyth."""
    kind = random.randrange(3)
    if kind == 2:
        items = some_words(random, 3, 8)
        place = random.randrange(len(items))
        return question(phrase(random, PICK, n=ORDINALS[place], x=joined(items)), items[place], f"item {place} {items}")
    numbers = some_numbers(random, 2, 8)
    forms, answer = [(LARGEST, max(numbers)), (SMALLEST, min(numbers))][kind]
    return question(phrase(random, forms, x=joined(numbers)), str(answer), f"choose {answer} {numbers}")


def judge_parity(random: Random) -> Example:
    number, is_even = random.randint(0, 9999), random.random() < 0.5
    text = phrase(random, EVEN if is_even else ODD, n=number)
    return question(text, "yes" if (number % 2 == 0) == is_even else "no", str(number))


TASKS = {
    "sorting_numbers": Task(sort_numbers, 4),
    "sorting_words": Task(sort_words, 4),
    "reversing": Task(reverse, 2),
    "counting": Task(count, 4),
    "choosing": Task(choose, 3),
    "yes_or_no": Task(judge_parity, 0.5),
}
