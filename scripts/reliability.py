#!/usr/bin/env python3
"""What a run survives, tried with the real program; docs/reliability.md has the figures.

    scripts/reliability.py kills [N]      SIGKILL at N random moments of training, saving, validating, sweeping
    scripts/reliability.py bits [N]       one bit flipped at N places of a checkpoint
    scripts/reliability.py places         full disk, disk that dies, read-only or deleted folder, clock set back, two on one
                                          run, stopped, few files, little memory; mounts file systems, so it wants root
    scripts/reliability.py settings [N]   N random configurations train, go on and translate: an end that is documented, in time
    scripts/reliability.py memory HOURS   trains and validates in a loop: allocated and resident memory, open files
    scripts/reliability.py pairs N        N generated pairs: time to the cache, to the first update, resident memory

NMT_TRAIN: the program (target/release/nmt-train). Each ends with exit code 0 if nothing was lost.
"""
import fcntl
import hashlib
import json
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = os.environ.get("NMT_TRAIN", str(ROOT / "target/release/nmt-train"))

CONFIG = """
threads = 1
device = "cpu"
[data]
train = ["{data}/train.en", "{data}/train.de"]
valid = ["{data}/valid.en", "{data}/valid.de"]
[tokenizer]
vocab_size = 300
[model]
layers = 1
d_model = 32
d_ff = 64
heads = 2
dropout = 0.1
[model.rnn]
hidden_size = 32
embedding_size = 32
[train]
batch_size = 400
max_updates = 240
log_freq = 10
[optimizer]
lr = 0.005
[schedule]
kind = "constant"
warmup_updates = 10
[validation]
valid_freq = 40
metrics = ["nll", "bleu"]
[decode]
beam_size = 2
[checkpoint]
save_freq = 30
keep_last = 2
"""
KINDS = {
    "adam": "",
    "hessian2": "--set optimizer.name=hessian2",
    "schedule-free": "--set optimizer.name=schedule-free",
    "gru": "--set model.kind=rnn --set optimizer.name=adamw --set train.ema_decay=0.9",
    "phases": "--config phases.toml",
}
PHASES = """
[[phase]]
from_update = 90
optimizer = "hessian2"
objective = "joint"
[[phase]]
from_update = 170
optimizer = "adam"
trainable = "embeddings"
[embedding_distance]
form = "bridge"
weight = 0.1
"""


def text_of(folder, lines=1500):
    """The first lines of the quickstart's text, and configs."""
    data = folder / "data"
    data.mkdir(parents=True)
    for name, count in [("train", lines), ("valid", 40)]:
        for side in ("en", "de"):
            text = (ROOT / f"data/quickstart/{name}.{side}").read_text().splitlines()[:count]
            (data / f"{name}.{side}").write_text("\n".join(text) + "\n")
    config = CONFIG.format(data=data)
    (folder / "c.toml").write_text(config)
    (folder / "phases.toml").write_text(config + PHASES)


def command(words):
    return [PROGRAM] + words.split() + ["-q"]


def run(folder, words, limit=600, **more):
    return subprocess.run(command(words), cwd=folder, capture_output=True, text=True, timeout=limit, **more)


def expect(done, code, what):
    if done.returncode != code:
        raise SystemExit(f"FAILED {what}: exit {done.returncode}, not {code}\n{done.stderr}")


def bits(run_folder):
    """Names and hashes of the last checkpoint's weights and state."""
    last = run_folder / "checkpoints" / (run_folder / "checkpoints/latest").read_text().strip()
    files = ["model.safetensors", "optimizer.safetensors", "raw.safetensors"]
    return {f: hashlib.sha256((last / f).read_bytes()).hexdigest() for f in files if (last / f).exists()}, last.name


def words_of(kind, folder_name):
    more = KINDS[kind]
    config = "" if "--config" in more else "--config c.toml "
    return f"{config}{more} --set run_dir={folder_name}"


