"""Two texts become the prompts that their model was made for."""

import pytest

from lightllm.base.errors import RequestError
from lightllm.base.task import Task
from lightllm.serving.pairs import PairPrompts
from lightllm.serving.text.chat_template import ChatTemplate
from lightllm.serving.text.tokenizer import TextTokenizer
from tests.serving.text.tokenizers_for_tests import byte_level

TOKENIZER = TextTokenizer(byte_level(), {})
ONE_LABEL, YES_OR_NO = Task("classify", 1), Task("classify", 1, answers=(3, 4))
CHAT = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
)
BY_PLACE = "{{ instruct | default('match') }} <Query> {{ messages[0].content }} <Document> {{ messages[1].content }}"
BY_ROLE = "{% for role in ['system', 'query', 'document'] %}{% for m in messages if m.role == role %}[{{ m.content }}]{% endfor %}{% endfor %}"  # noqa: E501
WITHOUT_SYSTEM = "{% for m in messages %}[{{ m.role }} {{ m.content }}]{% endfor %}{# query, document #}"
ASKED = """<|im_start|>system
Judge whether the Document meets the requirements based on the Query and the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>
<|im_start|>user
<Instruct>: Given a web search query, retrieve relevant passages that answer the query
<Query>: q
<Document>: d<|im_end|>
<|im_start|>assistant
<think>

</think>

"""  # noqa: E501


def prompts(task: Task, source: str | None = None, instruct: str | None = None) -> list[str]:
    template = None if source is None else ChatTemplate({"default": source}, {})
    return [TOKENIZER.decode(one) for one in PairPrompts(task, TOKENIZER, template).of("q", "d", instruct)]


def test_embeddings_are_of_each_text_whatever_the_template():
    assert prompts(Task("embed", 8)) == prompts(Task("embed", 8), BY_ROLE) == ["q", "d"]


def test_a_classifier_sees_both_as_its_tokenizer_joins_them():
    assert prompts(ONE_LABEL) == prompts(ONE_LABEL, CHAT) == ["qd"]


@pytest.mark.parametrize("task", [ONE_LABEL, YES_OR_NO])
def test_a_template_for_pairs_is_used(task):
    assert prompts(task, BY_PLACE) == ["match <Query> q <Document> d"]
    assert prompts(task, BY_PLACE, "i") == ["i <Query> q <Document> d"]
    assert prompts(task, BY_ROLE) == ["[q][d]"]
    assert prompts(task, BY_ROLE, "i") == ["[i][q][d]"]


def test_a_model_that_answers_is_asked_as_it_was_trained():
    assert prompts(YES_OR_NO, CHAT) == [ASKED]
    [other] = prompts(YES_OR_NO, CHAT, "Find rhymes")
    assert other == ASKED.replace("Given a web search query, retrieve relevant passages that answer the query", "Find rhymes")  # fmt: skip  # noqa: E501


@pytest.mark.parametrize(
    ("task", "source", "instruct", "message"),
    [
        (Task("reward", 1), None, None, "is a reward model; to compare texts takes"),
        (Task("classify", 3), None, None, "is a classifier with 3 labels"),
        (YES_OR_NO, None, None, "no chat template to ask its model with; start the server with --chat_template"),
        (ONE_LABEL, CHAT, "i", "without a chat template for a query and a document"),
        (Task("embed", 8), BY_ROLE, "i", "is an embedding model without a chat template"),
        (ONE_LABEL, WITHOUT_SYSTEM, "i", "the model's chat template takes no instruction"),
    ],
)
def test_what_cannot_be_is_refused(task, source, instruct, message):
    with pytest.raises(RequestError, match=message):
        prompts(task, source, instruct)
