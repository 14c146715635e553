"""Which files are a model's own, and which content they are kept by."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rematbench.loading import load_attribute, user_imports
from rematbench.records.sources import changed_files, content_of
from rematbench.workload.environment import Sources


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a test imports, no other test finds imported."""
    before = {*sys.modules}
    yield
    for name in {*sys.modules} - before:
        del sys.modules[name]


def write(folder: Path, **files: str) -> None:
    for name, text in files.items():
        path = folder / f"{name.replace('__in__', '/')}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_the_factorys_file_and_what_it_imports_from_the_users_folder(tmp_path: Path) -> None:
    write(
        tmp_path,
        net="import wave, helpers_of_mine.inner\nimport torch.nn.utils.rnn\ndef build():\n import only_now_of_mine",
        helpers_of_mine__in____init__="",
        helpers_of_mine__in__inner="x = 1",
        only_now_of_mine="",
        not_imported_of_mine="",
    )
    sources = Sources(tmp_path, "net.py:build")
    with user_imports(tmp_path, "net.py:build"):
        build = load_attribute("net.py:build", tmp_path)
        first = sources.seen()
        build()
        (tmp_path / "net.py").write_text("edited while it is measured")
        then = sources.seen()
    inner = str(Path("helpers_of_mine", "inner.py"))
    assert {*first} == {"net.py", inner, str(Path("helpers_of_mine", "__init__.py"))}
    assert then == first | {"only_now_of_mine.py": content_of(tmp_path / "only_now_of_mine.py")}
    assert changed_files(then, tmp_path) == ["net.py"]
    (tmp_path / inner).unlink()
    assert sorted(changed_files(then, tmp_path)) == sorted(["net.py", inner])


def test_a_factory_outside_the_root_folder_has_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path / "there", net="import beside_of_mine\ndef build(): ...", beside_of_mine="")
    (tmp_path / "here").mkdir()
    sources, reference = Sources(tmp_path / "here", "../there/net.py:build"), "../there/net.py:build"
    with user_imports(tmp_path / "here", reference):
        load_attribute(reference, tmp_path / "here")
    assert {*sources.seen()} == {"../there/net.py", "../there/beside_of_mine.py"}
    assert changed_files(sources.seen(), tmp_path / "here") == []


def test_installed_packages_are_not_the_users_though_they_stand_in_the_root_folder(tmp_path: Path) -> None:
    site = tmp_path / ".venv" / "lib" / "site-packages"
    write(site, package_of_others="")
    write(tmp_path, net="import package_of_others\ndef build(): ...")
    sources = Sources(tmp_path, "net.py:build")
    with user_imports(tmp_path, "net.py:build"), pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        load_attribute("net.py:build", tmp_path)
    assert {*sources.seen()} == {"net.py"}


def test_an_installed_factory_is_the_models_file_all_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "site-packages", package_of_others="def build(): ...", another_of_theirs="")
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
    load_attribute("package_of_others:build", tmp_path)
    load_attribute("another_of_theirs:__name__", tmp_path)
    sources = Sources(tmp_path, "package_of_others:build")
    assert {*sources.seen()} == {"site-packages/package_of_others.py"}
