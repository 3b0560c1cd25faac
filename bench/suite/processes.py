"""The server's processes while something runs: memory, and bytes written.

Bytes written are the device's, so what else the machine writes counts too.  write_bytes of /proc/PID/io of all processes of
the server is noted beside it, but says too much where the file system has large folios: a folio counts as a whole
when a part of it becomes dirty.  What a process has written between the last look and its end is missing there.  Memory
is RssAnon: what a process has for itself, without shared memory and page cache.
"""
import os
import threading
import time

LOOK = 0.05             # seconds between two looks at what is written
LOOK_MEMORY = 0.25      # the same for memory


def read(path):
    try:
        with open(path, encoding='utf8', errors='replace') as f:
            return f.read()
    except OSError:
        return ''


def children(pid):
    direct = read(f'/proc/{pid}/task/{pid}/children')
    if direct:
        return [int(p) for p in direct.split()]
    found = []
    for name in filter(str.isdigit, os.listdir('/proc')):
        stat = read(f'/proc/{name}/stat')
        if stat and int(stat.rpartition(')')[2].split()[1]) == pid:
            found.append(int(name))
    return found


def device_written(directory):
    """Bytes written to the device of this directory since the machine was started; 0 where there is none."""
    device = os.stat(directory).st_dev
    fields = read(f'/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat').split()
    return int(fields[6]) * 512 if len(fields) > 6 else 0


def written(pid):
    for line in read(f'/proc/{pid}/io').splitlines():
        if line.startswith('write_bytes:'):
            return int(line.split()[1])
    return None


def memory(pid):
    """RssAnon in bytes."""
    for line in read(f'/proc/{pid}/status').splitlines():
        if line.startswith('RssAnon:'):
            return int(line.split()[1]) * 1024
    return 0


def kind(pid):
    title = read(f'/proc/{pid}/cmdline').replace('\0', ' ')
    if title.startswith('postgres: orbit storage worker'):
        return 'worker'
    if title.startswith('postgres: bench ') or title.startswith('postgres: parallel worker'):
        return 'backend'
    return 'other'


class Watch:
    """with Watch(postmaster) as w: ...; w.written(); then w.peaks."""

    def __init__(self, postmaster, ignored=()):
        self.postmaster = postmaster
        self.ignored = ignored      # whose memory does not count
        self.first = {}
        self.last = {}
        self.peaks = {'backend': 0, 'backends': 0, 'worker': 0}
        self.lock = threading.Lock()
        self.ended = threading.Event()
        self.thread = threading.Thread(target=self.loop, daemon=True)

    def __enter__(self):
        for pid in [self.postmaster, *children(self.postmaster)]:
            self.first[pid] = written(pid) or 0
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        self.ended.set()
        if self.thread.is_alive():
            self.thread.join()

    def loop(self):
        next_memory = 0
        while not self.ended.wait(LOOK):
            self.look()
            if time.monotonic() >= next_memory:
                self.look_at_memory()
                next_memory = time.monotonic() + LOOK_MEMORY

    def look(self):
        with self.lock:
            for pid in [self.postmaster, *children(self.postmaster)]:
                n = written(pid)
                if n is not None:
                    self.last[pid] = n

    def look_at_memory(self):
        backends = []
        for pid in children(self.postmaster):
            what = kind(pid) if pid not in self.ignored else 'ignored'
            if what == 'backend':
                backends.append(memory(pid))
            elif what == 'worker':
                self.peaks['worker'] = max(self.peaks['worker'], memory(pid))
        if backends:
            self.peaks['backend'] = max(self.peaks['backend'], *backends)
            self.peaks['backends'] = max(self.peaks['backends'], sum(backends))

    def written(self):
        """Bytes since the beginning."""
        self.look()
        with self.lock:
            return sum(n - self.first.get(pid, 0) for pid, n in self.last.items())
