"""What is in packaging/: the tarball where it is unpacked, and the CI files' own commands with it.

usage: test_packaging.py DIR      DIR/userkvm-VERSION-x86_64.tar.xz, by make tarball
"""
import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile

import tap

TARBALL = os.path.abspath(glob.glob(os.path.join(sys.argv[1], "userkvm-*.tar.xz"))[0])
TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../..")
tmp = tempfile.TemporaryDirectory()


def yaml(path):
    try:
        import yaml as y
    except ImportError:
        raise tap.Skip("python3-yaml is not installed")
    with open(os.path.join(TOP, path)) as f:
        return y.safe_load(f)


def bash(text, **env):
    return tap.run("bash", "-euo", "pipefail", "-c", text, cwd=tmp.name, env=dict(os.environ, **env))


def the_action_puts_userkvm_into_the_path():
    action = yaml("packaging/github/action.yml")
    step, = action["runs"]["steps"]
    assert action["runs"]["using"] == "composite" and step["shell"] == "bash" and step["env"]["TARBALL"] == "${{ inputs.tarball }}"
    files = {name: os.path.join(tmp.name, name) for name in ("path", "output")}
    out, status = bash(step["run"], TARBALL=TARBALL, RUNNER_TEMP=tmp.name, GITHUB_PATH=files["path"], GITHUB_OUTPUT=files["output"])
    assert status == 0 and "guests run here" in out, out
    bin_ = open(files["path"]).read().strip()
    assert shutil.which("userkvm", path=bin_) and open(files["output"]).read() == f"prefix={os.path.dirname(bin_)}\n"
    out, status = tap.run("userkvm", "walkthrough", env=dict(os.environ, PATH=bin_ + ":" + os.environ["PATH"]))
    assert status == 0 and "RET_PF_FIXED" in out, out


def the_gitlab_template_puts_userkvm_into_the_path():
    job = yaml("packaging/gitlab.yml")[".userkvm"]
    prefix = job["variables"]["VM_PREFIX"].replace("$CI_PROJECT_DIR", tmp.name)
    script = "\n".join(job["before_script"] + ["command -v userkvm", "userkvm run -- sh -c 'echo served; ls -l /dev/kvm'"])
    out, status = bash(script, VM_TARBALL=TARBALL, VM_PREFIX=prefix)
    assert status == 0 and prefix + "/bin/userkvm\n" in out and "served" in out and "10, 232" in out, out


def no_library_of_the_build_machine_is_named():
    tree = os.path.join(tmp.name, "tree")
    os.mkdir(tree)
    subprocess.run(["tar", "-xJf", TARBALL, "-C", tree, "--strip-components=1"], check=True)
    for path in glob.glob(tree + "/bin/*") + glob.glob(tree + "/lib/userkvm/*"):
        runpath = re.search(r"R(?:UN)?PATH.*\[(.*)\]", subprocess.run(["readelf", "-d", path], capture_output=True, text=True).stdout)
        assert runpath and all(p.startswith("$ORIGIN") for p in runpath[1].split(":")), (path, runpath and runpath[1])
        missing = [x for x in subprocess.run(["ldd", path], capture_output=True, text=True).stdout.split("\n") if "not found" in x]
        assert not missing, (path, missing)
    pc = open(tree + "/lib/pkgconfig/userkvm.pc").read()
    assert "prefix=${pcfiledir}/../.." in pc, pc


def the_docs_examples_are_yaml():
    try:
        import yaml as y
    except ImportError:
        raise tap.Skip("python3-yaml is not installed")
    for page in ("ci.md", "fleet.md"):
        path = os.path.join(TOP, "docs", page)
        if os.path.exists(path):
            for block in re.findall(r"```yaml\n(.*?)```", open(path).read(), re.S):
                assert all(isinstance(d, dict) for d in y.safe_load_all(block)), block


tap.main(the_action_puts_userkvm_into_the_path, the_gitlab_template_puts_userkvm_into_the_path, no_library_of_the_build_machine_is_named,
         the_docs_examples_are_yaml)
