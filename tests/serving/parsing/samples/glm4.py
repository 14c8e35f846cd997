from tests.serving.parsing.samples import Sample

CALL = 'get_weather\n{"city": "Paris"}'
PARIS = ("get_weather", {"city": "Paris"})

SAMPLES = {
    "one call": Sample(CALL, (PARIS,)),
    "after a line break": Sample(f"\n{CALL}", (PARIS,)),
    "several calls": Sample(f"{CALL}<|assistant|>{CALL}", (PARIS, PARIS)),
    "text after": Sample(f"{CALL}\nThat is it.", (PARIS,), "That is it."),
    "unicode, braces and escapes": Sample(
        'run\n{"code": "世界 }{ \\"\\\\ <|assistant|>", "anything": [{"a": {}}]}',
        (("run", {"code": '世界 }{ "\\ <|assistant|>', "anything": [{"a": {}}]}),),
    ),
    "empty arguments": Sample("get_time\n{}", (("get_time", "{}"),)),
    "cut in the arguments": Sample('run\n{"code": "x', (("run", '{"code": "x'),)),
    "a tool that is not offered": Sample('unheard_of\n{"a": 1}', content='unheard_of\n{"a": 1}'),
    "no arguments": Sample("get_time is the tool", content="get_time is the tool"),
    "text first": Sample(f"I call\n{CALL}", content=f"I call\n{CALL}"),
}
