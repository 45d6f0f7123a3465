"""The review loop apart from its doors: what to look at, how it goes out to people, what comes back.

The order of the work is the order of the modules::

    ceiling        the best that labels allow
    ensemble       several networks' buildings as one
    records        the tiles of a round, what is shown in them, and what people say of it
    proposals      what a person is shown of an image
    label_studio   a project for Label Studio, and its export
    coco           a dataset for CVAT, and its export
    qgis, styles   a GeoPackage with forms and styles for QGIS
    edited         and how it comes back
    returned       whichever of them comes back
    drawn          one polygon per building of it
    deciding       from reviews to corrected labels
"""
