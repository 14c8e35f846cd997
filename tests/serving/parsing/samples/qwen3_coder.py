from tests.serving.parsing.samples import Sample

CALL = "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n</function>\n</tool_call>"
PARIS = ("get_weather", {"city": "Paris"})

SAMPLES = {
    "one call": Sample(CALL, (("get_weather", '{"city": "Paris"}'),)),
    "several parameters": Sample(
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n<parameter=days>\n3\n</parameter>\n"
        '<parameter=details>\n{"a": [1, {"b": "}"}]}\n</parameter>\n<parameter=places>\n["x"]\n</parameter>\n'
        "<parameter=is_exact>\nTrue\n</parameter>\n</function>\n</tool_call>",
        (
            (
                "get_weather",
                {"city": "Paris", "days": 3, "details": {"a": [1, {"b": "}"}]}, "places": ["x"], "is_exact": True},
            ),
        ),
    ),
    "several calls with text around": Sample(
        f"I look.\n\n{CALL}\n{CALL}\nThat is all.", (PARIS, PARIS), "I look.\n\nThat is all."
    ),
    "no parameters": Sample("<tool_call>\n<function=get_time>\n</function>\n</tool_call>", (("get_time", "{}"),)),
    "a string that looks like something else": Sample(
        "<function=get_weather><parameter=city>\n123\n</parameter></function>", (("get_weather", {"city": "123"}),)
    ),
    "a string or nothing": Sample(
        "<function=get_weather><parameter=unit>null</parameter></function>"
        "<function=get_weather><parameter=unit>5</parameter></function>",
        (("get_weather", {"unit": None}), ("get_weather", {"unit": "5"})),
    ),
    "code over several lines": Sample(
        '<tool_call>\n<function=run>\n<parameter=code>\nif a < b:\n    print("x\\n")\n\n# </function> </tool_call>\n\n'
        "</parameter>\n</function>\n</tool_call>",
        (("run", {"code": 'if a < b:\n    print("x\\n")\n\n# </function> </tool_call>\n'}),),
    ),
    "unicode": Sample(
        "<function=run><parameter=code>世界 👩‍👩‍👧‍👦 \t é</parameter></function>",
        (("run", {"code": "世界 👩‍👩‍👧‍👦 \t é"}),),
    ),
    "a parameter of any type": Sample(
        '<function=run><parameter=anything>{"a": 1}</parameter></function>'
        "<function=run><parameter=anything>words</parameter></function>",
        (("run", {"anything": {"a": 1}}), ("run", {"anything": "words"})),
    ),
    "a value of the wrong type": Sample(
        "<function=get_weather><parameter=days>NaN</parameter></function>", (("get_weather", {"days": "NaN"}),)
    ),
    "a tool that is not offered": Sample(
        "<function=other.tool-1><parameter=x>1</parameter></function>", (("other.tool-1", {"x": 1}),)
    ),
    "no outer tags": Sample(CALL.replace("<tool_call>\n", "").replace("\n</tool_call>", ""), (PARIS,)),
    "cut in a string": Sample(
        "<tool_call>\n<function=get_weather>\n<parameter=city>\nPar", (("get_weather", '{"city": "Par'),)
    ),
    "cut in a number": Sample(
        "<tool_call>\n<function=get_weather>\n<parameter=days>\n1", (("get_weather", '{"days": 1'),)
    ),
    "cut in a key": Sample("<function=get_weather>\n<parameter=ci", (("get_weather", '{"ci'),)),
    "cut between parameters": Sample(
        "<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n", (("get_weather", '{"city": "Paris"'),)
    ),
    "cut in the name": Sample("<tool_call>\n<function=get_w", content="<tool_call>\n<function=get_w"),
    "text where a parameter should be": Sample(
        "<function=get_time> now </function>", (("get_time", "{}"),), "now </function>"
    ),
    "tags that are talked about": Sample("Write <tool_call> first.", content="Write <tool_call> first."),
}
