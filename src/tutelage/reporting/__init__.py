"""The report: run folders and studies, read back from their records alone, as one page for a person.

Each part of the page is made once, as a `document.Document`; a writer puts it down as HTML, Markdown, CSV or JSON, so
that all of them hold the same numbers.
"""
