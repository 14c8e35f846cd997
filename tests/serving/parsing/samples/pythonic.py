from tests.serving.parsing.samples import Sample

PARIS = ("get_weather", '{"city": "Paris"}')

SAMPLES = {
    "one call": Sample('[get_weather(city="Paris")]', (PARIS,)),
    "several calls": Sample("[get_weather(city='Paris'), get_time()]", (PARIS, ("get_time", "{}"))),
    "between tags": Sample("<|python_start|>[get_weather(city='Paris')]<|python_end|>", (PARIS,)),
    "text before and after": Sample(
        "Fine.\n<|python_start|>[get_weather(city='Paris')]<|python_end|>\nSo.", (PARIS,), "Fine.\nSo."
    ),
    "no list": Sample("get_weather(city='Paris')", (PARIS,)),
    "values of all kinds": Sample(
        "[run(anything={'a': [1, -2.5, True, None, ('x',)], 'b': {}}, code='')]",
        (("run", {"anything": {"a": [1, -2.5, True, None, ["x"]], "b": {}}, "code": ""}),),
    ),
    "as JSON says it": Sample("[run(anything=[true, false, null])]", (("run", {"anything": [True, False, None]}),)),
    "quotes and escapes": Sample(
        '[run(code=\'it\\\'s ")]}({[" \\\\\', anything="""a\n"b" \'\'\'""")]',
        (("run", {"code": 'it\'s ")]}({[" \\', "anything": "a\n\"b\" '''"}),),
    ),
    "unicode": Sample("[get_weather(city='世界 👩‍👩‍👧‍👦 \\u00e9')]", (("get_weather", {"city": "世界 👩‍👩‍👧‍👦 é"}),)),
    "the end marker inside a string": Sample(
        "<|python_start|>[run(code='<|python_end|>')]<|python_end|>", (("run", {"code": "<|python_end|>"}),)
    ),
    "cut": Sample("[get_weather(city='Paris'), run(code='x", (PARIS,), ", run(code='x"),
    "a tool that is not offered": Sample("[unheard_of(a=1)]", content="[unheard_of(a=1)]"),
    "no literal": Sample("[run(code=open('x'))]", content="[run(code=open('x'))]"),
    "no keyword": Sample("[run('x')]", content="[run('x')]"),
    "more than JSON can say": Sample("[run(anything=1e999)]", content="[run(anything=1e999)]"),
    "half a surrogate pair": Sample("[run(code='\\ud800')]", content="[run(code='\\ud800')]"),
    "a list": Sample("[1, 2]", content="[1, 2]"),
}
