"""A PDF with the message itself: python attach_pdf.py contract.pdf "When does it end?" """

import base64
import sys
from pathlib import Path

from openai import OpenAI

path = Path(sys.argv[1])
data = base64.b64encode(path.read_bytes()).decode()
answer = OpenAI().chat.completions.create(
    model="claude-sonnet-4.5",
    messages=[
        {
            "role": "user",
            "content": [
                {
                    "type": "file",
                    "file": {
                        "filename": path.name,
                        "file_data": f"data:application/pdf;base64,{data}",
                    },
                },
                {"type": "text", "text": sys.argv[2]},
            ],
        }
    ],
)
print(answer.choices[0].message.content)
