"""Tables of the documentation that follow from the code and from benchmarks/results: Markdown in docs/_made."""

import inspect
import json
import re
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import click

import neuralgraph as ng
from neuralgraph.analysis.null_models import KINDS
from neuralgraph.cli import main
from neuralgraph.nodes import ACTIVATIONS, OPERATIONS
from neuralgraph.selectors import SELECTORS, k_is, options_of
from neuralgraph.training.recipes import GROUPS
from neuralgraph.training.reproduce import TABLES

DOCS = Path(__file__).resolve().parents[1]
RESULTS = DOCS.parent / "benchmarks" / "results"


def write(folder: Path = DOCS / "_made") -> None:
    folder.mkdir(exist_ok=True)
    for name, lines in {"names": names(), "selectors": selectors(), "statistics": statistics(), "recipes": recipes(),
                        "operations": operations(), "paper": paper(), "benchmarks": benchmarks(), "errors": errors(),
                        "commands": commands(), **{path.stem: arena(path) for path in RESULTS.glob("arena_*.json")}}.items():
        (folder / f"{name}.md").write_text("\n".join(lines) + "\n")


def table(head: list[str], rows: list[list[object]], numbers_from: int | None = None) -> list[str]:
    """A Markdown table; columns from ``numbers_from`` on are set flush right."""
    lines = [head, ["---" if numbers_from is None or n < numbers_from else "---:" for n in range(len(head))], *rows]
    return ["| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines]


def first_sentence(thing: object) -> str:
    """Of its docstring, as Markdown."""
    text = re.split(r"\n\n|(?<=\.) (?=[A-Z(])", inspect.getdoc(thing) or "")[0].replace("\n", " ").replace("``", "`")
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)`", r"`\1`", text)
    text = text.rstrip(":") + ("" if text.endswith((".", ":")) else ".")
    return re.sub(r"(`[^`]*`)|([*_])", lambda match: match[1] or "\\" + match[2], text)


def names() -> list[str]:
    rows = []
    for name, (module, member) in sorted(ng._PUBLIC.items(), key=lambda item: (item[1][1] is None, item[0].lower())):
        kind = "mod" if member is None else "class" if inspect.isclass(getattr(ng, name)) else "func"
        rows.append([f"{{py:{kind}}}`ng.{name} <neuralgraph.{name}>`", first_sentence(getattr(ng, name))])
    return table(["name", "what it is"], rows)


def selectors() -> list[str]:
    takes = {"needed": "k", "optional": "k or none", "found": "no k"}
    rows = []
    for name in sorted(SELECTORS):
        build = SELECTORS[name]
        kind = getattr(build, "kind", build)
        options = ", ".join(f"`{option}`" for option in options_of(name))
        rows.append([f"`{name}`", f"{{py:class}}`~neuralgraph.selectors.{kind.__name__}`", takes[k_is(name)], options])
    return table(["name", "class", "takes", "options"], rows)


def statistics() -> list[str]:
    rows = [[f"`{name}`", first_sentence(measure)] for name, measure in ng.analysis.STATISTICS.items()]
    kinds = [[f"`{name}`", meaning] for name, meaning in KINDS.items()]
    return [*table(["statistic", "what it counts"], rows), "", *table(["kind", "what random wirings keep"], kinds)]


def operations() -> list[str]:
    rows = [[f"`{name}`", first_sentence(kind)] for name, kind in OPERATIONS.items()]
    return [*table(["operation", "what it does"], rows), "",
            "Activations: " + ", ".join(f"`{name}`" for name in ACTIVATIONS) + "."]


def recipes() -> list[str]:
    return [line for title, group in GROUPS.items()
            for line in [f"**{title[0].upper()}{title[1:]}**", "",
                         *table(["recipe", "what it trains"], [[f"`{one.name}`", one.description] for one in group]), ""]]


def errors() -> list[str]:
    kinds = [kind for kind in vars(ng.errors).values() if inspect.isclass(kind)
             and issubclass(kind, ng.errors.NeuralGraphError)]
    return table(["error", "when", "also a"], [
        [f"{{py:class}}`~neuralgraph.errors.{kind.__name__}`", first_sentence(kind),
         ", ".join(f"`{base.__name__}`" for base in kind.__bases__)] for kind in kinds])


def commands() -> list[str]:
    """The command line, as its own help has it."""
    context, lines = click.Context(main, info_name="neuralgraph"), []
    for name, command in sorted(main.commands.items()):
        own = click.Context(command, info_name=name, parent=context)
        lines += [f"## {name}", "", "```text", *command.get_help(own).splitlines(), "```", ""]
    return lines