def kills(count):
    """Runs that are killed at random moments until they end, each beside one that is not."""
    random.seed(int(os.environ.get("SEED", "1")))
    killed = {"training or reading": 0, "saving": 0, "validating": 0, "sweep": 0}
    done = 0
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        text_of(folder)
        seconds, whole = {}, {}
        for kind in KINDS:
            start = time.time()
            expect(run(folder, words_of(kind, f"whole-{kind}")), 0, kind)
            seconds[kind], whole[kind] = time.time() - start, bits(folder / f"whole-{kind}")
        (folder / "sweep.txt").write_text(
            "all: --config c.toml\n--set optimizer.name={adam,hessian2}\n--set optimizer.name=adamw --set seed={1..2}\n")
        expect(run(folder, "sweep sweep.txt --jobs 2 --threads 1 --out whole-sweep"), 0, "sweep")
        sweep_bits = lambda out: {p.name: bits(p) for p in sorted(out.iterdir()) if (p / "checkpoints").exists()}
        number = 0
        while done < count:
            number += 1
            kind = ([*KINDS] + ["sweep"])[number % (len(KINDS) + 1)]
            name = f"killed-{number}"
            while True:
                if kind == "sweep":
                    words, length = f"sweep sweep.txt --jobs 2 --threads 1 --out {name}", 2 * seconds["adam"]
                else:
                    known = (folder / name / "checkpoints/latest").exists()
                    words, length = (f"--resume {name}" if known else words_of(kind, name) + " --force"), seconds[kind]
                job = subprocess.Popen(command(words), cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                       start_new_session=True)
                try:
                    job.wait(random.uniform(0.02, 0.7 * length) if done < count else 600)
                    if job.returncode != 0:
                        logs = [p.read_text()[-2000:] for p in (folder / name).glob("*/sweep.log")]
                        print(*logs, sep="\n")
                        raise SystemExit(f"FAILED {kind} {words}: exit {job.returncode}\n{job.stderr.read().decode()}")
                    break
                except subprocess.TimeoutExpired:
                    kill_session(job.pid)
                    job.wait()
                    done += 1
                    killed[moment(folder / name) if kind != "sweep" else "sweep"] += 1
            found = sweep_bits(folder / name) if kind == "sweep" else bits(folder / name)
            expected = sweep_bits(folder / "whole-sweep") if kind == "sweep" else whole[kind]
            if found != expected:
                raise SystemExit(f"FAILED {kind}: other bits than those of the uninterrupted run: {found} {expected}")
            shutil.rmtree(folder / name)
    print(f"{done} kills in {number} runs, 0 runs lost, all with the bits of the uninterrupted run: {killed}")


