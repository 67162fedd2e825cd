"""HTML reports: the page of a training run, and the charts, tables and templates that all pages share.

`run_record` reads the folder of a run; `run_sections`, `error_sections`, `precision_recall` and `example_images`
compute the contents; `charts` draws; `html` renders the templates; `run_report` combines them.
"""
