from tests.serving.parsing.samples import Sample

CALL = '<｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜>'
PARIS = ("get_weather", {"city": "Paris"})

SAMPLES = {
    "one call": Sample(f"<｜tool▁calls▁begin｜>{CALL}<｜tool▁calls▁end｜>", (PARIS,)),
    "several calls": Sample(f"<｜tool▁calls▁begin｜>{CALL}{CALL}<｜tool▁calls▁end｜>", (PARIS, PARIS)),
    "text around": Sample(f"Well.<｜tool▁calls▁begin｜>{CALL}<｜tool▁calls▁end｜> So.", (PARIS,), "Well. So."),
    "unicode, braces and escapes": Sample(
        CALL.replace("Paris", '世界 }{ \\"<｜tool▁call▁end｜>\\" \\\\'),
        (("get_weather", {"city": '世界 }{ "<｜tool▁call▁end｜>" \\'}),),
    ),
    "empty arguments": Sample(CALL.replace('{"city": "Paris"}', "{}"), (("get_weather", "{}"),)),
    "cut in the arguments": Sample(CALL[: CALL.index("ris")], (("get_weather", '{"city": "Pa'),)),
    "arguments without an end": Sample(CALL.replace('"Paris"}', "[") + CALL, (("get_weather", '{"city": ['), PARIS)),
    "no name": Sample("<｜tool▁call▁begin｜><｜tool▁sep｜>{}", content="<｜tool▁call▁begin｜><｜tool▁sep｜>{}"),
}
