"""instructor against the server at sys.argv[1], with the key sys.argv[2]: answers that are objects of given types."""

import asyncio
import sys
from typing import Literal

import instructor
from openai import AsyncOpenAI, OpenAI
from pydantic import BaseModel

URL, KEY = sys.argv[1:]
MODEL = "lightllm-demo"


class Weather(BaseModel):
    """The weather of a city."""

    condition: Literal["sunny", "cloudy", "rainy"]
    wind: Literal["none", "some", "much"]


def asking(question: str) -> dict:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": question}],
        "temperature": 1,
        "seed": 5,
        "max_tokens": 400,
        "max_retries": 0,
    }


def whole(mode: instructor.Mode) -> None:
    client = instructor.from_openai(OpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0), mode=mode)
    for seed in range(5):
        weather = client.create(response_model=Weather, **(asking("What is the weather in Paris?") | {"seed": seed}))
        assert isinstance(weather, Weather)
    partials = list(client.create_partial(response_model=Weather, **asking("What is the weather in Paris?")))
    assert Weather.model_validate(partials[-1].model_dump())


async def at_the_same_time() -> None:
    client = instructor.from_openai(
        AsyncOpenAI(base_url=f"{URL}/v1", api_key=KEY, max_retries=0), mode=instructor.Mode.JSON_SCHEMA
    )
    asked = [client.create(response_model=Weather, **asking("What is the weather in Rome?")) for _ in range(4)]
    answers = await asyncio.gather(*asked)
    assert all(isinstance(one, Weather) for one in answers)


whole(instructor.Mode.JSON_SCHEMA)
whole(instructor.Mode.TOOLS)
asyncio.run(at_the_same_time())
