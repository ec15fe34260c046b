"""docs/fleet.md: each file is what its own reader takes; and the Slurm array, on two nodes of which one dies.

usage: test_fleet.py USERKVM BUILD
"""
import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

import tap

USERKVM, BUILD = (os.path.abspath(p) for p in sys.argv[1:3])
PAGE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../docs/fleet.md")


def files():
    """What each block of the page is called, and its text."""
    found = {}
    for content in re.findall(r"^```\w+\n(.*?)^```$", open(PAGE).read(), re.S | re.M):
        m = re.search(r"^# ([\w./-]+\.(?:sbatch|ya?ml))", content, re.M)
        if m:
            found[m[1]] = content
    return found


def yaml_files_have_what_their_readers_want():
    try:
        import yaml
    except ImportError:
        raise tap.Skip("python3-yaml is not installed")
    page = {name: yaml.safe_load(text) for name, text in files().items() if not name.endswith("sbatch")}
    job = page["kernels-job.yaml"]
    assert job["apiVersion"] == "batch/v1" and job["kind"] == "Job" and job["spec"]["completionMode"] == "Indexed"
    container, = job["spec"]["template"]["spec"]["containers"]
    params = re.search(r"^set -- (.*)$", container["args"][0], re.M)[1].split()
    assert len(params) == job["spec"]["completions"] == 8, params
    for i in (0, 7):  # the pod's own script, its last command instead of it shown
        out, status = tap.run("sh", "-ec", container["args"][0].replace("exec userkvm", "echo userkvm"), env={"JOB_COMPLETION_INDEX": str(i)})
        assert status == 0 and out == f"userkvm run --params {params[i]} -- /tests/run\n", out
    for p in params:
        out, status = tap.run(USERKVM, "run", "--params", p, "--", "true")
        assert status == 0 and not out, out
    assert page["kubevirt.yaml"]["spec"]["configuration"]["developerConfiguration"]["useEmulation"] is True
    steps = page[".github/workflows/kernels.yml"]["jobs"]["boot"]["steps"]
    assert any(s.get("uses") == "./userkvm/packaging/github" for s in steps), steps
    assert page[".gitlab-ci.yml"]["boot"]["extends"] == ".userkvm"
    if shutil.which("shellcheck"):
        path = os.path.join(tempfile.gettempdir(), f"fleet-{os.getpid()}.sh")
        open(path, "w").write(files()["kernels.sbatch"])
        out, status = tap.run("shellcheck", path)
        os.unlink(path)
        assert status == 0, out


# --- two nodes of Slurm on one machine ---

def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


CONF = """\
ClusterName=two
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={dir}/munge.socket
CredType=cred/munge
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
StateSaveLocation={dir}/state
SlurmdSpoolDir={dir}/spool-%n
SlurmdPidFile={dir}/slurmd-%n.pid
SlurmctldPidFile={dir}/slurmctld.pid
SlurmctldLogFile={dir}/slurmctld.log
SlurmdLogFile={dir}/slurmd-%n.log
SlurmdParameters=config_overrides
SlurmdTimeout=10
ReturnToService=2
SchedulerParameters=sched_interval=2,requeue_delay=1
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=2000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=2000
PartitionName=all Nodes=n1,n2 Default=YES State=UP MaxTime=INFINITE
"""


@contextlib.contextmanager
def cluster():
    with tempfile.TemporaryDirectory() as d:
        os.mkdir(d + "/state")
        with open(d + "/munge.key", "wb") as f:
            f.write(os.urandom(128))
        os.chmod(d + "/munge.key", 0o600)
        with open(d + "/slurm.conf", "w") as f:
            f.write(CONF.format(host=socket.gethostname().split(".")[0], dir=d, ports=free_ports(3)))
        env = dict(os.environ, SLURM_CONF=d + "/slurm.conf", PATH=os.environ["PATH"] + ":/usr/sbin:/sbin")
        munged = subprocess.Popen(["munged", "-F", "--force", f"--key-file={d}/munge.key", f"--socket={d}/munge.socket", f"--pid-file={d}/munge.pid",
                                   f"--log-file={d}/munge.log", f"--seed-file={d}/munge.seed"], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: os.path.exists(d + "/munge.socket"), "munged")
        with open(d + "/out", "w") as out:
            daemons = {"munged": munged, "ctld": subprocess.Popen(["slurmctld", "-D", "-f", d + "/slurm.conf"], env=env, stdout=out, stderr=out)}
            for n in ("n1", "n2"):
                daemons[n] = subprocess.Popen(["slurmd", "-D", "-N", n, "-f", d + "/slurm.conf"], env=env, stdout=out, stderr=out, start_new_session=True)
        try:
            wait_for(lambda: tap.run("sinfo", "-h", "-o", "%D %t", env=env)[0].strip() == "2 idle",
                     lambda: tap.run("sinfo", env=env)[0] + "".join(open(f"{d}/{x}").read()[-1500:] for x in os.listdir(d) if x.endswith("log") or x == "out"))
            yield d, env, daemons
        finally:
            tap.run("scancel", "-u", "root", env=env)
            for p in reversed(daemons.values()):
                p.terminate()
            for p in daemons.values():
                try:
                    p.wait(10)
                except subprocess.TimeoutExpired:
                    p.kill()
                    p.wait()
            for pid in of_cluster(d):
                os.kill(pid, signal.SIGKILL)


