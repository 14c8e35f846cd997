"""Questions about this software in words that no template makes: they are asked of the model and never taught."""

import re
from random import Random

from lightllm.demo.concepts import CHAT, CONCEPTS
from lightllm.demo.example import Example, Task, question
from lightllm.demo.facts import ENDPOINTS, FLAGS

# A question, and how the right answer begins.
QUESTIONS = [
    ("Port 8000 is already taken on my machine, what now?", "--port"),
    ("My GPU runs out of memory at the start. Which setting helps?", "--mem_fraction"),
    ("I've got four cards, how do I make use of all of them?", "--tp"),
    ("Where do I tell the server which checkpoint I want?", "--model_dir"),
    ("My colleague cannot connect from her laptop.", "--host"),
    ("Can prompts be kept from being shared among users?", "--disable_dynamic_prompt_cache"),
    ("What controls the size of prefill pieces?", "--chunked_prefill_size"),
    ("Is half precision available?", "--data_type"),
    ("How many requests can run simultaneously?", "--running_max_req_size"),
    ("What is the upper bound on prompt length?", "--max_req_total_len"),
    ("Could you clarify what --mem-fraction controls?", "--mem_fraction"),
    ("what's --tp used for exactly", "--tp"),
    ("Does --port change where the server listens?", "--port"),
    ("Give me details on --batch_max_tokens", "--batch_max_tokens"),
    ("I saw --max_total_token_num in the docs, meaning?", "--max_total_token_num"),
    ("Which URL tells me if everything is fine?", "/health"),
    ("Where does Prometheus get its numbers?", "/metrics"),
    ("I'd like to know how many tokens a sentence has.", "/tokens"),
    ("Which path returns the list of available models?", "/v1/models"),
    ("What URL does the OpenAI chat client post to?", "/v1/chat/completions"),
    ("what is returned by /token_load", "/token_load"),
    ("Could you explain the role of /generate_stream?", "/generate_stream"),
    ("How does token attention help with memory?", "Token attention"),
    ("What's the job of the scheduler?", "The scheduler"),
    ("Tell me what the detokenizer is responsible for.", "The detokenizer"),
    ("Which programs run when I start the server?", "The processes"),
    ("What exactly is LightLLM about?", "LightLLM is"),
    ("How do I launch the server quickly?", "Run make serve"),
    ("Can this be run on a machine with no graphics card?", "Yes. LightLLM runs on a CPU"),
    ("Is there a Python interface without HTTP?", "Use the class LLM"),
    ("Does prefix caching speed things up?", "The prefix tree"),
    ("What does continuous batching achieve?", "Continuous batching"),
    ("how do i get deterministic output", "The temperature"),
    ("Hi there, who am I speaking with?", "I am a small demo model that ships"),
    ("What sort of things could you do for me?", "I can explain LightLLM"),
    ("hello there, model", "Hello! How can I help you?"),
    ("thank you so much", "You are welcome!"),
    ("ok, bye then", "Goodbye!"),
    ("How are you feeling today?", "I am fine"),
    ("Which architectures can be served?", "Llama, Mistral"),
]


def ask_reworded(random: Random) -> Example:
    text, opening = random.choice(QUESTIONS)
    [answer] = [
        topic.answer for topic in FLAGS + ENDPOINTS + CONCEPTS + CHAT if re.match(rf"{opening}(?!\w)", topic.answer)
    ]
    return question(text, answer)


REWORDED = Task(ask_reworded, 0)
