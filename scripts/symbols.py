"""Arrows as the linker sees them: which object needs which, by symbol.

src/preload and src/trap define libc's names: a room that needs mmap() needs
libc, and their definitions count within their own room only.

Includes say what a file may use; symbols say what it does use. Two rules:
1. A room's objects need only symbols of rooms that scripts/layers.json lets it
   include. Where it allows one header of a room ("src/cpu/vmx_isa.h"), the
   symbol has to be declared there.
2. The largest circle of files that need one another is, in each room, no larger
   than layers.json's "largest_cycle", where it has one; that number may only fall.
"""
import glob
import os
import re
import subprocess

LIBC_NAMES = ("src/preload", "src/trap")


def objects(build, rooms):
    """{source path: object path} of every object whose source is still there."""
    found = {}
    for path in glob.glob(f"{build}/**/*.c.o", recursive=True):
        if "/libuserkvm-hot-" in path:
            continue  # the same again, for link-time optimisation
        name = os.path.basename(path)[: -len(".o")]
        folder = os.path.relpath(os.path.dirname(os.path.dirname(path)), build)
        source = name.replace("_", "/", 2) if name.startswith("src_") else os.path.join(folder, name)
        # Meson writes tools/boot/io.c as "boot_io.c" below tools/.
        candidates = [source] + [os.path.join(folder, name.replace("_", "/", n)) for n in (1, 2)]
        for candidate in candidates:
            if os.path.exists(candidate) and any(candidate.startswith(room + "/") for room in rooms):
                found.setdefault(candidate, path)
    return found


def read(paths):
    """({symbol: source that defines it}, {source: symbols it needs}). Names that two rooms define are left out."""
    defined, needed, twice = {}, {}, set()
    for source, path in paths.items():
        needed[source] = set()
        out = subprocess.run(["nm", "--format=posix", path], capture_output=True, text=True, check=True).stdout
        for line in out.splitlines():
            symbol, kind = line.split()[:2]
            if kind in "TDBRCVWG":
                if symbol in defined and defined[symbol] != source:
                    twice.add(symbol)
                defined[symbol] = source
            elif kind in "Uvw":
                needed[source].add(symbol)
    for symbol in twice:
        del defined[symbol]
    return defined, needed


def circles(graph):
    """The strongly connected components of more than one node (Tarjan)."""
    index, low, stack, out = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in graph.get(node, ()):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            found = []
            while True:
                found.append(stack.pop())
                if found[-1] == node:
                    break
            if len(found) > 1:
                out.append(sorted(found))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return out


def check(build, layers, room_of, verbose=False):
    """Faults as lines of text."""
    rooms, ceilings, faults = layers["rooms"], layers.get("largest_cycle"), []
    defined, needed = read(objects(build, rooms))
    headers = {}
    inside = {}
    for source, symbols in sorted(needed.items()):
        room = room_of(source)
        for symbol in sorted(symbols):
            target = defined.get(symbol)
            if target is None:
                continue
            other = room_of(target)
            if other in LIBC_NAMES and room != other:
                continue
            if other == room:
                if target != source:
                    inside.setdefault(room, {}).setdefault(source, set()).add(target)
                continue
            allowed = rooms.get(room, [])
            if other in allowed:
                continue
            by_header = [a for a in allowed if a.endswith(".h") and a.startswith(other + "/")]
            for header in by_header:
                headers.setdefault(header, open(header).read())
            if any(re.search(rf"\b{re.escape(symbol)}\b", headers[h]) for h in by_header):
                continue
            faults.append(f"{source}: {room} may not need {symbol} of {target}")
    for room in sorted(inside) if ceilings is not None else []:
        found = sorted(circles(inside.get(room, {})), key=len, reverse=True)
        size = len(found[0]) if found else 1
        ceiling = ceilings.get(room, 1)
        if size > ceiling:
            faults.append(f"{room}: a circle of {size} files, {ceiling} allowed: " +
                          " ".join(os.path.basename(f) for f in found[0]))
        elif size < ceiling:
            print(f"lint: {room}: the largest circle has {size} files; lower its ceiling of {ceiling} in scripts/layers.json")
        if verbose:
            for circle in found:
                print(f"{room}: {len(circle)}: " + " ".join(os.path.basename(f) for f in circle))
    return faults
