"""Equations as MathML, by docutils' own converter: browsers draw it without a script from anywhere."""

from docutils.nodes import SkipNode
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)


def converted(node, as_block: bool) -> str:
    try:
        return tex2mathml(node.astext(), as_block=as_block)
    except MathError as error:
        logger.warning("this equation cannot be drawn: %s", error, location=node)
        return ""


def inline(self: HTML5Translator, node):
    self.body.append(converted(node, as_block=False))
    raise SkipNode


def block(self: HTML5Translator, node):
    self.body.append(f'<div class="math">{converted(node, as_block=True)}</div>\n')
    raise SkipNode


def setup(app):
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