def spread(mean: float | None, std: float | None) -> str:
    shown = [str(Decimal(str(value)).quantize(Decimal("0.1"), ROUND_HALF_UP)) for value in (mean, std) if value is not None]
    return " ± ".join(shown)


def paper() -> list[str]:
    """The rows of the paper's tables beside every measured one."""
    measured = {}
    for path in sorted(RESULTS.glob("table*.json")):
        content = json.loads(path.read_text())
        for row in content["rows"]:
            seeds = len(content["seeds"])
            measured.setdefault((content["table"], row["name"]), []).append(
                f"{spread(row['last']['mean'], row['last']['std'])} ({seeds} seed{'s'[:seeds - 1]}; {content['schedule']})")
    lines = []
    for name, rows in TABLES.items():
        lines += [f"## Table {name.removeprefix('table')}", "", *table(
            ["row", "the paper, 160 epochs", "measured here"],
            [[f"{row.title}", spread(row.mean, row.std), "<br>".join(measured.get((name, row.name), ["not yet"]))]
             for row in rows]), ""]
    return lines


def benchmarks() -> list[str]:
    lines = []
    for path in sorted(RESULTS.glob("*.json")):
        content = json.loads(path.read_text())
        if "measurements" in content:
            lines += [f"## {path.stem.replace('_', ' ').capitalize()}", "", *made_by(path, content), ""]
            lines += measurements(content["measurements"])
    return lines


def on_dgl(on: dict) -> str:
    return f"dgl {on['dgl']}" if "dgl" in on else "without dgl" + (f", on one {on['gpu']}" if "gpu" in on else "")


def made_by(path: Path, content: dict) -> list[str]:
    on = content["environment"]
    return [f"`{content['command']}` on {on['cores']} cores of a processor that calls itself {on['processor']}, "
            f"{on['threads']} threads, torch {on['torch']}, {on_dgl(on)}, Python {on['python']}: "
            f"`benchmarks/results/{path.name}`."]


def measurements(rows: list[dict]) -> list[str]:
    """One table for each set of contenders: medians, and quartiles where there are any; or the rows as they are."""
    lines, groups = [], {}
    for row in rows:
        if "rows" in row:
            lines += plain_rows(row) + [""]
            continue
        unit = "milliseconds" if "milliseconds" in row else "peak_mib"
        groups.setdefault((unit, tuple(row[unit])), []).append(row)
    for (unit, contenders), group in groups.items():
        head = "milliseconds" if unit == "milliseconds" else "MiB"
        lines += table([head, *contenders], [[row["title"], *(cell(row[unit][name]) for name in contenders)]
                                             for row in group], numbers_from=1) + [""]
    return lines


def plain_rows(measurement: dict) -> list[str]:
    """Numbers and words of every row; what is neither is left to the file."""
    columns = list(dict.fromkeys(name for row in measurement["rows"] for name, value in row.items()
                                 if isinstance(value, (int, float, str))))
    rows = [[row[name] if isinstance(row.get(name), str) else number(row[name]) if name in row else "" for name in columns]
            for row in measurement["rows"]]
    return [f"{measurement['title'].capitalize()}:", "", *table([name.replace("_", " ") for name in columns], rows)]


def cell(value: dict | list) -> str:
    if isinstance(value, dict):
        return f"{number(value['median'])} ({number(value['quartiles'][0])}–{number(value['quartiles'][1])})"
    return number(sorted(value)[len(value) // 2])


def number(value: float) -> str:
    """Three significant digits, as people write them."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def arena(path: Path) -> list[str]:
    content = json.loads(path.read_text())
    on = content["versions"]
    rows = [[f"`{row['label']}`", spread(row["last"]["mean"], row["last"]["std"]), difference(row["difference"]),
             number(row["multiply_adds"]["mean"]), number(row["dead_nodes"]["mean"]) if row["dead_nodes"] else ""]
            for row in content["contenders"]]
    return [f"Recipe `{content['recipe']}`, k = {content['k']}, {content['epochs']} epochs, {len(content['seeds'])} seeds, "
            f"{content['data']['train']} training and {content['data']['test']} test images; processor: {on['processor']}, "
            f"torch {on['torch']}.", "",
            *table(["contender", "test accuracy, %", f"against {content['baseline']}, points (95 % interval)",
                    "multiply-adds", "dead nodes"], rows, numbers_from=1)]


def difference(value: dict | None) -> str:
    if value is None:
        return ""
    return f"{value['mean']:+.1f} ({value['low']:+.1f} to {value['high']:+.1f})"


if __name__ == "__main__":
    write()
