from tests.serving.parsing.samples import Sample

CALL = '<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n{"city": "Paris"}\n```<｜tool▁call▁end｜>'
PARIS = ("get_weather", {"city": "Paris"})

SAMPLES = {
    "one call": Sample(f"<｜tool▁calls▁begin｜>{CALL}<｜tool▁calls▁end｜>", (PARIS,)),
    "several calls": Sample(f"<｜tool▁calls▁begin｜>{CALL}\n{CALL}<｜tool▁calls▁end｜>", (PARIS, PARIS)),
    "text around": Sample(
        f"Let me see.\n<｜tool▁calls▁begin｜>\n{CALL}\n<｜tool▁calls▁end｜>\nSo.", (PARIS,), "Let me see.\nSo."
    ),
    "no outer tokens": Sample(CALL, (PARIS,)),
    "no end of calls": Sample(f"<｜tool▁calls▁begin｜>{CALL}", (PARIS,)),
    "no block of code": Sample(CALL.replace("```json\n", "").replace("\n```", ""), (PARIS,)),
    "fences and escapes in a string": Sample(
        CALL.replace('{"city": "Paris"}', '{"city": "```\\n\\"<｜tool▁call▁end｜>\\"} 世界"}'),
        (("get_weather", {"city": '```\n"<｜tool▁call▁end｜>"} 世界'}),),
    ),
    "nested": Sample(CALL.replace('"Paris"', '{"a": [{}]}'), (("get_weather", {"city": {"a": [{}]}}),)),
    "empty arguments": Sample(CALL.replace('{"city": "Paris"}', "{}"), (("get_weather", "{}"),)),
    "cut in the arguments": Sample(CALL[: CALL.index("ris")], (("get_weather", '{"city": "Pa'),)),
    "cut before the arguments": Sample(f"a\n{CALL[:40]}", content=f"a\n{CALL[:40]}"),
    "no call": Sample("<｜tool▁calls▁begin｜>none", content="<｜tool▁calls▁begin｜>none"),
}
