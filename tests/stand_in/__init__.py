"""A stand-in for Ollama: its HTTP API, streamed token by token; its words are canned, and say so, or a real model's.

The simulator starts it as a container's program; __main__.py is the script and has the table of paths. exchange.py is
one request and its answer, answering.py how it is answered, words.py where the words come from (canned.py, runner.py),
library.py and native.py Ollama's own API, openai.py and responses.py OpenAI's; controls.py is what a test may turn,
models.py what was pulled. Standard library only, since an instance has no site-packages.
"""
