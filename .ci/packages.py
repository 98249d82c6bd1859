"""Looks into the wheel and the sdist in a folder, or prints the lowest versions of what the wheel needs (--lowest)."""

import re
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
JUNK = re.compile(r"__pycache__|\.pyc$|\.so$|_build/|_made/|\.git/|(^|/)runs/|\.egg-info/.*/|\.hypothesis|\.pytest_cache")
NOT_LOWEST = {"torch"}


def sources(*folders: str) -> set[str]:
    """The files of these folders of the checkout that belong to it."""
    return {path.relative_to(ROOT).as_posix() for folder in folders for path in (ROOT / folder).rglob("*")
            if path.is_file() and not JUNK.search(path.relative_to(ROOT).as_posix())}


def check_wheel(path: Path) -> None:
    """The package, all of it, and nothing else."""
    with zipfile.ZipFile(path) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
    package = {name for name in names if not re.match(r"neuralgraph-[^/]*\.dist-info/", name)}
    expected = sources("neuralgraph")
    assert package == expected, f"{path.name} has {sorted(package - expected)} and lacks {sorted(expected - package)}"
    print(f"{path.name}: {len(package)} files of the package and {len(names) - len(package)} about it")


def check_sdist(path: Path) -> None:
    """With it everything can be built, tested and read."""
    with tarfile.open(path) as sdist:
        names = {member.name.partition("/")[2] for member in sdist.getmembers() if member.isfile()}
    wanted = sources("neuralgraph", "tests", "docs", "examples", "benchmarks") | {
        "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "CITATION.cff", "LICENSE", "pyproject.toml", "setup.cfg"}
    junk = [name for name in names if JUNK.search(name)]
    assert wanted <= names and not junk, f"{path.name} lacks {sorted(wanted - names)} and has {junk}"
    print(f"{path.name}: {len(names)} files")


def lowest(path: Path) -> list[str]:
    """``name==version`` of the lowest version of every package that the wheel needs and says one for."""
    with zipfile.ZipFile(path) as wheel:
        meta, = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
        lines = wheel.read(meta).decode().splitlines()
    needed = [re.match(r"Requires-Dist: ([\w.-]+)(.*)", line) for line in lines if "extra ==" not in line]
    found = [(need[1], re.search(r">=([\w.]+)", need[2])) for need in needed if need]
    return [f"{name}=={bound[1]}" for name, bound in found if bound and name not in NOT_LOWEST]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    wheel, = folder.glob("*.whl")
    sdist, = folder.glob("*.tar.gz")
    if "--lowest" in sys.argv:
        print(*lowest(wheel), sep="\n")
    else:
        check_wheel(wheel)
        check_sdist(sdist)
