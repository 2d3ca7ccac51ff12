"""Packaging. Every setting is in `settings.ini`, which nbdev reads as well."""
import shlex
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

root = Path(__file__).parent
ini = ConfigParser(delimiters=["="])
ini.read(root / "settings.ini", encoding="utf-8")
cfg = ini["DEFAULT"]

setup(
    name=cfg["lib_name"],
    version=cfg["version"],
    description=cfg["description"],
    long_description=(root / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords=cfg["keywords"].split(),
    author=cfg["author"],
    license="Apache-2.0",
    python_requires=">=" + cfg["min_python"],
    packages=find_packages(include=[cfg["lib_path"], cfg["lib_path"] + ".*"]),
    package_data={cfg["lib_path"]: ["starts/*.safetensors", "starts/*.json", "starts/*.md",
                                    "example/*"]},
    install_requires=shlex.split(cfg["requirements"]),
    extras_require={kind: shlex.split(cfg[f"{kind}_requirements"]) for kind in ("dev", "fast")},
    entry_points={"console_scripts": shlex.split(cfg["console_scripts"]),
                  "nbdev": [f"{cfg['lib_path']} = {cfg['lib_path']}._modidx:d"]},
)
