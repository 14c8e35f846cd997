from tests.serving.parsing.samples import Sample

THINK = "<|channel|>analysis<|message|>The user asks.<|end|>"
CALL = '<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>{"city": "Paris"}<|call|>'
PARIS = ("get_weather", {"city": "Paris"})

SAMPLES = {
    "reasoning and an answer": Sample(
        f"{THINK}<|start|>assistant<|channel|>final<|message|>It is sunny.\n<|return|>",
        content="It is sunny.\n",
        reasoning="The user asks.",
    ),
    "reasoning and a call": Sample(f"{THINK}<|start|>assistant{CALL}", (PARIS,), reasoning="The user asks."),
    "a call alone": Sample(CALL, (PARIS,)),
    "several calls": Sample(f"{CALL}<|start|>assistant{CALL}", (PARIS, PARIS)),
    "the tool named first": Sample(
        ' to=functions.get_weather<|channel|>commentary json<|message|>{"city": "Paris"}', (PARIS,)
    ),
    "the tool named in the second header": Sample(
        f'{THINK}<|start|>assistant to=functions.get_weather<|channel|>commentary json<|message|>{{"city": "Paris"}}',
        (PARIS,),
        reasoning="The user asks.",
    ),
    "a word to the user first": Sample(
        f"<|channel|>commentary<|message|>I look.<|end|><|start|>assistant{CALL}<|start|>assistant"
        "<|channel|>final<|message|>Sunny.",
        (PARIS,),
        "I look.\n\nSunny.",
    ),
    "reasoning twice": Sample(
        f"{THINK}<|start|>assistant{THINK}<|start|>assistant<|channel|>final<|message|>Yes.",
        content="Yes.",
        reasoning="The user asks.\n\nThe user asks.",
    ),
    "unicode, braces and markers in a string": Sample(
        CALL.replace("Paris", '世界 }{ \\"<|call|>\\" \\\\'), (("get_weather", {"city": '世界 }{ "<|call|>" \\'}),)
    ),
    "empty arguments": Sample(
        "<|channel|>commentary to=functions.get_time <|constrain|>json<|message|>{}<|call|>", (("get_time", "{}"),)
    ),
    "cut in the arguments": Sample(CALL[: CALL.index("ris")], (("get_weather", '{"city": "Pa'),)),
    "cut in a header": Sample("<|channel|>fin", content="<|channel|>fin"),
    "a header without an end": Sample(
        "<|channel|>oops<|start|>assistant<|channel|>final<|message|>Well.", content="<|channel|>oops\n\nWell."
    ),
    "no channels": Sample("Plain text.", content="Plain text."),
    "cut in the reasoning": Sample("<|channel|>analysis<|message|>So th", reasoning="So th"),
}
