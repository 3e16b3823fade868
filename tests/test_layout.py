"""Imports between the parts of the package run in one direction.

    commands → finetuning → training, evaluation → data, models, integrations → ops → backends → reference, triton

`ALLOWED` states the rule for every folder and module. An import counts wherever it stands: inside a function and under
TYPE_CHECKING, too.
"""

import ast
import sys
from graphlib import TopologicalSorter
from importlib.util import resolve_name
from pathlib import Path

import pytest

import electra_kernels

PACKAGE = Path(electra_kernels.__file__).parent
ROOT = PACKAGE.name

# Modules that every part may import. They import nothing of the package but each other.
SHARED = {
    "_interrupt",
    "_version",
    "errors",
    "files",
    "metrics",
    "row_uniforms",
    "special_tokens",
    "tokenizer_files",
    "uniforms",
    "weight_files",
}

# The ops as a user sees them: names of `electra_kernels` itself, of `electra_kernels.ops` and of `electra_kernels.nn`.
OPS = {ROOT, "ops", "nn"}

# Part → other parts that it may import, besides SHARED.
ALLOWED: dict[str, set[str]] = {
    "reference": set(),
    "triton": set(),
    "backends": {"reference", "triton"},
    "ops": {"backends", "reference", "triton"},
    "nn": {"ops"},
    ROOT: {"ops", "nn", "backends"},
    "data": set(),
    "models": OPS,
    "integrations": OPS | {"models"},
    "training": OPS | {"data", "models", "integrations"},
    "evaluation": OPS | {"data", "models", "integrations", "training"},
    "finetuning": OPS | {"data", "models", "integrations", "training", "evaluation"},
    "commands": OPS | {"backends", "data", "models", "integrations", "training", "evaluation", "finetuning"},
    # No other part imports these two.
    "examples": OPS | {"data", "models", "integrations", "training", "evaluation", "finetuning"},
    "__main__": {"commands"},
}
SOURCES = {path: path.read_text(encoding="utf-8") for path in sorted(PACKAGE.rglob("*.py"))}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def part_of(module: str) -> str:
    """The folder or module below the package, for example ``data`` for `electra_kernels.data.rows`."""
    _, _, inside = module.partition(".")
    return inside if inside in ALLOWED else inside.partition(".")[0] or ROOT


def imported_modules(path: Path, source: str) -> list[tuple[int, str]]:
    """Line and absolute name of every module that a source file imports."""
    package = module_name(path if path.name == "__init__.py" else path.parent / "__init__.py")
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            found += [(node.lineno, _module_behind(base, alias.name)) for alias in node.names]
    return found


def _module_behind(base: str, name: str) -> str:
    """The module that ``from base import name`` reads: a submodule, or else ``base`` itself."""
    path = PACKAGE.parent.joinpath(*base.split("."), name)
    is_public = base == ROOT and name in electra_kernels.__all__  # `backends` is a function and a folder
    is_module = path.is_dir() or path.with_suffix(".py").is_file()
    return f"{base}.{name}" if is_module and not is_public else base


def violations(path: Path, source: str) -> list[str]:
    """The imports that `ALLOWED` does not allow, one per line."""
    part = part_of(module_name(path))
    allowed = {part} | SHARED | ALLOWED.get(part, set())
    found = [
        f"{path.relative_to(PACKAGE.parent)}:{line} imports {module}, {part} may not import {part_of(module)}"
        for line, module in imported_modules(path, source)
        if module.split(".")[0] == ROOT and part_of(module) not in allowed
    ]
    return list(dict.fromkeys(found))


def test_every_part_of_the_package_has_a_rule():
    parts = {part_of(module_name(path)) for path in SOURCES}
    assert parts == ALLOWED.keys() | SHARED


@pytest.mark.parametrize("part", sorted(ALLOWED.keys() | SHARED))
def test_a_part_imports_only_what_its_rule_allows(part):
    own = {path: source for path, source in SOURCES.items() if part_of(module_name(path)) == part}
    found = [line for path, source in own.items() for line in violations(path, source)]
    assert not found, "\n".join(found)


def test_the_reference_imports_only_torch():
    """The specification can be read and run without the rest of the package."""
    known = {"torch", *sys.stdlib_module_names}
    for path, source in SOURCES.items():
        if part_of(module_name(path)) != "reference":
            continue
        for line, module in imported_modules(path, source):
            is_own = module.startswith(f"{ROOT}.reference")
            assert is_own or module.split(".")[0] in known, f"{path}:{line} imports {module}"


def test_the_rules_contain_no_cycle():
    TopologicalSorter(ALLOWED).prepare()


@pytest.mark.parametrize(
    "statement",
    [
        "import electra_kernels.training.trainer",
        "from electra_kernels.training.trainer import Trainer",
        "from electra_kernels import training",
        "from ..training import trainer",
        "from .. import training",
        "def run():\n    from electra_kernels.training import trainer",
        "if TYPE_CHECKING:\n    from electra_kernels.training import trainer",
    ],
)
def test_every_form_of_a_forbidden_import_is_found(statement):
    (line,) = violations(PACKAGE / "data" / "rows.py", statement)
    assert line.endswith("data may not import training")


@pytest.mark.parametrize(
    "statement",
    [
        "import torch",
        "from electra_kernels import backends, errors",
        "from electra_kernels.ops import sample_tokens",
        "from . import encoder",
        "from .. import files",
    ],
)
def test_an_allowed_import_is_not_reported(statement):
    assert violations(PACKAGE / "models" / "electra.py", statement) == []
