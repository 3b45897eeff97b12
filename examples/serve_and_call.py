"""Start a server, call it, watch an answer come to be, stop it.

    python examples/serve_and_call.py

`python -m dlm serve` speaks OpenAI's protocol (docs/serve.md), so any client will do: here Python's own urllib and,
where it is installed, the package openai. Needs pip install 'dlm[serve]'.
"""

import json
import subprocess
import sys
import urllib.request

PROMPT = 'Shuffle the list: ["Anna", "Bob", "Cleo"]'


def post(url, **body):
    """The open response to a JSON body."""
    raw = json.dumps(body).encode()
    return urllib.request.urlopen(urllib.request.Request(url, raw, {"Content-Type": "application/json"}))


# port=0: any that is free. The first line that it prints says which: dlm: tiny answers at http://127.0.0.1:40123/ ...
server = subprocess.Popen([sys.executable, "-m", "dlm", "serve", "port=0"], stdout=subprocess.PIPE, text=True)
try:
    url = server.stdout.readline().split(" answers at ")[1].split()[0]

    # Whole, with a sampler of the request's own. What it took is beside the answer.
    sampler = {"name": "threshold", "threshold": 0.8}
    with post(f"{url}v1/completions", prompt=PROMPT, max_tokens=32, sampler=sampler) as response:
        whole = json.load(response)
    print(whole["choices"][0]["text"], f"in {whole['dlm']['counts'][0]['forwards']} forwards")

    # As a stream of events. With `canvas` they also tell what each forward filled, anywhere on the canvas.
    canvas = ["·"] * 9
    options = {"canvas": True}
    asked = {"prompt": PROMPT, "max_tokens": 9, "stream": True, "stream_options": options, "sampler": "threshold"}
    with post(f"{url}v1/completions", **asked) as events:
        for line in events:
            if line.startswith(b"data: {") and (step := json.loads(line[6:]).get("canvas")):
                for position, _, text, _ in step["set"]:
                    canvas[position] = text
                if not step.get("done"):
                    print("  forward", step["step"] + 1, "".join(canvas).replace("<|endoftext|>", " "))

    try:
        import openai
    except ModuleNotFoundError:
        print("pip install openai, and it is called by that too")
    else:
        client = openai.OpenAI(base_url=f"{url}v1", api_key="none")
        messages = [{"role": "user", "content": "47+85="}]
        for chunk in client.chat.completions.create(model="tiny", messages=messages, max_tokens=32, stream=True):
            print(chunk.choices[0].delta.content or "", end="")
        print()
finally:
    server.terminate()  # what is being answered is finished first
    server.wait(60)
