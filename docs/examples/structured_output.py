"""An answer that is an object: python structured_output.py "Plan a trip to Rome." """

import sys

from openai import OpenAI
from pydantic import BaseModel


class Trip(BaseModel):
    city: str
    days: int


answer = OpenAI().chat.completions.parse(
    model="claude-sonnet-4.5",
    messages=[{"role": "user", "content": sys.argv[1]}],
    response_format=Trip,
)
trip = answer.choices[0].message.parsed
print(f"{trip.days} days in {trip.city}")
