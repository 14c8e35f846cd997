from tests.serving.parsing.samples import Sample

CALL = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
PARIS = ("get_weather", {"city": "Paris"})

SAMPLES = {
    "one call": Sample(CALL, (PARIS,)),
    "a list": Sample(f"[{CALL},\n {CALL}]", (PARIS, PARIS)),
    "a block of code with text around": Sample(f"Here:\n```json\n{CALL}\n```\nDone.", (PARIS,), "Here:\nDone."),
    "code after a bare call": Sample(f"{CALL}\n```\ncode\n```", (PARIS,), "```\ncode\n```"),
    "between tags": Sample(f"<tool_call>{CALL}</tool_call>", (PARIS,)),
    "parameters for arguments": Sample(CALL.replace("arguments", "parameters"), (PARIS,)),
    "one level down": Sample(f'{{"type": "function", "function": {CALL}}}', (PARIS,)),
    "unicode, braces and escapes": Sample(
        CALL.replace("Paris", '世界 }{ \\" ``` \\\\'), (("get_weather", {"city": '世界 }{ " ``` \\'}),)
    ),
    "empty arguments": Sample('{"name": "get_time", "arguments": {}}', (("get_time", "{}"),)),
    "cut in the arguments": Sample(CALL[: CALL.index("ris")], (("get_weather", '{"city": "Pa'),)),
    "JSON that is no call": Sample('```json\n{"a": [1]}\n```', content='```json\n{"a": [1]}\n```'),
    "a tool that is not offered": Sample('{"name": "x", "arguments": {}}', content='{"name": "x", "arguments": {}}'),
}
