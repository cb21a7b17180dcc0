"""Handlers for AWS Lambda that do nothing, as floors: what a runtime, and what importing urllib3 in it, costs alone."""
