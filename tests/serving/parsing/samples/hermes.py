from tests.serving.parsing.samples import Sample

PARIS = ("get_weather", {"city": "Paris"})
CALL = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>'

SAMPLES = {
    "one call": Sample(CALL, (PARIS,)),
    "no call": Sample("  Just text.\n", content="  Just text.\n"),
    "several calls": Sample(
        CALL + '\n<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>', (PARIS, ("get_time", {}))
    ),
    "text around": Sample(f"Let me look.\n\n{CALL}\n{CALL}\nDone.\n", (PARIS, PARIS), "Let me look.\n\nDone.\n"),
    "text between": Sample(f"One\n{CALL} two {CALL}", (PARIS, PARIS), "One\ntwo"),
    "unicode": Sample(
        '<tool_call>{"name": "get_weather", "arguments": {"city": "Zürich 世界 👩‍👩‍👧‍👦 \\u00e9"}}</tool_call>',
        (("get_weather", {"city": "Zürich 世界 👩‍👩‍👧‍👦 é"}),),
    ),
    "nested braces": Sample(
        '<tool_call>{"name": "get_weather", "arguments": {"details": {"a": [{"b": {}}, "}{]["]}}}</tool_call>',
        (("get_weather", {"details": {"a": [{"b": {}}, "}{]["]}}),),
    ),
    "quotes and escapes": Sample(
        '<tool_call>{"name": "run", "arguments": {"code": "print(\\"a\\\\\\\\b\\\\n{\\")\\n\\\\"}}</tool_call>',
        (("run", {"code": 'print("a\\\\b\\n{")\n\\'}),),
    ),
    "the end marker inside a string": Sample(
        '<tool_call>{"name": "run", "arguments": {"code": "say </tool_call> <tool_call>{"}}</tool_call> ok',
        (("run", {"code": "say </tool_call> <tool_call>{"}),),
        "ok",
    ),
    "empty arguments": Sample('<tool_call>{"name": "get_time", "arguments": {}}</tool_call>', (("get_time", "{}"),)),
    "no arguments": Sample('<tool_call>{"name": "get_time"}</tool_call>', (("get_time", "{}"),)),
    "null for arguments": Sample(
        '<tool_call>{"name": "get_time", "arguments": null}</tool_call>', (("get_time", "{}"),)
    ),
    "arguments first": Sample(
        '<tool_call>{"arguments": {"city": "Paris"}, "name": "get_weather"}</tool_call>', (PARIS,)
    ),
    "arguments as a string": Sample(
        '<tool_call>{"name": "get_weather", "arguments": "{\\"city\\": \\"Paris\\"}"}</tool_call>', (PARIS,)
    ),
    "other members": Sample(
        '<tool_call>{"id": 7, "type": "function", "x": [1, "}"], "name": "get_weather", '
        '"arguments": {"city": "Paris"}, "more": {"name": "no"}}</tool_call>',
        (PARIS,),
    ),
    "one level down": Sample(
        '<tool_call>{"type": "function", "function": {"name": "get_weather", "arguments": {"city": "Paris"}}}'
        "</tool_call>",
        (PARIS,),
    ),
    "a tool that is not offered": Sample(
        '<tool_call>{"name": "unheard_of", "arguments": {"a": 1}}</tool_call>', (("unheard_of", {"a": 1}),)
    ),
    "several calls in one pair of tags": Sample(
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n{"name": "get_time"}\n</tool_call>',
        (PARIS, ("get_time", {})),
    ),
    "no end tag": Sample(CALL.removesuffix("</tool_call>") + CALL, (PARIS, PARIS)),
    "a brace too many": Sample(CALL.replace("}}", "}}}"), (PARIS,), "}"),
    "the end tag where none is due": Sample("a </tool_call> b", content="a </tool_call> b"),
    "tags that are talked about": Sample(
        "Calls stand in <tool_call> and </tool_call>.", content="Calls stand in <tool_call> and </tool_call>."
    ),
    "cut in the name": Sample('<tool_call>\n{"name": "get_we', content='<tool_call>\n{"name": "get_we'),
    "cut in the arguments": Sample(
        '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Pa', (("get_weather", '{"city": "Pa'),)
    ),
    "cut in an escape": Sample('<tool_call>{"name": "run", "arguments": {"code": "a\\', (("run", '{"code": "a\\'),)),
    "cut in the opening tag": Sample("Well <tool_ca", content="Well <tool_ca"),
    "cut in the end tag": Sample(CALL[:-3], (PARIS,), "</tool_ca"),
    "arguments that are wrong": Sample(
        '<tool_call>{"name": "run", "arguments": {\'code\': x, }}</tool_call>', (("run", "{'code': x, }"),)
    ),
    "arguments without an end": Sample(
        '<tool_call>{"name": "run", "arguments": {"code": [1, 2</tool_call> Sorry.',
        (("run", '{"code": [1, 2'),),
        "Sorry.",
    ),
    "no JSON": Sample("<tool_call>get_weather(Paris)</tool_call>", content="<tool_call>get_weather(Paris)</tool_call>"),
    "a name that is no text": Sample(
        '<tool_call>{"name": 5, "arguments": {}}</tool_call>',
        content='<tool_call>{"name": 5, "arguments": {}}</tool_call>',
    ),
    "a name that cannot be sent": Sample(
        '<tool_call>{"name": "\\ud800"}</tool_call>', content='<tool_call>{"name": "\\ud800"}</tool_call>'
    ),
    "nothing": Sample(""),
    "white space": Sample(" \n\t ", content=" \n\t "),
}
