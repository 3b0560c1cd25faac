"""The server under a memory limit.

In order: the control group that CGROUP names (version 1 or 2), a scope of systemd with version 2, or neither:
then buffers are small and the page cache of the data directory is dropped again and again.
"""
import glob
import os
import threading

from .settings import size_bytes


def buffers(settings):
    """Options for the postmaster, and words: shared memory is a part of the limit."""
    limit = size_bytes(settings.large_memory) >> 10
    sizes = {'shared_buffers': max(limit // 8, 1024), 'orbit.write_buffer_size': max(limit // 32, 256),
             'orbit.page_cache_size': max(limit // 8, 2048), 'orbit.block_cache_size': max(limit // 64, 1024)}
    return (' '.join(f'-c {name}={size}kB' for name, size in sizes.items()),
            ', '.join(f'{name} {size} kB' for name, size in sizes.items()))


class Limit:
    """start(): starts the server under the limit; what: words for the report."""

    def __init__(self, server, settings):
        self.server = server
        self.settings = settings
        self.bytes = size_bytes(settings.large_memory)
        self.dropper = None
        self.what = ''

    def start(self):
        options, words = buffers(self.settings)
        if self.settings.cgroup:
            self.server.start(options, self.in_group(self.settings.cgroup))
            self.what = f'control group {self.settings.cgroup}, {self.settings.large_memory}'
        elif os.path.isdir('/run/systemd/system') and os.path.exists('/sys/fs/cgroup/cgroup.controllers') and \
                os.getuid() == 0:
            self.server.start(options, self.in_scope())
            self.what = f'systemd-run, MemoryMax={self.settings.large_memory}'
        else:
            self.server.start(options)
            self.dropper = Dropper(self.server.data)
            self.what = f'no control group, page cache of the data directory dropped every {Dropper.EVERY} s'
        self.what += ', ' + words

    def as_owner(self):
        return ['runuser', '-u', self.server.owner, '--'] if self.server.owner else []

    def in_group(self, group):
        for name in ('memory.max', 'memory.limit_in_bytes'):
            path = os.path.join(group, name)
            if os.path.exists(path):
                with open(path, 'w', encoding='utf8') as f:
                    f.write(str(self.bytes))
                break
        else:
            raise SystemExit(f'orbit_fdw: CGROUP={group} is no memory control group')
        return ['sh', '-c', f'echo $$ >{group}/cgroup.procs && exec "$@"', 'sh', *self.as_owner()]

    def in_scope(self):
        return ['systemd-run', '--quiet', '--scope', '-p', f'MemoryMax={self.bytes}', '-p', 'MemorySwapMax=0',
                *self.as_owner()]

    def stop(self):
        if self.dropper:
            self.dropper.stop()


class Dropper:
    """Drops the clean pages of the data directory from the page cache, but for those of the WAL."""
    EVERY = 0.5

    def __init__(self, data):
        self.data = data
        self.ended = threading.Event()
        self.drop()
        self.thread = threading.Thread(target=self.loop, daemon=True)
        self.thread.start()

    def loop(self):
        while not self.ended.wait(self.EVERY):
            self.drop()

    def files(self):
        yield from glob.iglob(os.path.join(self.data, 'base', '*', '*'))
        yield from glob.iglob(os.path.join(self.data, 'orbit', '**', '*.sst'), recursive=True)

    def drop(self):
        for path in self.files():
            try:
                if os.path.getsize(path) < 65536:
                    continue
                fd = os.open(path, os.O_RDONLY)
            except OSError:
                continue
            try:
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(fd)

    def stop(self):
        self.ended.set()
        self.thread.join()
