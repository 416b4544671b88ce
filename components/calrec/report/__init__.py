"""One way to show things to people: tables, pages, charts, progress, KFP's run view."""
