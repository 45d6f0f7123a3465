"""The review loop apart from its doors: what to look at, how it goes out to people, what comes back.

The order of the work is the order of the modules::

    ceiling     the best that labels allow
    ensemble    several networks' buildings as one
"""
