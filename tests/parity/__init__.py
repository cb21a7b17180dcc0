"""What the module that this project replaces documents, row by row, and what here shows that none of it is lost.

`rows/` is the table, `table` reads it, `document` holds it against the original's text (which is no part of this
project), `collected` knows which tests there are, `taken_out` takes features out and demands that their tests fail.
`python -m tests.parity` writes docs/parity.md.
"""
