"""Writes as frameworks do, slowly on purpose: ``writer.py FOLDER KIND ARGUMENT...``. The end of each file tells what stands before
it.
"""

import os
import shutil
import sys
import time
import zlib


def write(path, *, pause_s=0.0, pieces=4):
    """In place, the file being open all the time."""
    body = b""
    with open(path, "wb", buffering=0) as file:
        for number in range(pieces):
            piece = os.urandom(1000).hex().encode() if number else os.path.basename(path).encode()
            body += piece
            file.write(piece)
            time.sleep(pause_s)
        file.write(b"\n%08x" % zlib.crc32(body))


def in_place(folder, times, pause_s):
    """The same file again and again."""
    for _ in range(int(times)):
        write(f"{folder}/model.pt", pause_s=float(pause_s))


def renamed(folder, times, pause_s):
    """A folder at a time, under a temporary name first; the older ones are deleted."""
    for number in range(int(times)):
        temporary = f"{folder}/tmp-checkpoint-{number}"
        os.mkdir(temporary)
        for name in ("model", "optimizer", "state"):
            write(f"{temporary}/{name}", pause_s=float(pause_s))
        os.rename(temporary, f"{folder}/checkpoint-{number}")
        if number >= 2:
            shutil.rmtree(f"{folder}/checkpoint-{number - 2}")


def folders(folder, times, pause_s):
    """A folder at a time, its files one after another, as the Trainer of Hugging Face does it; the older ones are deleted."""
    for number in range(int(times)):
        os.mkdir(f"{folder}/checkpoint-{number}")
        for name in ("model", "optimizer", "state"):
            write(f"{folder}/checkpoint-{number}/{name}", pause_s=float(pause_s))
        if number >= 2:
            shutil.rmtree(f"{folder}/checkpoint-{number - 2}")
        sys.stdin.readline()


def many(folder, count):
    """Many small files."""
    os.mkdir(f"{folder}/many")
    for number in range(int(count)):
        write(f"{folder}/many/{number:05d}", pieces=2)


def logging(folder, name):
    """A file that never comes to rest."""
    with open(f"{folder}/{name}", "wb", buffering=0) as file:
        while True:
            file.write(b"line\n")
            time.sleep(0.01)


print("ready", flush=True)
globals()[sys.argv[2]](sys.argv[1], *sys.argv[3:])
