"""A small agent: asks a model that speaks OpenAI's protocol, once, and prints its answer.

hermes-celery asks little of an agent's command line:

- the prompt is an argument (`{prompt}` in the command), and nothing comes on standard input;
- standard output is the answer: it is stored and delivered, and `[SILENT]` delivers nothing;
- any exit code but 0 fails the run, and standard error says why;
- the usage file, where the command names one, is JSON: `total_tokens`, `estimated_cost_usd`, and
  `failed` with `failure` for an agent that ends with 0 all the same.
"""

import argparse
import json
import os
import sys
from urllib.error import URLError
from urllib.request import Request, urlopen


def main():
    options = argparse.ArgumentParser()
    options.add_argument("prompt")
    options.add_argument("--model", default="llama3.2")
    options.add_argument("--usage-file")
    given = options.parse_args()
    try:
        answer = ask(given.prompt, model=given.model)
    except URLError as error:
        sys.exit(f"the model does not answer: {error}")
    if given.usage_file:
        with open(given.usage_file, "w") as file:
            json.dump({"total_tokens": answer["usage"]["total_tokens"]}, file)
    print(answer["choices"][0]["message"]["content"])


def ask(prompt, *, model):
    """Return the model's answer. Raises URLError."""
    body = {"model": model, "messages": [{"role": "user", "content": prompt}]}
    headers = {
        "Content-Type": "application/json",
        "Authorization": f"Bearer {os.environ.get('MODEL_KEY', 'none')}",
    }
    url = os.environ.get("MODEL_URL", "http://localhost:11434/v1") + "/chat/completions"
    with urlopen(Request(url, json.dumps(body).encode(), headers), timeout=300) as response:
        return json.load(response)


if __name__ == "__main__":
    main()
