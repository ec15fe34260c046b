"""What is in packaging/: the tarball where it is unpacked, and the CI files' own commands with it.

usage: test_packaging.py DIR [CASE...]      DIR/userkvm-VERSION-x86_64.tar.xz, by make tarball
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


def unpacked():
    tree = os.path.join(tmp.name, "tree")
    if not os.path.exists(tree):
        os.mkdir(tree)
        subprocess.run(["tar", "-xJf", TARBALL, "-C", tree, "--strip-components=1"], check=True)
    return tree


def no_library_of_the_build_machine_is_named():
    tree = unpacked()
    for path in glob.glob(tree + "/bin/*") + glob.glob(tree + "/lib/userkvm/*"):
        runpath = re.search(r"R(?:UN)?PATH.*\[(.*)\]", subprocess.run(["readelf", "-d", path], capture_output=True, text=True).stdout)
        assert runpath and all(p.startswith("$ORIGIN") for p in runpath[1].split(":")), (path, runpath and runpath[1])
        missing = [x for x in subprocess.run(["ldd", path], capture_output=True, text=True).stdout.split("\n") if "not found" in x]
        assert not missing, (path, missing)
    pc = open(tree + "/lib/pkgconfig/userkvm.pc").read()
    assert "prefix=${pcfiledir}/../.." in pc, pc


def the_completions_lie_where_shells_look():
    tree = unpacked()
    for shell, path in (("bash", "bash-completion/completions/userkvm"), ("zsh", "zsh/site-functions/_userkvm"),
                        ("fish", "fish/vendor_completions.d/userkvm.fish")):
        with open(f"{tree}/share/{path}") as f:
            assert f.read() == tap.run(tree + "/bin/userkvm", "completion", shell)[0] != "", path


def the_containerfile_makes_an_image():
    """As podman and docker would, from a base that debootstrap makes; then a job in it, as nobody and without capabilities."""
    for program in ("buildah", "debootstrap"):
        if not shutil.which(program):
            raise tap.Skip(f"no {program}")
    if os.getuid():
        raise tap.Skip("debootstrap wants root")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        def buildah(*argv):
            out, status = tap.run("buildah", "--root", place + "/store", "--runroot", place + "/run", "--storage-driver", "vfs", *argv,
                                  timeout=3600)
            assert status == 0, (argv, out[-3000:])
            return out.split()[-1] if out.split() else ""

        out, status = tap.run("debootstrap", "--variant=minbase", "bookworm", place + "/base", timeout=3600)
        assert status == 0, out[-2000:]
        subprocess.run(["tar", "-C", place + "/base", "-cf", place + "/base.tar", "--exclude=./var/cache/apt/archives/*.deb", "."], check=True)
        base = buildah("from", "scratch")
        buildah("add", base, place + "/base.tar", "/")
        buildah("commit", "--rm", base, "docker.io/library/debian:12")
        context = place + "/userkvm"
        files = subprocess.run(["git", "-C", TOP, "ls-files", "-z"], stdout=subprocess.PIPE, check=True).stdout
        os.mkdir(context)
        subprocess.run(["xargs", "-0", "cp", "--parents", "-t", context], input=files, cwd=TOP, check=True)
        buildah("bud", "--isolation", "chroot", "--pull-never", "-f", context + "/packaging/Containerfile", "-t", "userkvm", context)
        job = buildah("from", "--pull-never", "localhost/userkvm")
        for words, want in ((("userkvm", "doctor", "--preflight"), "guests run here"), (("userkvm", "walkthrough"), "RET_PF_FIXED"),
                            (("userkvm", "run", "--", "sh", "-c", "id -u; ls -l /dev/kvm"), "10, 232"),
                            (("sh", "-c", "(echo info kvm; echo quit) | userkvm run -- qemu-system-x86_64 -accel kvm -m 64 -nodefaults "
                              "-display none -S -monitor stdio"), "kvm support: enabled")):
            out, status = tap.run("buildah", "--root", place + "/store", "--runroot", place + "/run", "--storage-driver", "vfs", "run",
                                  "--isolation", "chroot", "--cap-drop", "all", job, "--", *words, timeout=300)
            assert status == 0 and want in out, (words, out[-2000:])
        buildah("rm", "--all")


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


tap.select((the_action_puts_userkvm_into_the_path, the_gitlab_template_puts_userkvm_into_the_path, no_library_of_the_build_machine_is_named,
         the_completions_lie_where_shells_look, the_docs_examples_are_yaml, the_containerfile_makes_an_image), (), sys.argv[2:])
