"""Pages and pictures for people: self-contained HTML, charts and contact sheets.

A dataset (or, from the training half, a run) comes in; one HTML file or PNG comes out. Start with
``page``, which holds the content of a page, then ``stats_page`` and ``preview``.
"""
