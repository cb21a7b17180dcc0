"""OpenFaaS, template python3-http: handler.py is the file, `handle` the function."""

from functions.faas import openfaas as handle

__all__ = ["handle"]
