"""A drawing of the subpackages, read from their imports: each stands above all that import from it."""

import ast
from html import escape
from pathlib import Path

import neuralgraph

ROOT = Path(neuralgraph.__file__).parent
WIDTH, HEIGHT, GAP, ROW = 104, 30, 14, 62  # pixels


def imports() -> dict[str, set[str]]:
    """Each subpackage and those it imports from, at the top of its files."""
    names = {path.name for path in ROOT.iterdir() if (path / "__init__.py").exists()}
    found = {name: set() for name in names}
    for name in names:
        for path in (ROOT / name).rglob("*.py"):
            here = ["neuralgraph", *path.relative_to(ROOT).parts[:-1]]
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.ImportFrom):
                    base = here[:len(here) - node.level + 1] if node.level else []
                    parts = [*base, *(node.module or "").split(".")]
                    for package in (alias.name for alias in node.names) if parts[1:] == [""] else parts[1:2]:
                        if package in names and package != name:
                            found[name].add(package)
    return found


def levels(below: dict[str, set[str]]) -> list[list[str]]:
    """Subpackages by the longest chain of imports that leads down from them."""
    level = {}

    def of(package):
        if package not in level:
            level[package] = 1 + max(map(of, below[package]), default=-1)
        return level[package]
    rows = [[] for _ in range(1 + max(map(of, below)))]
    for package in sorted(below):
        rows[level[package]].append(package)
    return rows


def direct(below: dict[str, set[str]]) -> dict[str, set[str]]:
    """The imports that no chain of others leads along: enough to draw."""
    def reach(package):
        return {package}.union(*map(reach, below[package])) if below[package] else {package}
    return {package: {one for one in used if not any(one in reach(other) for other in used - {one})}
            for package, used in below.items()}


def svg() -> str:
    below = imports()
    rows = levels(below)
    width = max(map(len, rows)) * (WIDTH + GAP) + GAP
    place = {package: (width / 2 + (column - (len(row) - 1) / 2) * (WIDTH + GAP), GAP + HEIGHT / 2 + number * ROW)
             for number, row in enumerate(rows) for column, package in enumerate(row)}
    lines, boxes = [], []
    for package, used in direct(below).items():
        x, y = place[package]
        for one in sorted(used):
            a, b = place[one]
            b, top = b + HEIGHT / 2, y - HEIGHT / 2
            lines.append(f'<path d="M{a:.0f} {b:.0f} C{a:.0f} {(b + top) / 2:.0f} {x:.0f} {(b + top) / 2:.0f} '
                         f'{x:.0f} {top:.0f}"/>')
    for package, (x, y) in place.items():
        first = (ast.get_docstring(ast.parse((ROOT / package / "__init__.py").read_text())) or "").splitlines()[:1]
        boxes.append(f'<g><title>{escape("".join(first))}</title><rect x="{x - WIDTH / 2:.0f}" y="{y - HEIGHT / 2:.0f}" '
                     f'width="{WIDTH}" height="{HEIGHT}" rx="6"/><text x="{x:.0f}" y="{y + 5:.0f}">{package}</text></g>')
    height = 2 * GAP + HEIGHT + ROW * (len(rows) - 1)
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height}" width="{width:.0f}" role="img" '
            f'aria-label="the subpackages and their imports"><style>path{{fill:none;stroke:#8899aa;stroke-width:1.2}}'
            f'rect{{fill:#e8f1f8;stroke:#0072B2}}text{{font:14px sans-serif;text-anchor:middle;fill:#111}}</style>'
            f'{"".join(lines)}{"".join(boxes)}</svg>\n')
