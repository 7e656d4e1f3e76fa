"""The report: run folders and studies, read back from their records alone, as one page for a person.

Each part of the page is made once, as a `document.Document`; a writer puts it down as HTML, Markdown, CSV or JSON, so
that all of them hold the same numbers.

    run_folder.py   a run folder, read back                  document.py   what a report consists of
    schema.py       evaluations, cost and exports, checked   charts.py     figures as plain dicts
    groups.py       runs that differ in their seed alone     graph_svg.py  the graph as a drawing
    graph_model.py  graph.json -> words                      formatting.py numbers and names for a person
    sections/       the parts, one module each               build.py      all parts of a report, in order
    html.py, markdown_csv_json.py  the writers               write.py      the door
"""
