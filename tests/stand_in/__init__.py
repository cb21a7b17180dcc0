"""A stand-in for Ollama: its HTTP API, streamed token by token, with no model behind it, and it says so.

The simulator starts it as a container's program; __main__.py is the script and has the table of paths. exchange.py is
one request and its answer, answering.py what is answered, library.py and native.py Ollama's own API, openai.py and
responses.py OpenAI's; controls.py is what a test may turn, models.py what was pulled. Standard library only, since an
instance has no site-packages.
"""
