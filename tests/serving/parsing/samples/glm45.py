from tests.serving.parsing.samples import Sample

CALL = "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>Paris</arg_value>\n</tool_call>"
PARIS = ("get_weather", {"city": "Paris"})

SAMPLES = {
    "one call": Sample(CALL, (("get_weather", '{"city": "Paris"}'),)),
    "without line breaks": Sample(CALL.replace("\n", ""), (PARIS,)),
    "several with text around": Sample(f"So.\n{CALL}\n{CALL} Yes.", (PARIS, PARIS), "So.\nYes."),
    "several parameters": Sample(
        "<tool_call>get_weather\n<arg_key>city</arg_key>\n<arg_value>北京 👍🏽</arg_value>\n"
        "<arg_key>days</arg_key>\n<arg_value>7</arg_value>\n"
        '<arg_key>details</arg_key>\n<arg_value>{"a": ["</tool_call>", {}]}</arg_value>\n</tool_call>',
        (("get_weather", {"city": "北京 👍🏽", "days": 7, "details": {"a": ["</tool_call>", {}]}}),),
    ),
    "no parameters": Sample("<tool_call>get_time\n</tool_call>", (("get_time", "{}"),)),
    "quotes and escapes": Sample(
        '<tool_call>run<arg_key>code</arg_key><arg_value>a "b" \\n \\ {</arg_value></tool_call>',
        (("run", {"code": 'a "b" \\n \\ {'}),),
    ),
    "line breaks of a value": Sample(
        "<tool_call>run<arg_key>code</arg_key><arg_value>\na\n\n</arg_value></tool_call>",
        (("run", {"code": "\na\n\n"}),),
    ),
    "an empty value": Sample(
        "<tool_call>run<arg_key>code</arg_key><arg_value></arg_value></tool_call>", (("run", {"code": ""}),)
    ),
    "the end marker inside a string": Sample(
        "<tool_call>run<arg_key>code</arg_key><arg_value>x </tool_call> y</arg_value></tool_call>",
        (("run", {"code": "x </tool_call> y"}),),
    ),
    "cut in a value": Sample(
        "<tool_call>run\n<arg_key>code</arg_key>\n<arg_value>x = 1\n", (("run", '{"code": "x = 1\\n'),)
    ),
    "cut in a key": Sample("<tool_call>run\n<arg_key>co", (("run", '{"co'),)),
    "a key without a value": Sample(
        "<tool_call>run\n<arg_key>code</arg_key>\n</tool_call>",
        (("run", "{}"),),
        "code</arg_key>\n</tool_call>",
    ),
    "cut in the name": Sample("<tool_call>get_ti", content="<tool_call>get_ti"),
    "no call": Sample("<tool_call> is a tag", content="<tool_call> is a tag"),
}
