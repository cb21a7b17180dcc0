"""OpenFaaS, template python3-http: handler.py is the file, `handle` the function.

The template imports this folder as a package named `function`, so what lies beside this file is not on the path
(openfaas/python-flask-template, template/python3-http/index.py: `from function import handler`).
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from functions.faas import openfaas as handle  # only now can it be found

__all__ = ["handle"]
