"""What `make package` has written, and the Dockerfile."""

import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ROOT / "target/package"
VERSION = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.M).group(1)


def committed():
    listed = subprocess.check_output(["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, text=True)
    return {path for path in listed.splitlines() if (ROOT / path).exists()}


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory):
    """The zip for PGXN."""
    home = tmp_path_factory.mktemp("pgxn")
    with zipfile.ZipFile(PACKAGES / f"temptoken-{VERSION}.zip") as file:
        file.extractall(home)
    directory, = home.iterdir()
    return directory


def test_the_zip_is_as_pgxn_wants_it(unpacked):
    assert unpacked.name == f"temptoken-{VERSION}"
    subprocess.run([ROOT / "target/pgxn_meta/bin/pgxn_meta", unpacked / "META.json"], check=True)
    meta = (unpacked / "META.json").read_text()
    assert meta.count(f'"version": "{VERSION}"') == 2
    for kind in ["file", "docfile"]:
        assert (unpacked / re.search(rf'"{kind}": "(.*)"', meta).group(1)).is_file()


def test_the_zip_has_every_source_and_nothing_else(unpacked):
    assert {str(path.relative_to(unpacked)) for path in unpacked.rglob("*") if path.is_file()} == committed()


def test_the_tarball_has_what_the_package_has():
    packages = list(PACKAGES.glob(f"*_{VERSION}-1_*.deb"))
    assert packages
    for package in packages:
        major = re.match(r"postgresql-(\d+)-", package.name).group(1)
        listed = subprocess.run(["dpkg-deb", "--fsys-tarfile", package], check=True, stdout=subprocess.PIPE).stdout
        tarball, = PACKAGES.glob(f"temptoken-{VERSION}-pg{major}-linux-*.tar.gz")
        names = subprocess.run(["tar", "-t"], input=listed, check=True, stdout=subprocess.PIPE).stdout.decode().split()
        in_package = {name.removeprefix("./") for name in names if not name.endswith("/")}
        with tarfile.open(tarball) as file:
            assert {member.name for member in file if member.isfile()} == in_package
        for needed in ["temptoken.so", "temptoken.control", f"temptoken--{VERSION}.sql", "copyright"]:
            assert any(name.endswith("/" + needed) for name in in_package), needed


def test_the_version_is_in_one_place():
    may_name_it = {"Cargo.toml", "Cargo.lock", "CHANGELOG.md"}
    of_the_project = [path for path in committed() - may_name_it if not path.startswith(("docs/", "examples/", "tests/", "bench/"))]
    for path in of_the_project:
        assert not re.search(rf"(?<![\d.]){re.escape(VERSION)}(?![\d.])", (ROOT / path).read_text()), path


def test_the_dockerfile_has_no_finding():
    hadolint = Path(sys.executable).parent / "hadolint"
    subprocess.run([hadolint, "--failure-threshold", "style", ROOT / "packaging/Dockerfile"], check=True)
