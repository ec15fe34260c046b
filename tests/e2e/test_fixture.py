"""docs/fixture.md: each recipe's files are copied out of the page, and its last line is run.

usage: test_fixture.py USERKVM BUILD
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile

import tap

USERKVM, BUILD = (os.path.abspath(p) for p in sys.argv[1:3])
PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/fixture.md")
# What each recipe needs to be here, and a line of a run that went well.
RECIPES = {
    "pytest": ([["python3", "-m", "pytest", "--version"]], r"^8 passed"),
    "CTest": ([["ctest", "--version"], ["cc", "--version"]], r"100% tests passed, 0 tests failed out of 2"),
    "Meson": ([["meson", "--version"], ["cc", "--version"]], r"Ok: +1"),
    "Cargo": ([["cargo", "--version"]], r"test result: ok. 1 passed"),
    "go test": ([["go", "version"]], r"^ok\s+vmm"),
    "Python alone": ([], r"Ran 1 test"),
}


def blocks(text):
    """(file, content) of each block that names one, ("", content) of shell blocks."""
    for _, content in re.findall(r"^```(\w*)\n(.*?)^```$", text, re.S | re.M):
        m = re.match(r"(?:#|//|/\*) ([\w./]+\.\w+)", content)
        yield (m[1] if m else "", content)


def sections():
    parts = re.split(r"^## (.*)$", open(PAGE).read(), flags=re.M)
    return parts[0], dict(zip(parts[1::2], parts[2::2]))


def environment(tmp):
    """userkvm in the PATH by its name, and the library where the loader finds it."""
    os.symlink(USERKVM, os.path.join(tmp, "userkvm"))
    return dict(os.environ, PATH=tmp + ":" + os.environ["PATH"], LD_LIBRARY_PATH=os.path.join(BUILD, "src/preload"))


def recipe(name):
    def case():
        needs, well = RECIPES[name]
        for argv in needs:
            if not shutil.which(argv[0]) or subprocess.run(argv, capture_output=True).returncode:
                raise tap.Skip(" ".join(argv[:3]) + ": not here")
        program, page = sections()
        with tempfile.TemporaryDirectory() as tmp:
            work = os.path.join(tmp, "work")
            commands = []
            for file, content in [*blocks(program), *blocks(page[name])]:
                if not file:
                    commands.append(content)
                    continue
                os.makedirs(os.path.dirname(os.path.join(work, file)), exist_ok=True)
                with open(os.path.join(work, file), "w") as f:
                    f.write(content)
            out, status = tap.run("sh", "-e", "-c", commands[0], cwd=work, env=environment(tmp), timeout=300)
            assert len(commands) == 1 and status == 0 and re.search(well, out, re.M), out
    case.__name__ = "recipe_" + name.lower().replace(" ", "_")
    return case


def every_recipe_is_run():
    assert set(sections()[1]) == set(RECIPES), sections()[1].keys()


tap.main(every_recipe_is_run, *[recipe(name) for name in RECIPES])
