"""Docstrings of the package as reStructuredText, and references to Python names.

A docstring names things as its module sees them (``neuralgraph.wiring.wiring.Wiring`` in annotations), the pages
document them where users find them (``neuralgraph.Wiring``): an object is found by whatever path it is called. What
exists and has no entry of its own, here or in another library, is set in type without a link; what does not exist is
left to Sphinx, which warns.
"""

import inspect
import re
from importlib import import_module

from sphinx.ext.napoleon import GoogleDocstring
from sphinx.util.docstrings import prepare_docstring
from sphinx.util.nodes import make_refnode

MARKS = re.compile(r"(``.*?``|`[^`]*`)|([|*])")
ROLE = re.compile(r":(func|class|meth|data|attr|mod|exc):`(~?)([\w.]+)`")


def found(path: str) -> tuple[object, ...]:
    """The object of a dotted path, in a tuple; empty if there is none. Fields of dataclasses are found too."""
    parts = path.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value = import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        for part in parts[cut:]:
            if hasattr(value, part):
                value = getattr(value, part)
            elif part in getattr(value, "__annotations__", {}):
                value = (value, part)
            else:
                return ()
        return (value,)
    return ()


def documented(env) -> dict[int, str]:
    """The name under which each object has its entry, by identity."""
    if not hasattr(env, "names_by_identity"):
        env.names_by_identity = {id(value): name for name, entry in env.domains["py"].objects.items()
                                 if entry.objtype not in ("property", "attribute") for value in found(name)}
    return env.names_by_identity


def resolve(app, env, node, contnode):
    if node.get("refdomain") != "py" or not node.get("reftarget"):
        return None
    target, domain = node["reftarget"], env.domains["py"]
    if not re.fullmatch(r"[\w.]+", target):
        return contnode  # a piece of an annotation that Sphinx cut in the wrong place
    here = [part for part in (node.get("py:module"), node.get("py:class")) if part]
    for place in (".".join(here), ".".join(here[:1]), "neuralgraph.errors", "builtins", ""):
        for value in found(f"{place}.{target}" if place else target):
            name = documented(env).get(id(value))
            if name is None:
                return contnode
            entry = domain.objects[name]
            return make_refnode(app.builder, node["refdoc"], entry.docname, entry.node_id, contnode, name)
    return None


def as_text(lines: list[str], home: str) -> list[str]:
    """Lines of a docstring as reStructuredText: what is indented after a blank line is a formula, shown as it stands;
    elsewhere \\|w\\| is a magnitude and ``*space`` a shape; names that ``home`` (a module) knows get their path.
    """
    result, literal, doctest, before = [], False, False, ""
    for line in lines:
        indent = len(line) - len(line.lstrip())
        if line.strip():
            doctest = line.lstrip().startswith(">>>") or (doctest and bool(result and result[-1].strip()))
            literal = indent > 0 and (literal or (bool(result) and not result[-1].strip() and before[:1] not in (" ", "")
                                                  and not before.endswith("::")))
            if literal and (not result or result[-1] == "" and before[:1] != " "):
                result += ["::", ""]
            if not literal and not doctest and not before.endswith("::"):
                line = ROLE.sub(lambda match: with_path(match, home), line)
                line = MARKS.sub(lambda match: match[1] or "\\" + match[2], line)
            before = line
        result.append(line)
    return result


def with_path(match: re.Match, home: str) -> str:
    role, short, name = match.groups()
    path = f"{home}.{name}"
    shown = name.rpartition(".")[2] if short else name
    return f":{role}:`{shown} <{path}>`" if found(path) else match[0]


def docstring(app, what, name, obj, options, lines):
    lines[:] = as_text(lines, getattr(obj, "__module__", name))


def property_docstring(app, what, name, obj, options, lines):
    """Napoleon takes the first words of a property, up to a colon, for its type; here it is read as a function's."""
    if what == "property" and inspect.getdoc(obj):
        text = as_text(prepare_docstring(inspect.getdoc(obj)), obj.fget.__module__)
        lines[:] = str(GoogleDocstring(text, app.config, app, "method", name, obj, options)).splitlines()


def setup(app):
    app.connect("autodoc-process-docstring", docstring, priority=100)            # before napoleon
    app.connect("autodoc-process-docstring", property_docstring, priority=900)   # after it
    app.connect("missing-reference", resolve)
    return {"parallel_read_safe": True}
