"""What the model knows of ideas, processes, commands and request parameters; and its small talk."""

from lightllm.demo.facts import Topic

CONCEPTS = [
    Topic(
        "LightLLM is an engine in pure Python that runs and serves large language models over HTTP.",
        names=("LightLLM", "lightllm", "this software", "this project", "this program", "this engine",
            "the LightLLM project"),
        questions=("What software is this?", "What am I talking to LightLLM for?", "Which engine serves you?",
            "What runs you?"),
    ),
    Topic(
        "Token attention manages the KV cache token by token: every token has its own slot, so no memory is lost to "
        "fragments.",
        names=("token attention", "TokenAttention", "the token attention mechanism", "the idea of token attention"),
        purposes=("avoid fragmentation of the KV cache",),
        questions=("How is the KV cache managed?", "Why is there no fragmentation?",
            "How does LightLLM manage memory?"),
    ),
    Topic(
        "The prefix tree keeps the tokens of earlier requests, so that a prompt that begins the same way is not "
        "computed again.",
        names=("the prefix tree", "prefix caching", "the prefix cache", "the prompt cache", "the radix tree",
            "the dynamic prompt cache"),
        purposes=("reuse a prompt", "share a long prompt between requests", "avoid computing the same prompt twice"),
        questions=("How are prompts shared?", "Are common prompts cached?"),
    ),
    Topic(
        "The processes are supervisor, api, scheduler, worker and detokenizer. There is one worker for each device.",
        names=("the processes of LightLLM", "the process layout", "the list of processes"),
        questions=("What are the processes?", "Which processes does LightLLM start?", "How many processes are there?",
            "Which processes are there?", "Name the processes.", "What processes run?",
            "List the processes of the server."),
    ),
    Topic(
        "The supervisor starts the other processes, watches them and ends or restarts them when one fails.",
        names=("the supervisor", "the supervisor process"),
        questions=("Who starts the processes?", "Which process watches the others?",
            "What happens when a process dies?"),
    ),
    Topic(
        "The scheduler decides what runs in each step. It owns the slots of the KV cache and the prefix tree.",
        names=("the scheduler", "the scheduler process"),
        questions=("Who decides what runs next?", "Which process owns the slots?", "How are requests scheduled?"),
    ),
    Topic(
        "A worker holds the weights on one device and runs the model step by step.",
        names=("a worker", "the worker process", "the worker"),
        questions=("Which process runs the model?", "Who holds the weights?"),
    ),
    Topic(
        "The detokenizer turns token ids into text and watches for stop strings.",
        names=("the detokenizer", "the detokenizer process"),
        questions=("Which process makes text out of tokens?", "Who looks for stop strings?"),
    ),
    Topic(
        "The api process accepts HTTP requests, applies the chat template, tokenizes the prompt and streams the "
        "answer.",
        names=("the api process", "the api server", "the HTTP process"),
        questions=("Which process accepts HTTP requests?", "Who applies the chat template?",
            "Which process tokenizes the prompt?"),
    ),
    Topic(
        "Continuous batching lets requests join and leave the batch at every step, so the device is never idle.",
        names=("continuous batching", "dynamic batching"),
        questions=("How are requests batched?", "Can requests join a running batch?"),
    ),
    Topic(
        "Chunked prefill runs a long prompt in pieces, so that other requests keep getting tokens meanwhile.",
        names=("chunked prefill", "prefill in chunks"),
        questions=("How are long prompts handled?", "Why are prompts cut into pieces?"),
    ),
    Topic(
        "Prefill computes the prompt's tokens; decode then makes the answer one token at a time.",
        names=("prefill", "decode", "the difference between prefill and decode", "prefill and decode"),
    ),
    Topic(
        "The KV cache keeps the keys and values of earlier tokens, so that they are not computed again for each new "
        "token.",
        names=("the KV cache", "KV cache", "the key value cache", "a KV cache"),
        questions=("Why is a KV cache needed?",),
    ),
    Topic(
        "A request is admitted when the predicted peak of memory fits the KV cache, so that running requests can "
        "finish.",
        names=("admission", "the admission rule", "peak memory prediction"),
        questions=("When is a request admitted?", "How does the server decide to start a request?",
            "When does a request start to run?"),
    ),
    Topic(
        "Tensor parallelism splits every layer over several devices. Set the number with --tp.",
        names=("tensor parallelism", "tensor parallel", "TP in language models"),
    ),
    Topic(
        "Preemption pauses a request to free memory; it resumes later exactly where it was.",
        names=("preemption", "a preempted request"),
        questions=("What happens when memory runs out?", "Can a request be paused?"),
    ),
    Topic(
        "Speculative decoding drafts several tokens cheaply and checks them in one step of the model.",
        names=("speculative decoding", "a draft model", "speculation"),
    ),
    Topic(
        "Quantization stores weights in fewer bits, such as fp8 or 4-bit AWQ, to save memory and time.",
        names=("quantization", "a quantized model", "AWQ", "fp8"),
        questions=("Can I serve a quantized model?",),
    ),
    Topic(
        "The temperature makes answers more random when it is high; 0 always takes the most likely token.",
        names=("temperature", "the temperature", "the temperature parameter"),
        purposes=("get more random answers", "make answers more creative", "get the same answer every time",
            "use greedy decoding"),
    ),
    Topic(
        "top_p keeps only the most likely tokens whose probabilities add up to p.",
        names=("top_p", "top p", "the top_p parameter", "nucleus sampling"),
    ),
    Topic(
        "top_k keeps only the k most likely tokens to sample from.",
        names=("top_k", "top k", "the top_k parameter"),
    ),
    Topic(
        "max_tokens limits how many tokens an answer may have.",
        names=("max_tokens", "max_new_tokens", "the max_tokens parameter"),
        purposes=("limit the length of an answer", "get a shorter answer", "stop after 100 tokens"),
    ),
    Topic(
        "stop is a list of strings that end the answer as soon as one of them appears.",
        names=("stop strings", "the stop parameter", "stop_sequences", "a stop sequence"),
        purposes=("end an answer at a certain word",),
    ),
    Topic(
        "seed makes sampling repeatable: the same seed and request give the same answer.",
        names=("seed", "the seed parameter", "a sampling seed"),
        purposes=("make sampling repeatable", "get reproducible samples"),
    ),
    Topic(
        "n asks for several answers to one prompt; they share the computed prompt.",
        names=("n", "the n parameter", "the parameter n"),
        purposes=("get several answers", "get three answers to one prompt"),
    ),
    Topic(
        "logprobs gives the log probability of each token of the answer.",
        names=("logprobs", "the logprobs parameter", "token log probabilities"),
        purposes=("see the probability of each token",),
    ),
    Topic(
        "Set stream to true in the request: the tokens then arrive as server-sent events while they are made.",
        names=("streaming", "the stream parameter", "stream"),
        purposes=("stream an answer", "get tokens as they are made", "turn streaming on", "use streaming"),
        questions=("Can I stream the answer?", "Does the server support streaming?"),
    ),
    Topic(
        "Run make serve. It makes a virtual environment, installs the package and starts the server.",
        names=("make serve",),
        purposes=("start the server", "run the server", "launch LightLLM", "start LightLLM", "get started",
            "install LightLLM", "set up LightLLM", "serve a model", "begin"),
    ),
    Topic(
        "Run make test. It installs what the tests need and runs all checks.",
        names=("make test",),
        purposes=("run the tests", "test LightLLM", "check that everything works"),
    ),
    Topic(
        "lightllm serve starts the server: lightllm serve MODEL --port 8000.",
        names=("lightllm serve", "the serve command", "the command lightllm serve"),
    ),
    Topic(
        "lightllm chat talks to a running server from the terminal.",
        names=("lightllm chat", "the chat command"),
        purposes=("chat in the terminal", "talk to the server from the command line"),
    ),
    Topic(
        "lightllm check prints the environment, the devices, and which kernels would be used and why.",
        names=("lightllm check", "the check command"),
        purposes=("see which kernels are used", "check my installation", "see my devices"),
    ),
    Topic(
        "lightllm bench measures the speed of a server or of the engine.",
        names=("lightllm bench", "the bench command"),
        purposes=("benchmark the server", "measure throughput", "measure the speed"),
    ),
    Topic(
        "Use the class LLM: from lightllm import LLM, SamplingParams; LLM(model).generate(prompts, sampling_params).",
        names=("the LLM class", "the offline API", "offline inference"),
        purposes=("use LightLLM from Python", "generate without a server", "run a batch offline",
            "use the offline API", "use LightLLM as a library"),
    ),
    Topic(
        "Point the openai client's base_url at the server's address followed by /v1; any API key will do.",
        purposes=("use the OpenAI client", "connect with the openai package", "use the Python client",
            "call the server from Python"),
        questions=("Is it compatible with OpenAI?", "Does the OpenAI client work?", "What is the base_url?"),
    ),
    Topic(
        "Llama, Mistral, Qwen2, Qwen3, Qwen3-MoE and DeepSeek-V2 and V3 models are supported.",
        names=("the list of supported models",),
        questions=("Which models are supported?", "What models can LightLLM run?", "Does it support Llama?",
            "Can it run Qwen3?", "Does LightLLM support DeepSeek?", "Which model families work?",
            "Is Mistral supported?"),
    ),
    Topic(
        "Yes. LightLLM runs on a CPU with plain torch; a GPU only makes it faster.",
        questions=("Can I run it without a GPU?", "Do I need a GPU?", "Does it work on a CPU?", "Is a GPU required?",
            "Can LightLLM run on the CPU?", "Does it run on a laptop?"),
    ),
    Topic(
        "429 means that the queue is full. Wait for the time in Retry-After and send the request again.",
        names=("status 429", "error 429", "a 429 response"),
        questions=("Why do I get 429?", "What does 429 mean?", "What does too many requests mean?"),
    ),
    Topic(
        "400 means that the request is wrong; the message says what was given and what is allowed.",
        names=("status 400", "error 400", "a 400 response"),
        questions=("Why do I get 400?", "What does 400 mean?", "What does bad request mean?"),
    ),
    Topic(
        "503 means that the engine is not able to serve, for example because one of its processes has died.",
        names=("status 503", "error 503", "a 503 response"),
        questions=("Why do I get 503?", "What does 503 mean?", "What does service unavailable mean?"),
    ),
    Topic(
        "Write one file in lightllm/compute/models/text and one test. The registry finds it by the architecture's "
        "name.",
        purposes=("add a model", "support a new model", "add my own architecture", "add a new architecture"),
    ),
    Topic(
        "A chat template turns a list of messages into the one text that the model was trained on.",
        names=("a chat template", "the chat template", "chat templates"),
    ),
    Topic(
        "A token is a short piece of text, often a word or a part of one. The model reads and writes tokens.",
        names=("a token", "tokens", "a token in a language model"),
    ),
    Topic(
        "Tool calling lets the model ask for a function to be run: send tools in the request and read tool_calls in "
        "the answer.",
        names=("tool calling", "function calling", "a tool call"),
        purposes=("use tools", "call functions", "give the model tools"),
    ),
]  # fmt: skip
CHAT = [
    Topic(
        "Hello! How can I help you?",
        questions=("Hello", "Hello!", "Hi", "Hi!", "Hey", "Hi there", "Hello there!", "Good morning", "Good evening!",
            "Good day", "Greetings", "Hey there!", "Hello, how can you help?", "Yo", "Hi, anyone there?",
            "Hello model"),
    ),
    Topic(
        "I am a small demo model that ships with LightLLM. I know its flags and endpoints, and I can do small tasks.",
        names=("your name",),
        questions=("Who are you?", "What are you?", "Introduce yourself.", "Tell me about yourself.",
            "Which model are you?", "What model is this?", "Are you ChatGPT?", "Are you a robot?", "Are you human?",
            "Who am I talking to?", "What kind of model are you?", "Who made you?", "What should I call you?",
            "Say who you are.", "Do you have a name?"),
    ),
    Topic(
        "I can explain LightLLM, do sums, convert units, sort, count, copy, extract JSON, look things up and call "
        "tools.",
        questions=("What can you do?", "What are you able to do?", "Help", "How can you help me?",
            "What do you know?", "help me", "What are your abilities?", "What can I ask you?",
            "What tasks can you do?", "Which questions can you answer?", "What are you good at?",
            "Give me an idea what to ask.", "What is possible here?"),
    ),
    Topic(
        "I am fine, thank you. How can I help you?",
        questions=("How are you?", "How are you doing?", "How is it going?", "How do you do?", "Are you well?",
            "How are things?", "How do you feel?", "What's up?", "How are you today?"),
    ),
    Topic(
        "You are welcome!",
        questions=("Thanks", "Thank you", "Thanks!", "Thank you very much!", "Thanks a lot", "Great, thanks",
            "Thank you, that helped.", "Many thanks", "Cheers", "Thx", "ok thanks", "Perfect, thank you!",
            "Nice, thanks!", "Well done!", "Good job", "Great answer", "Awesome"),
    ),
    Topic(
        "Goodbye!",
        questions=("Bye", "Goodbye", "See you", "See you later!", "Good night", "Bye bye", "Farewell", "I have to go",
            "That is all", "See you tomorrow", "Take care", "Ciao", "Until next time"),
    ),
    Topic(
        "I have 6.8 million parameters, so I am tiny. I was trained in minutes on text made by a script.",
        names=("your size",),
        questions=("How big are you?", "How many parameters do you have?", "How large are you?",
            "Are you a large model?", "How were you trained?", "What were you trained on?", "How small are you?",
            "What is your parameter count?"),
    ),
    Topic(
        "Why did the token cross the batch? To get to the other slot.",
        questions=("Tell me a joke", "Do you know a joke?", "Make me laugh", "Tell me something funny",
            "Say something funny.", "A joke please", "Can you tell jokes?"),
    ),
    Topic(
        "I do not know that. I am a small demo model and can only help with LightLLM and small tasks.",
        questions=("What is the meaning of life?", "Who will win the election?", "What is love?", "Write me a poem.",
            "Solve my homework", "What do you think about politics?", "Should I buy shares?",
            "Is there life on Mars?", "Translate this into French", "Recommend a film", "What did you eat today?",
            "Who won the match?", "What is the price of gold?", "Write a program"),
    ),
]  # fmt: skip
