"""The loader: three forms of reference, a user's neighbours, and a sentence for everything that is not there."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

from rematbench.errors import ModelError, PlacementError, RematbenchError
from rematbench.loading import importable, load_attribute, reference_file, reference_models

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def _imports_undone() -> Iterator[None]:
    """Begin without a package called `models`, and forget what a test imported from its folder."""
    modules, path = dict(sys.modules), list(sys.path)
    for name in [name for name in modules if name.partition(".")[0] == "models"]:
        del sys.modules[name]
    yield
    for name in [name for name in sys.modules if name not in modules and _is_ours(sys.modules[name])]:
        del sys.modules[name]
    sys.modules.update(modules)
    sys.path[:] = path


def _is_ours(module: ModuleType) -> bool:
    return module.__name__.startswith("_rematbench") or "pytest-of" in str(getattr(module, "__file__", None))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """Write files and return their folder."""

    def written(files: dict[str, str]) -> Path:
        for name, text in files.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text)
        return tmp_path

    return written


Write = Callable[[dict[str, str]], Path]


# What can be loaded


@pytest.mark.parametrize("reference", ["net.py:build", "deep/er/net.py:build", "package.net:build", "net:build"])
def test_a_file_or_a_module_of_the_user(write: Write, reference: str) -> None:
    code = "def build(): return __file__"
    root = write(dict.fromkeys(("net.py", "deep/er/net.py", "package/net.py"), code))
    source = reference.removesuffix(":build")
    file = source if source.endswith(".py") else source.replace(".", "/") + ".py"
    assert load_attribute(reference, root)() == str(root / file)


def test_a_file_outside_the_root(write: Write, tmp_path_factory: pytest.TempPathFactory) -> None:
    root = write({"net.py": "build = 1"})
    assert load_attribute(f"{root}/net.py:build", tmp_path_factory.mktemp("elsewhere")) == 1


def test_a_module_that_is_installed(tmp_path: Path) -> None:
    assert load_attribute("rematbench.loading:load_attribute", tmp_path) is load_attribute


@pytest.mark.parametrize("name", reference_models())
def test_a_reference_model(name: str, tmp_path: Path) -> None:
    factory = load_attribute(name, tmp_path)
    file, function = reference_file(name)
    assert callable(factory)
    assert (Path(factory.__code__.co_filename), factory.__name__) == (file, function)
    assert reference_models()[name] == factory.__doc__.splitlines()[0]


def test_reference_models_are_listed_without_importing_them() -> None:
    before = set(sys.modules)
    assert {name.partition(".")[0] for name in reference_models()} == {
        file.stem for file in CHECKOUT.glob("models/[!_]*.py")
    }
    assert set(sys.modules) == before


def test_a_file_is_imported_once(write: Write) -> None:
    root = write({"net.py": "state = []\ndef build(): return state"})
    load_attribute("net.py:build", root)().append(1)
    assert load_attribute("./net.py:build", root)() == [1]


# Neighbours


@pytest.mark.parametrize(
    "how", ["from .helper import VALUE", "from helper import VALUE", "from .sub.part import VALUE"]
)
@pytest.mark.parametrize("form", ["{how}\ndef build(): return VALUE", "def build():\n    {how}\n    return VALUE"])
def test_a_file_imports_its_neighbours_at_once_or_later(write: Write, how: str, form: str) -> None:
    root = write({"nets/net.py": form.format(how=how), "nets/helper.py": "VALUE = 7", "nets/sub/part.py": "VALUE = 7"})
    build = load_attribute("nets/net.py:build", root)
    with importable(root / "nets"):
        assert build() == 7


def test_a_file_imports_from_the_root(write: Write) -> None:
    root = write({"nets/net.py": "from shared import VALUE as build", "shared.py": "VALUE = 7"})
    assert load_attribute("nets/net.py:build", root) == 7


def test_two_files_of_one_name_keep_their_own_neighbours(write: Write) -> None:
    code = "from .helper import VALUE\ndef build():\n    from .late import LATE\n    return VALUE, LATE"
    for side in ("left", "right"):
        folder = {"net.py": code, "helper.py": f"VALUE = {side!r}", "late.py": f"LATE = {side!r}"}
        root = write({f"{side}/{name}": text for name, text in folder.items()})
    left, right = load_attribute("left/net.py:build", root), load_attribute("right/net.py:build", root)
    assert left() == ("left", "left")
    assert right() == ("right", "right")
    assert load_attribute("left/net.py:build", root) is left


def test_a_users_own_package_called_models_is_the_users(write: Write) -> None:
    own = {"__init__.py": "", "net.py": "from models.plain import build", "plain.py": "build = 'own'"}
    root = write({f"models/{name}": text for name, text in own.items()})
    before = load_attribute("plain.mlp", root)
    assert load_attribute("models.net:build", root) == "own"
    assert load_attribute("models/plain.py:build", root) == "own"
    assert load_attribute("plain.mlp", root) is before
    assert load_attribute("residual.conv_bn", root).__code__.co_filename == str(CHECKOUT / "models" / "residual.py")
    assert sys.modules["models"].__file__ == str(root / "models" / "__init__.py")


# What is not there

REFUSALS = {
    "there.py:build": "there.py: no such file in {root}",
    "nets/there.py:build": "nets/there.py: no such file in {root}",
    "there:build": "there cannot be imported: no module named 'there'; looked in {root} and the installed packages",
    "package.there:build": "package.there cannot be imported: no module named 'package.there'",
    "net.py:biuld": "net.py:biuld: unknown attribute 'biuld': did you mean 'build'? known are SIZE, build",
    "package.net:biuld": "package.net:biuld: unknown attribute 'biuld': did you mean 'build'? known are build",
    "needs.py:build": "needs.py cannot be imported: no module named 'absent'",
    "needs:build": "needs cannot be imported: no module named 'absent'",
    "raises.py:build": "raises.py cannot be imported: ValueError: not today",
    "broken.py:build": "broken.py cannot be imported: SyntaxError: invalid syntax (broken.py, line 1)",
    "opens.py:build": "opens.py cannot be imported: FileNotFoundError: no weights here",
    "script.py:build": "script.py cannot be imported: SystemExit: 2",
    "net.py:": "net.py:: unknown attribute '': known are SIZE, build",
    ":build": " cannot be imported: ValueError: Empty module name",
}

FILES = {
    "net.py": "SIZE = 1\n_hidden = 2\ndef build(): ...",
    "package/net.py": "build = 1",
    "needs.py": "import absent",
    "raises.py": "raise ValueError('not today')",
    "broken.py": "def def",
    "opens.py": "raise FileNotFoundError('no weights here')",
    "script.py": "import sys; sys.exit(2)",
}


@pytest.mark.parametrize("error", [ModelError, PlacementError])
@pytest.mark.parametrize("reference", REFUSALS)
def test_what_cannot_be_loaded_is_said_in_a_sentence(
    write: Write, reference: str, error: type[RematbenchError]
) -> None:
    root = write(FILES)
    path = list(sys.path)
    with pytest.raises(error) as caught:
        load_attribute(reference, root, error)
    assert str(caught.value) == REFUSALS[reference].format(root=root)
    assert sys.path == path


@pytest.mark.parametrize(
    ("reference", "cause"), [("needs.py:build", ModuleNotFoundError), ("raises.py:build", ValueError)]
)
def test_the_cause_is_chained(write: Write, reference: str, cause: type[Exception]) -> None:
    with pytest.raises(ModelError) as caught:
        load_attribute(reference, write(FILES))
    assert isinstance(caught.value.__cause__, cause)


def test_an_error_of_ours_passes_through(write: Write) -> None:
    root = write({"net.py": "from rematbench.errors import DeviceError\nraise DeviceError('no such device')"})
    with pytest.raises(RematbenchError, match=r"^no such device$"):
        load_attribute("net.py:build", root)


def test_a_file_that_failed_is_tried_again(write: Write) -> None:
    root = write({"net.py": "raise ValueError"})
    with pytest.raises(ModelError):
        load_attribute("net.py:build", root)
    # Of another length: Python tells files of one second apart by it.
    write({"net.py": "build = 'mended at last'"})
    assert load_attribute("net.py:build", root) == "mended at last"


def test_an_unknown_reference_model_offers_the_closest_and_the_other_forms(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        load_attribute("residual.conv_nb", tmp_path)
    text = str(caught.value)
    assert text.startswith("unknown model 'residual.conv_nb': did you mean 'residual.conv_bn'? known are ")
    assert text.endswith("; your own is written file.py:build or package.module:build")
    assert all(name in text for name in reference_models())


def test_code_that_rearranges_the_import_path_is_let_be(write: Write) -> None:
    """Scripts do this to reach a folder of their own."""
    code = "import sys\nsys.path[:] = [entry for entry in sys.path if 'pytest-of' not in entry]\nbuild = 1"
    root = write({"net.py": code})
    assert load_attribute("net.py:build", root) == 1
