"""Google Cloud Functions and Cloud Run functions (functions-framework): main.py is the file, `exollama` the target."""

from functions.faas import google as exollama

__all__ = ["exollama"]