def kill_session(leader):
    """SIGKILL to all of a session: a sweep's runs have process groups of their own."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader:
                os.kill(int(stat.parent.name), signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            pass


def moment(run_folder):
    """What was under way when a run was killed, by what it left."""
    left = [p.name for p in (run_folder / "checkpoints").glob("*")] if (run_folder / "checkpoints").exists() else []
    if any(name.startswith(".") or name.endswith(".partial") or "tmp" in name for name in left):
        return "saving"
    rows = (run_folder / "metrics.jsonl")
    steps = re.findall(r'"event":"train".*?"step":(\d+)', rows.read_text()) if rows.exists() else []
    if steps and int(steps[-1]) % 40 == 0:
        return "validating"
    return "training or reading"


def flips(count):
    """One bit of the newest checkpoint flipped: the next start names the file and takes the checkpoint before it."""
    random.seed(int(os.environ.get("SEED", "1")))
    seen = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        text_of(folder, 400)
        small = "--set train.max_updates=40 --set checkpoint.save_freq=20 --set validation.valid_freq=0 --set model.d_model=16"
        small += " --set model.d_ff=16 --set tokenizer.vocab_size=120 --set optimizer.name=hessian2"
        expect(run(folder, f"--config c.toml --set run_dir=run {small}"), 0, "the run")
        newest = folder / "run/checkpoints/step-00000040"
        files = sorted(p for p in newest.iterdir() if p.is_file())
        for i in range(count):
            file = files[i % len(files)]
            size = file.stat().st_size
            # each region of a file as often: its place in the file is stratified, not drawn
            part = i // len(files)
            at = min(size - 1, int((part + random.random()) * size / max(1, count // len(files))))
            with open(file, "r+b") as f:
                f.seek(at)
                byte = f.read(1)[0]
                f.seek(at)
                f.write(bytes([byte ^ (1 << random.randrange(8))]))
            shutil.copytree(folder / "run", folder / "try")
            done = run(folder, "--resume try --set train.max_updates=42")
            with open(file, "r+b") as f:
                f.seek(at)
                f.write(bytes([byte]))
            told = done.stderr + (folder / "try/metrics.jsonl").read_text()
            if done.returncode != 0 or file.name not in told or "step-00000020" not in told.replace("update 20", "step-00000020"):
                raise SystemExit(f"FAILED: a bit at {at} of {file.name}: exit {done.returncode}\n{done.stderr}")
            seen[file.name] = seen.get(file.name, 0) + 1
            shutil.rmtree(folder / "try")
    print(f"{count} flips, all told by the file's name, the checkpoint before was used: {seen}")


def drawn_settings(keys):
    """`--set` arguments: an optimizer and some keys, mostly of what is used, with odd values of the right type."""
    name = random.choice(["adam", "adamw", "clipped-adam", "hessian2", "hvr", "muon", "schedule-free", "sgd", "soap"])
    sets = {"optimizer.name": name, "model.kind": random.choice(["transformer", "rnn"])}
    mine = lambda key: not key.startswith("optimizer.") or key.count(".") == 1 or key.split(".")[1] == name.replace("-", "_")
    whole = [0, 1, 2, 3, 5, 8, 16, 31, 64, 1000]
    # sizes that are slow, not odd
    small = {"model.d_model": [2, 4, 16, 32], "model.layers": [1, 2], "model.encoder_layers": [0, 1, 3],
             "model.decoder_layers": [0, 1, 3], "tokenizer.vocab_size": [8, 20, 300], "optimizer.lr": [1e-9, 1e-3, 0.1, 1e9],
             "decode.beam_size": [1, 2, 7], "validation.beam_size": [1, 2, 7]}
    for key, (value, words) in random.sample([item for item in keys.items() if mine(item[0])], random.randint(1, 5)):
        if key in small:
            sets[key] = random.choice(small[key])
        elif value in ("true", "false"):
            sets[key] = random.choice(["true", "false"])
        elif re.fullmatch(r"-?[0-9]+", value):
            sets[key] = random.choice(whole)
        elif value.startswith('"'):
            sets[key] = random.choice(words or [value.strip('"')])
        else:
            sets[key] = random.choice([0, 1e-6, 0.1, 0.5, 0.999, 1, 2, 100, 1e30, *([0, "auto"] if "auto" in words else [])])
    return [f"{key}={value}" for key, value in sets.items()]


def settings(count):
    """Random configurations: each is refused, trains or diverges, and what has trained goes on and translates."""
    random.seed(int(os.environ.get("SEED", "1")))
    keys, section, comment = {}, "", ""
    for line in subprocess.run([PROGRAM, "init"], capture_output=True, text=True, check=True).stdout.splitlines():
        found = re.fullmatch(r"(?:# )?([a-z0-9_]+) =(.*)", line)
        if line.startswith("["):
            section = line.strip("[]") + "."
        elif found and not re.search("path|folder|file|Folder", comment) and found[1] not in ("device", "threads", "phase", "max_updates"):
            keys[section + found[1]] = (found[2].strip() or "0.1", re.findall(r'"([a-z0-9+-]+)"', comment))
        comment = "" if found or not line else comment + line
    ends, failed = {}, []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        text_of(folder, 300)
        config = (folder / "c.toml").read_text()
        (folder / "c.toml").write_text(re.sub("(valid_freq|save_freq|log_freq) = [0-9]+", r"\1 = 2", config))
        for _ in range(count):
            drawn = drawn_settings(keys)
            words = [PROGRAM, "--config", "c.toml", "--force", "-q", "--set", "run_dir=run", "--set", "train.max_updates=12"]
            words += [word for one in drawn for word in ("--set", one)]
            told = []

            def step(words, codes, text=""):
                try:
                    done = subprocess.run(words, cwd=folder, input=text, capture_output=True, text=True, timeout=120)
                    code, said = done.returncode, done.stderr
                except subprocess.TimeoutExpired:
                    code, said = "120 s", ""
                if code not in codes or "panicked" in said:
                    failed.append(drawn)
                    print(f"FAILED: {words[1]} {code} {' '.join(drawn)}\n{said[-600:]}", flush=True)
                told.append(code)
                return code

            # 75: stopped by train.max_hours
            if step(words, [0, 3, 4, 75]) in (0, 75):
                step([PROGRAM, "--resume", "run", "-q", "--set", "train.max_updates=14"], [0, 3, 4, 75])
                step([PROGRAM, "translate", "run", "-q"], [0], "The house is small.\n\n")
            ends[tuple(told)] = ends.get(tuple(told), 0) + 1
            shutil.rmtree(folder / "run", ignore_errors=True)
    print(f"{count} configurations, exit codes of training, going on, translating: {ends}")
    if failed:
        raise SystemExit(f"FAILED: {len(failed)}")


def resident(pid, kind="VmRSS"):
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.search(kind + r":\s+(\d+)", status).group(1)) / 1024


def counting():
    """The program of benches/live.rs."""
    words = ["cargo", "bench", "--bench", "live", "--no-run", "--message-format=json"]
    lines = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    return next(line["executable"] for line in map(json.loads, lines) if line.get("target", {}).get("name") == "live")


def memory(hours):
    """Allocated and resident memory and open files of a run of the quickstart that trains, validates and saves in a loop."""
    program = counting()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        words = f"--config {ROOT}/configs/quickstart.toml --set run_dir={folder}/run --set train.max_updates=100000000 " \
                f"--set train.max_hours={hours} --set schedule.kind=constant --set threads=1 --set validation.valid_freq=20 " \
                "--set checkpoint.save_freq=15 --set data.test=[]"
        with open(folder / "live", "w") as live:
            job = subprocess.Popen([program, *words.split(), "--quiet"], cwd=ROOT, stdout=live, stderr=subprocess.DEVNULL)
        start, points = time.time(), []
        while job.poll() is None:
            time.sleep(min(30, hours * 120))
            try:
                allocated = int((folder / "live").read_text().split()[-1]) / (1 << 20)
                files = len(os.listdir(f"/proc/{job.pid}/fd"))
                points.append((time.time() - start, allocated, resident(job.pid), files))
            except (FileNotFoundError, AttributeError, IndexError):
                continue
        # 75: stopped by max_hours
        if job.wait() not in (0, 75):
            raise SystemExit(f"FAILED: exit {job.returncode}")
        tenth = max(1, len(points) // 10)
        for p in points[::max(1, len(points) // 20)]:
            print(f"{p[0] / 3600:6.2f} h  {p[1]:7.2f} MiB allocated  {p[2]:7.1f} MiB resident  {p[3]} files")
        print((folder / "run/checkpoints/latest").read_text().strip())
        grew = points[-1][3] > points[tenth][3]
        for at, what in [(1, "allocated"), (2, "resident")]:
            # the first tenth warms up; what is allocated at a moment is a little more at some than at others
            early, late = (sorted(p[at] for p in part)[len(part) // 2] for part in (points[tenth:2 * tenth] or points, points[-tenth:]))
            print(f"{what}: after a tenth of the time {early:.2f} MiB, at the end {late:.2f} MiB: {100 * (late / early - 1):+.2f} %")
            grew |= late > 1.02 * early
        if grew:
            raise SystemExit("FAILED: memory or open files grow")


def limit_memory(megabytes):
    """A group of processes that have so much together, pages of files that they read or map included; what joins it. Else None."""
    group = Path(f"/sys/fs/cgroup/memory/nmt-train-{os.getpid()}")
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(f"{megabytes}M")
    except OSError:
        return None, lambda: None
    return group, lambda: (group / "cgroup.procs").write_text(str(os.getpid()))


def pairs(count):
    """Generated pairs: how long until the cache is there, until the first update, and how much memory that takes."""
    group, join = limit_memory(1024)
    print(f"{count} pairs, " + ("at most 1 GiB with all pages of files" if group else "memory not limited: no such control group here"))
    with tempfile.TemporaryDirectory(dir=os.environ.get("SCRATCH")) as scratch:
        folder = Path(scratch)
        text_of(folder)
        source = (ROOT / "data/quickstart/train.en").read_text().splitlines()
        target = (ROOT / "data/quickstart/train.de").read_text().splitlines()
        with open(folder / "data/big.en", "w") as en, open(folder / "data/big.de", "w") as de:
            for i in range(count):
                k = i % len(source)
                # a number makes pairs differ
                en.write(f"{i} {source[k]}\n")
                de.write(f"{i} {target[k]}\n")
        config = (folder / "c.toml").read_text().replace("train.en", "big.en").replace("train.de", "big.de")
        (folder / "big.toml").write_text(config.replace("vocab_size = 300", "vocab_size = 4000"))
        nothing = lambda: None
        starts = [("from nothing", join, 1), ("from the cache", join, 1)]
        starts += [(f"without the limit, {threads} thread(s)", nothing, threads) for threads in (1, 2, 1, 2)]
        for start, limit, threads in starts:
            words = f"--config big.toml --force --set run_dir=run --set data.cache_dir=cache --set train.max_updates=1 " \
                    f"--set schedule.warmup_updates=0 --set validation.metrics=['nll'] --set threads={threads}"
            begin = time.time()
            job = subprocess.Popen(command(words), cwd=folder, stderr=subprocess.DEVNULL, preexec_fn=limit)
            own, all_of_it = 0.0, 0.0
            while job.poll() is None:
                time.sleep(0.05)
                try:
                    own, all_of_it = max(own, resident(job.pid, "RssAnon")), max(all_of_it, resident(job.pid))
                except (FileNotFoundError, AttributeError):
                    break
            if job.wait():
                raise SystemExit(f"FAILED: exit {job.returncode}")
            print(f"{start}: one update, validated and saved, {time.time() - begin:.1f} s; at most {own:.0f} MiB of its own, "
                  f"{all_of_it:.0f} MiB with mapped files", flush=True)
    if group:
        group.rmdir()


def shut_down(mount_point):
    """Every access fails from now on, as if the disk were gone (EXT4_IOC_SHUTDOWN, without writing what is in memory)."""
    descriptor = os.open(mount_point, os.O_RDONLY)
    fcntl.ioctl(descriptor, 0x8004587D, struct.pack("I", 2))
    os.close(descriptor)


def places():
    """What a run does in bad places: exit code, what it says, and whether it then ends with the bits of a run that met nothing."""
    scratch = tempfile.TemporaryDirectory()
    folder = Path(scratch.name)
    text_of(folder)
    expect(run(folder, words_of("adam", "whole")), 0, "the run")
    whole, failed = bits(folder / "whole"), []

    def told(what, codes, name, done, text=""):
        """Whether a case ended as it should, and whether the run then goes on to the same end."""
        line = [line for line in done.stderr.strip().splitlines() if line.strip()]
        words = ("nmt-train:", "memory allocation")
        line = next((l for l in line if done.returncode and any(word in l for word in words)), "").strip()
        goes_on = "-"
        if name:
            known = (folder / name / "checkpoints/latest").exists()
            again = run(folder, f"--resume {name}" if known else words_of("adam", name) + " --force")
            same = again.returncode == 0 and bits(folder / name) == whole
            goes_on = "same bits" if same else f"NO: exit {again.returncode} {again.stderr.strip()[-300:]}"
        good = done.returncode in codes and text in done.stderr and not goes_on.startswith("NO")
        if not good:
            failed.append(what)
        print(f"| {what} | {done.returncode} | {line[:300].replace(str(folder), '…')} | {goes_on} |", flush=True)

    def finish(job, limit=120):
        out, err = job.communicate(timeout=limit)
        return subprocess.CompletedProcess(job.args, job.returncode, out, err)

    def begin(words, **more):
        return subprocess.Popen(command(words), cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more)

    def wait_for_checkpoint(name):
        for _ in range(600):
            if (folder / name / "checkpoints/latest").exists():
                return
            time.sleep(0.05)
        raise SystemExit(f"FAILED: {name} saved nothing")

    def mount(name, options):
        (folder / name).mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder / name], check=True)

    def file_system(name, make, megabytes):
        """Made in a file; what mounts it."""
        image = folder / f"{name}.image"
        image.touch()
        os.truncate(image, megabytes << 20)
        subprocess.run([*make, image], check=True, stdout=subprocess.DEVNULL)
        (folder / name).mkdir()
        return lambda: subprocess.run(["mount", "-o", "loop", image, folder / name], check=True)

    print("| what | exit code | last word | then |\n|---|---|---|---|")
    try:
        mount("full", "size=700k")
        done = run(folder, words_of("adam", "full/run"))
        subprocess.run(["mount", "-o", "remount,size=64m", folder / "full"], check=True)
        told("disk full", [1], "full/run", done, "no space left")
        mount("fixed", "size=1m,ro")
        told("folder is read-only", [1, 3], None, run(folder, words_of("adam", "fixed/run")), "Read-only")

        if shutil.which("mkfs.btrfs"):
            mount_image = file_system("quota", ["mkfs.btrfs", "-q"], 256)
            mount_image()
            # the one quota that needs nothing of the kernel but its file system
            btrfs = lambda *words: subprocess.run(["btrfs", *words], check=True, stdout=subprocess.DEVNULL)
            btrfs("quota", "enable", folder / "quota")
            btrfs("subvolume", "create", folder / "quota/mine")
            btrfs("qgroup", "limit", "700K", folder / "quota/mine")
            done = run(folder, words_of("adam", "quota/mine/run"))
            btrfs("qgroup", "limit", "none", folder / "quota/mine")
            told("quota used up", [1], "quota/mine/run", done, "the disk quota is used up")
        else:
            print("| quota used up | not tried: no btrfs-progs here | | |")

        mount_image = file_system("dies", ["mkfs.ext4", "-q"], 64)
        mount_image()
        job = begin(words_of("adam", "dies/run"))
        wait_for_checkpoint("dies/run")
        shut_down(folder / "dies")
        done = finish(job)
        subprocess.run(["umount", "-l", folder / "dies"], check=True)
        mount_image()
        told("disk dies under the run", [1], "dies/run", done)
    finally:
        for name in ("full", "fixed", "quota", "dies"):
            subprocess.run(["umount", "-l", folder / name], stderr=subprocess.DEVNULL)
    job = begin(words_of("adam", "deleted"))
    wait_for_checkpoint("deleted")
    shutil.rmtree(folder / "deleted", ignore_errors=True)
    told("folder deleted under the run", [1], None, finish(job), "deleted")
    job = begin(words_of("adam", "two"))
    wait_for_checkpoint("two")
    told("a second process on the run", [3], None, run(folder, "--resume two"), "in use")
    told("  and the first", [0], "two", finish(job))
    job = begin(words_of("adam", "stopped"))
    wait_for_checkpoint("stopped")
    job.send_signal(signal.SIGSTOP)
    time.sleep(float(os.environ.get("STOPPED_SECONDS", "60")))
    job.send_signal(signal.SIGCONT)
    told("SIGSTOP for a minute", [0], "stopped", finish(job))

    def limited(what, kind, limit, codes, text=""):
        import resource
        name = re.sub("[^a-z0-9]", "", what.lower())
        set_limit = lambda: resource.setrlimit(kind, (limit, limit))
        told(what, codes, name, finish(begin(words_of("adam", name), preexec_fn=set_limit)), text)

    import resource
    limited("50 open files", resource.RLIMIT_NOFILE, 50, [0])
    limited("5 open files", resource.RLIMIT_NOFILE, 5, [1, 3], "Too many open files")
    limited("files of at most 100 KB", resource.RLIMIT_FSIZE, 100_000, [1], "File too large")
    limited("300 MiB of addresses", resource.RLIMIT_AS, 300 << 20, [0])
    # what allocates can not say more: the standard library ends the process
    limited("100 MiB of addresses", resource.RLIMIT_AS, 100 << 20, [-signal.SIGABRT], "memory allocation of")
    fake = [p for p in Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]
    if fake:
        clock = folder / "clock"
        clock.write_text("+0")
        env = {**os.environ, "LD_PRELOAD": str(fake[0]), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
               "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        job = begin(words_of("adam", "clock-run"), env=env)
        wait_for_checkpoint("clock-run")
        clock.write_text("-1h")
        told("clock set back an hour", [0], "clock-run", finish(job))
        seconds = [json.loads(l)["seconds"] for l in (folder / "clock-run/metrics.jsonl").read_text().splitlines() if '"event":"train"' in l]
        if any(b < a for a, b in zip(seconds, seconds[1:])):
            failed.append("seconds go back")
    else:
        print("| clock set back an hour | not tried: no faketime here | | |")
    scratch.cleanup()
    if failed:
        raise SystemExit(f"FAILED: {failed}")


def main():
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    what, number = sys.argv[1], (sys.argv[2:] or [None])[0]
    if what == "kills":
        kills(int(number or 200))
    elif what == "bits":
        flips(int(number or 1000))
    elif what == "places":
        places()
    elif what == "settings":
        settings(int(number or 1000))
    elif what == "memory":
        memory(float(number or 6))
    elif what == "pairs":
        pairs(int(number or 10_000_000))
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main()
