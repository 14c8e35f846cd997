from tests.serving.parsing.samples import Sample

CALL = '{"name": "get_weather", "parameters": {"city": "Paris"}}'
PARIS = ("get_weather", {"city": "Paris"})

SAMPLES = {
    "one call": Sample(CALL, (("get_weather", '{"city": "Paris"}'),)),
    "after the tag": Sample(f"<|python_tag|>{CALL}", (PARIS,)),
    "text, then the tag": Sample(f"I see.\n<|python_tag|>{CALL}", (PARIS,), "I see."),
    "several calls": Sample(f"{CALL}; {CALL}", (PARIS, PARIS)),
    "several calls on lines": Sample(f"<|python_tag|>{CALL}\n{CALL}", (PARIS, PARIS)),
    "text after": Sample(f"{CALL}; and so on", (PARIS,), "; and so on"),
    "with a type": Sample(f'{{"type": "function", {CALL[1:]}', (PARIS,)),
    "pretty": Sample(
        '{\n  "name": "get_weather",\n  "parameters": {\n    "city": "Zü\\"rich }",\n    "days": 2\n  }\n}',
        (("get_weather", {"city": 'Zü"rich }', "days": 2}),),
    ),
    "empty arguments": Sample('{"name": "get_time", "parameters": {}}', (("get_time", "{}"),)),
    "the separator inside a string": Sample(
        '{"name": "run", "parameters": {"code": "a; <|python_tag|>{}"}}', (("run", {"code": "a; <|python_tag|>{}"}),)
    ),
    "code": Sample("<|python_tag|>print(1)", content="<|python_tag|>print(1)"),
    "JSON that is no call": Sample('{"name": "Alice", "age": 5}', content='{"name": "Alice", "age": 5}'),
    "a tool that is not offered": Sample(
        '{"name": "unheard_of", "parameters": {}}', content='{"name": "unheard_of", "parameters": {}}'
    ),
    "cut in the arguments": Sample('{"name": "run", "parameters": {"code": "x', (("run", '{"code": "x'),)),
    "cut before the arguments": Sample('{"name": "run", "para', content='{"name": "run", "para'),
}
