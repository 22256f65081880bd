"""A stand-in for the program adb with one phone, which is a folder: $SCRIPTED_PHONE.

``fs/`` is the phone's file system and the scripts it is given run there in a real shell; ``bin/`` holds its programs;
``settings.json`` says its serial, the state of the connection and at most one planted fault, ``log`` keeps every call.
A fault is {"match": text in the call, "what": "lost" | "hang" | "corrupt", "after": matching calls that still go well}.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

PHONE = Path(os.environ["SCRIPTED_PHONE"])
FS = PHONE / "fs"
REMOTE = ("/data/local/tmp", "/sys/devices/system/cpu", "/proc/cpuinfo", "/proc/meminfo", "/proc/loadavg")
COMPLAINTS = {
    "offline": "error: device offline",
    "unauthorized": "error: device unauthorized.\nThis adb server's $ADB_VENDOR_KEYS is not set\n"
    "Try 'adb kill-server' if that seems wrong.",
    "many": "error: more than one device/emulator",
    "permissions": "error: insufficient permissions for device: user in plugdev group; are your udev rules wrong?",
}


def main():
    arguments = sys.argv[1:]
    with (PHONE / "log").open("a") as log:
        log.write(json.dumps(arguments) + "\n")
    if arguments == ["start-server"]:
        return 0
    settings = json.loads((PHONE / "settings.json").read_text())
    dash, serial, verb, *rest = arguments
    assert dash == "-s"
    state = settings["state"]
    if state == "gone" or serial != settings["serial"]:
        return complain(f"error: device '{serial}' not found")
    if state in COMPLAINTS:
        return complain(COMPLAINTS[state])
    if verb == "get-state":
        say(state)
        return 0
    fault = planted(settings, " ".join(arguments))
    if fault in ("hang", "lost"):
        settings["state"] = "offline" if fault == "hang" else "gone"
        (PHONE / "settings.json").write_text(json.dumps(settings))
    if fault == "hang":
        time.sleep(600)
    if fault == "lost":
        say("STARTING!")
        return complain("error: closed")
    return {"shell": shell, "push": push, "pull": pull}[verb](rest, fault)


def planted(settings, call):
    fault = settings.get("fault")
    if fault is None or fault["match"] not in call:
        return ""
    if fault.get("after", 0) > 0:
        fault["after"] -= 1
        (PHONE / "settings.json").write_text(json.dumps(settings))
        return ""
    return fault["what"]


def shell(rest, _):
    (script,) = rest
    for path in REMOTE:
        script = script.replace(path, f"{FS}{path}")
    environment = {"PATH": f"{PHONE}/bin:/usr/bin:/bin", "SCRIPTED_PHONE": str(PHONE)}
    command = ["/bin/sh", "-c", script]  # in a session of its own: what runs on a phone outlives its adb
    return subprocess.run(command, env=environment, cwd=FS, check=False, start_new_session=True).returncode


def push(rest, fault):
    here, there = Path(rest[0]), FS / rest[1].lstrip("/")
    if not there.parent.is_dir():
        return complain(f"adb: error: failed to copy '{here}' to '{rest[1]}': remote couldn't create file")
    if here.is_dir():
        shutil.copytree(here, there / here.name if there.is_dir() else there)
    else:
        content = here.read_bytes()
        there.write_bytes(content[:-1] if fault == "corrupt" else content)
        there.chmod(0o644)
    say(f"{here}: 1 file pushed, 0 skipped.")
    return 0


def pull(rest, _):
    there, here = FS / rest[0].lstrip("/"), Path(rest[1])
    if not there.exists():
        return complain(f"adb: error: failed to stat remote object '{rest[0]}': No such file or directory")
    shutil.copytree(there, here / there.name if here.is_dir() else here)
    return 0


def say(text):
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def complain(text):
    sys.stderr.write(text + "\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