def of_cluster(d):
    """The processes whose environment or command names the directory."""
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                text = open(f"/proc/{entry}/environ", "rb").read() + open(f"/proc/{entry}/cmdline", "rb").read()
            except OSError:
                continue
            if d.encode() in text:
                yield int(entry)


def wait_for(what, name, seconds=120):
    deadline = time.time() + seconds * tap.PATIENCE
    while not what():
        assert time.time() < deadline, name if isinstance(name, str) else name()
        time.sleep(0.3)


def environment(pid):
    try:
        return open(f"/proc/{pid}/environ", errors="replace").read()
    except OSError:
        return ""


def command(pid):
    try:
        return open(f"/proc/{pid}/cmdline", "rb").read()
    except OSError:
        return b""


def on_n2(pid):
    """A slurmstepd is its node's by what it has started."""
    return any("SLURMD_NODENAME=n2" in environment(p) for p in descendants(pid))


def descendants(pid):
    try:
        children = [int(c) for t in os.listdir(f"/proc/{pid}/task") for c in open(f"/proc/{pid}/task/{t}/children").read().split()]
    except OSError:
        return []
    return children + [g for c in children for g in descendants(c)]


def eight_kernels_on_two_nodes_one_of_which_dies():
    if os.geteuid() != 0:
        raise tap.Skip("two nodes on one machine want root")
    for program in ("slurmctld", "slurmd", "munged", "sbatch"):
        if not shutil.which(program, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
            raise tap.Skip(f"{program} is not installed (slurm-wlm)")
    if not os.path.exists(os.path.join(BUILD, "demo/initrd.img")):
        raise tap.Skip("no initramfs: scripts/demo-files")
    kernels = sorted(os.listdir(os.path.join(BUILD, "kernels"))) if os.path.isdir(os.path.join(BUILD, "kernels")) else []
    if len(kernels) != 8:
        raise tap.Skip("no eight kernels: scripts/kernel-files")
    with cluster() as (d, env, daemons):
        work = os.path.join(d, "work")
        os.makedirs(work + "/out")
        with open(work + "/kernels.sbatch", "w") as f:
            f.write(files()["kernels.sbatch"])
        os.symlink(USERKVM, d + "/userkvm")
        env = dict(env, PATH=d + ":" + env["PATH"], KERNELS=os.path.join(BUILD, "kernels"), INITRD=os.path.join(BUILD, "demo/initrd.img"),
                   APPEND="demo.batch panic=-1")
        out, status = tap.run("sbatch", "--parsable", "kernels.sbatch", cwd=work, env=env)
        assert status == 0, out

        def log(i):
            path = f"{work}/out/{i}.log"
            return open(path, errors="replace").read() if os.path.exists(path) else ""

        # a task runs on n2: the node dies, with all that it had started
        wait_for(lambda: any(" on n2:" in log(i) and "Linux version" in log(i) for i in range(1, 9)),
                 lambda: "no task began on n2\n" + tap.run("squeue", env=env)[0] + open(d + "/slurmctld.log").read()[-2000:])
        lost = next(i for i in range(1, 9) if " on n2:" in log(i) and "demo done" not in log(i))
        # all at once, as by a plug that is pulled: frozen first, that nobody tells of another's end
        doomed = [p for p in of_cluster(d) if "SLURMD_NODENAME=n2" in environment(p) or b"slurmstepd: [" in command(p) and on_n2(p)]
        doomed += [daemons["n2"].pid, *descendants(daemons["n2"].pid)]
        for how in (signal.SIGSTOP, signal.SIGKILL):
            for pid in doomed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, how)
        wait_for(lambda: tap.run("squeue", "-h", env=env)[0].strip() == "", lambda: tap.run("squeue", env=env)[0] + tap.run("sinfo", env=env)[0], seconds=500)
        for i in range(1, 9):
            assert "userkvm: demo done" in log(i), (i, log(i)[-500:], open(d + "/slurmctld.log").read()[-4000:])
        assert f"task {lost} on n1:" in log(lost), (lost, log(lost)[:200])
        assert [re.search(r"vmlinuz-\S+$", log(i).split("\n")[0])[0] for i in range(1, 9)] == kernels
        # each said which it is
        assert all(f"Linux version {kernel[len('vmlinuz-'):]} " in log(i + 1) for i, kernel in enumerate(kernels)), kernels


tap.main(yaml_files_have_what_their_readers_want, eight_kernels_on_two_nodes_one_of_which_dies)
