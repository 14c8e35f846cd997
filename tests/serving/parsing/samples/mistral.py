from tests.serving.parsing.samples import Sample

OLD = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
NEW = '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}'
PARIS = ("get_weather", {"city": "Paris"})

SAMPLES = {
    "a list of one": Sample(f"[TOOL_CALLS] [{OLD}]", (PARIS,)),
    "a list of several": Sample(f"[TOOL_CALLS][{OLD}, {OLD}]", (PARIS, PARIS)),
    "a list after text": Sample(f"Hm.\n[TOOL_CALLS] [{OLD}] Yes", (PARIS,), "Hm.\nYes"),
    "a list with ids": Sample(f'[TOOL_CALLS] [{OLD[:-1]}, "id": "abcdefghi"}}]', (PARIS,)),
    "a list with a comma too many": Sample(f"[TOOL_CALLS] [{OLD},]", (PARIS,)),
    "an empty list": Sample("[TOOL_CALLS] []", content="[TOOL_CALLS] []"),
    "the new form": Sample(NEW, (PARIS,)),
    "the new form several times": Sample(f"So: {NEW}{NEW}", (PARIS, PARIS), "So:"),
    "the new form without a mark": Sample('[TOOL_CALLS]get_weather{"city": "Paris"}', (PARIS,)),
    "the new form with an id": Sample('[TOOL_CALLS]get_weather[CALL_ID]Abc123xyz[ARGS]{"city": "Paris"}', (PARIS,)),
    "brackets and escapes": Sample(
        '[TOOL_CALLS]run[ARGS]{"code": "[TOOL_CALLS] \\"]}\\\\", "anything": [[], {"a": "世界"}]}',
        (("run", {"code": '[TOOL_CALLS] "]}\\', "anything": [[], {"a": "世界"}]}),),
    ),
    "empty arguments": Sample("[TOOL_CALLS]get_time[ARGS]{}", (("get_time", "{}"),)),
    "text after": Sample(f"{NEW}\n\nThat is it.", (PARIS,), "That is it."),
    "cut in the arguments": Sample('[TOOL_CALLS]run[ARGS]{"code": "a', (("run", '{"code": "a'),)),
    "cut in a list": Sample(f"[TOOL_CALLS] [{OLD}, ", (PARIS,), ", "),
    "cut in the name": Sample("[TOOL_CALLS]get_w", content="[TOOL_CALLS]get_w"),
    "arguments without an end": Sample(f'[TOOL_CALLS]run[ARGS]{{"code": [1, {NEW}', (("run", '{"code": [1, '), PARIS)),
    "no call": Sample("See [1] and [TOOL_ and [TOOL_CALLS].", content="See [1] and [TOOL_ and [TOOL_CALLS]."),
}
