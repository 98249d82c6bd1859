"""What pages show and nobody wrote: pictures, tables and explorer pages, made before the pages are read."""

import figures
import tables


def make(app):
    figures.draw()
    tables.write()


def setup(app):
    app.connect("builder-inited", make)
    return {"parallel_read_safe": True}
