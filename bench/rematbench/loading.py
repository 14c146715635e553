"""Find and load what a reference names: `family.network`, `package.module:attribute` or `path/to/file.py:attribute`.

The reference models live in a folder called `models`, which a user's project usually has too, so they are found by
location and loaded under a private alias; nothing of ours ever imports a package by the name `models`.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import ModuleType
from typing import Any

from rematbench.errors import ModelError, RematbenchError, shown, unknown
from rematbench.reading import parse_toml

_ALIAS = "_rematbench"


def load_attribute(reference: str, root: Path, error: type[RematbenchError] = ModelError) -> Any:
    """Import a module or file and return one of its attributes.

    Args:
        reference: one of the three forms above.
        root: the folder that relative files and the user's packages are found in.
        error: what to raise.

    Raises:
        error: no such file, module or attribute, or importing it raised; the cause is chained.
    """
    if ":" not in reference:
        file, attribute = reference_file(reference)
        module = _load_file(file)
    else:
        source, _, attribute = reference.rpartition(":")
        module = _load(source, root, error)
    if not hasattr(module, attribute):
        public = [name for name in vars(module) if not name.startswith("_")]
        raise error(f"{reference}: {unknown('attribute', attribute, public)}")
    return getattr(module, attribute)


def parse_reference(text: str, error: type[RematbenchError] = ModelError) -> tuple[str, dict[str, Any]]:
    """Read `reference[?argument=value[&argument=value]…]`; values are TOML, anything else is text.

    Raises:
        error: an argument has no value.
    """
    reference, _, query = text.partition("?")
    arguments = {}
    for pair in filter(None, query.split("&")):
        name, equals, value = pair.partition("=")
        if not name or not equals:
            raise error(f"{shown(text)}: write arguments as ?depth=24&width=512")
        arguments[name] = parse_value(value)
    return reference, arguments


def parse_value(text: str) -> Any:
    """Read one TOML value; what is none is a string."""
    try:
        table = parse_toml(f"value = {text}")
    except ValueError:
        return text
    return table["value"] if len(table) == 1 else text  # a second line may be a key of its own


def check_reference(reference: str, root: Path, error: type[RematbenchError] = ModelError) -> None:
    """Refuse what is plainly not there, before anything is run; a module is only known once it is imported.

    Raises:
        error: there is no such reference model, or no such file.
    """
    if ":" not in reference:
        reference_file(reference)
    else:
        _check_file(reference.rpartition(":")[0], root, error)


def reference_models() -> dict[str, str]:
    """Return every reference model with the first line of its docstring, read without importing any."""
    return {
        f"{file.stem}.{function.name}": (ast.get_docstring(function) or "").partition("\n")[0]
        for file in sorted(_models_folder().glob("[!_]*.py"))
        for function in ast.parse(file.read_bytes()).body
        if isinstance(function, ast.FunctionDef) and not function.name.startswith("_")
    }


def reference_file(name: str) -> tuple[Path, str]:
    """Return the file and function of a reference model.

    Raises:
        ModelError: there is none of that name; the closest is offered.
    """
    known = reference_models()
    if name not in known:
        raise ModelError(f"{unknown('model', name, known)}; your own is written file.py:build or package.module:build")
    family, _, network = name.rpartition(".")
    return _models_folder() / f"{family}.py", network


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Put a folder first on the import path while a user's code is imported and built."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with suppress(ValueError):  # the user's code may have taken it out
            sys.path.remove(str(folder))


@contextmanager
def user_imports(root: Path, reference: str) -> Iterator[None]:
    """Let a model's code import, while it is built and run, what stands in the root folder and beside its own file.

    As for a script, and in every process that builds a model alike: where two paths differ, a model can be another.
    """
    source = reference.partition(":")[0]
    with ExitStack() as folders:
        if source.endswith(".py"):
            folders.enter_context(importable((root / source).parent))
        folders.enter_context(importable(root))
        yield


def _models_folder() -> Path:
    """Return the reference models' folder: inside the package in a wheel, beside it in a checkout."""
    package = Path(__file__).parent
    return next(folder for folder in (package / "models", package.parent.parent / "models") if folder.is_dir())


def _load(source: str, root: Path, error: type[RematbenchError]) -> ModuleType:
    _check_file(source, root, error)
    try:
        with importable(root):
            return _load_file(root / source) if source.endswith(".py") else importlib.import_module(source)
    except RematbenchError:
        raise
    except ModuleNotFoundError as missing:
        hint = f"; looked in {root} and the installed packages" if missing.name == source.partition(".")[0] else ""
        raise error(f"{source} cannot be imported: no module named {missing.name!r}{hint}") from missing
    except (Exception, SystemExit) as cause:
        raise error(f"{source} cannot be imported: {type(cause).__name__}: {cause}") from cause


def _check_file(source: str, root: Path, error: type[RematbenchError]) -> None:
    if source.endswith(".py") and not (root / source).is_file():
        raise error(f"{source}: no such file in {root}")


def _load_file(path: Path) -> ModuleType:
    """Import one file as part of its folder's alias, so that its relative imports work, now and later."""
    path = path.resolve()
    name = f"{_package_of(path.parent)}.{path.stem}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with importable(path.parent):
            spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _package_of(folder: Path) -> str:
    """Return the alias of a folder, made a package; one for each, so that files of one name never meet."""
    name = f"{_ALIAS}_{hashlib.sha256(bytes(folder)).hexdigest()[:12]}"
    package = sys.modules.setdefault(name, ModuleType(name))
    package.__path__ = [str(folder)]
    return name
