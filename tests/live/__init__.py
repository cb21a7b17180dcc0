"""What only an account can show: a run over a real zone, for a few cents, that writes down what it found.

account.py makes and removes, checks.py asks, guest.py is the machine's side, ending.py ends it whatever happens,
unproven.toml is the list of what is not proven and unproven.py the page that is made of it (docs/unproven.md).
"""
