from tests.serving.parsing.samples import Sample

CALL = '<|action_start|><|plugin|>\n{"name": "get_weather", "parameters": {"city": "Paris"}}<|action_end|>'
PARIS = ("get_weather", {"city": "Paris"})

SAMPLES = {
    "one call": Sample(CALL, (PARIS,)),
    "several calls": Sample(f"{CALL}\n{CALL}", (PARIS, PARIS)),
    "text around": Sample(f"Sure.{CALL}\nThere.", (PARIS,), "Sure.\nThere."),
    "spaces between tokens": Sample(CALL.replace("><", "> <") + "\n", (PARIS,)),
    "the end marker inside a string": Sample(
        CALL.replace("Paris", "<|action_end|> {\\\\ \\" + '" 世界'),
        (("get_weather", {"city": '<|action_end|> {\\ " 世界'}),),
    ),
    "empty arguments": Sample(CALL.replace('{"city": "Paris"}', "{}"), (("get_weather", "{}"),)),
    "nested": Sample(CALL.replace('"Paris"', '{"a": [{}, []]}'), (("get_weather", {"city": {"a": [{}, []]}}),)),
    "cut in the arguments": Sample(CALL[: CALL.index("ris")], (("get_weather", '{"city": "Pa'),)),
    "code": Sample(
        "<|action_start|><|interpreter|>\n1 + 1<|action_end|>",
        content="<|action_start|><|interpreter|>\n1 + 1<|action_end|>",
    ),
}
