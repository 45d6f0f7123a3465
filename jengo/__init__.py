"""The console command `jengo`: first contact, checks, and a run with good defaults.

Nothing happens here that does not happen without it: every command calls a task of `pipeline.tasks`
or a function of `pipeline.steps`. The pipeline is imported when a command runs, so that help and
shell completion answer at once.
"""
