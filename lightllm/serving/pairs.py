"""Two texts to be compared, as the prompts whose vectors tell how well they match."""

from lightllm.base.errors import RequestError
from lightllm.base.task import Task
from lightllm.serving.text.chat_template import ChatTemplate
from lightllm.serving.text.tokenizer import TextTokenizer

# What models are asked that answer with yes or no, in the words of github.com/QwenLM/Qwen3-Embedding, whose
# checkpoints have no template for it.
_JUDGE = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
_INSTRUCT = "Given a web search query, retrieve relevant passages that answer the query"
_MARKS = "\ue000query\ue001", "\ue000document\ue001"


class PairPrompts:
    """Prompts for one model. Embeddings are of each text; classifiers see both at once.

    A classifier's texts go into its chat template if that is made for a query and a document (messages of these roles);
    without one the tokenizer puts them together, or they are told to a model that answers as it chats.
    """

    def __init__(self, task: Task, tokenizer: TextTokenizer, template: ChatTemplate | None):
        self._task, self._tokenizer, self._template = task, tokenizer, template
        self._for_pairs = template if task.kind == "classify" and template and _is_for_pairs(template) else None

    def of(self, query: str, document: str, instruct: str | None = None) -> list[list[int]]:
        """Token ids of one prompt, or of two. Raises RequestError for a model that does not compare texts, and for an
        instruction to one that takes none."""
        task, encode = self._task, self._tokenizer.encode
        if task.kind != "embed" and (task.kind != "classify" or task.width > 1):
            labels = f" with {task.width} labels" if task.kind == "classify" else ""
            raise RequestError(
                f"the model {task.name}{labels}; to compare texts takes an embedding model or a classifier with one "
                "label",
                param="model",
            )
        if self._for_pairs is not None:
            text = _by_roles(self._for_pairs, query, document, instruct)
            return [encode(text, add_special_tokens=False)]
        if task.answers:
            return [encode(self._asked(query, document, instruct), add_special_tokens=False)]
        if instruct is not None:
            raise RequestError(
                f"the model {task.name} without a chat template for a query and a document; leave instruct out",
                param="instruct",
            )
        if task.kind == "embed":
            return [encode(text, add_special_tokens=True) for text in (query, document)]
        return [self._tokenizer.encode_pair(query, document)]

    def _asked(self, query: str, document: str, instruct: str | None) -> str:
        """The question as a conversation, where the next token is the answer."""
        if self._template is None:
            raise RequestError(
                "the checkpoint has no chat template to ask its model with; start the server with --chat_template",
                param="model",
            )
        asked = f"<Instruct>: {instruct or _INSTRUCT}\n<Query>: {query}\n<Document>: {document}"
        thinks = self._template.knows("enable_thinking", has_tools=False)
        return self._template.render(
            [{"role": "system", "content": _JUDGE}, {"role": "user", "content": asked}],
            variables={"enable_thinking": False} if thinks else None,
        )


def _is_for_pairs(template: ChatTemplate) -> bool:
    try:
        text = _by_roles(template, *_MARKS, None)
    except RequestError:
        return False
    return template.mentions("query", "document") and all(mark in text for mark in _MARKS)


def _by_roles(template: ChatTemplate, query: str, document: str, instruct: str | None) -> str:
    messages = [{"role": "query", "content": query}, {"role": "document", "content": document}]
    if instruct is None:
        return template.render(messages)
    if template.knows("instruct", has_tools=False):
        return template.render(messages, variables={"instruct": instruct})
    if not template.mentions("system"):
        raise RequestError("the model's chat template takes no instruction", param="instruct")
    return template.render([{"role": "system", "content": instruct}, *messages])
