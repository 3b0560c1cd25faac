"""The list of workloads.  A workload is a function of a Run that does one run and returns its figures."""

WORKLOADS = []


class Workload:
    """metric: the figure that is compared; better: 'less' or 'more'."""

    def __init__(self, name, group, text, metric, function, **more):
        self.name = name
        self.group = group
        self.text = text
        self.metric = metric
        self.function = function
        self.unit = more.get('unit', 's')
        self.better = more.get('better', 'less')
        self.large = more.get('large', False)           # needs the server under a memory limit
        self.last = more.get('last', False)             # leaves much behind: after all others
        self.quick = more.get('quick', True)            # part of QUICK=1
        self.per = more.get('per', '')                  # what its WAL and writes are divided by


def workload(name, group, text, metric='seconds', **more):
    """Decorator."""
    def register(function):
        WORKLOADS.append(Workload(name, group, text, metric, function, **more))
        return function
    return register


def load(name, group, text, **more):
    """Decorator for what pgbench does: transactions a second."""
    return workload(name, group, text, 'tps', unit='tps', better='more', per='transaction', **more)


def chosen(settings, large):
    """Those of ONLY, names or groups, in the order in which they run; large ones apart."""
    words = settings.only.split()
    known = {w.name for w in WORKLOADS} | {w.group for w in WORKLOADS}
    wrong = [word for word in words if word not in known]
    if wrong:
        raise SystemExit(f'orbit_fdw: no workload is called {", ".join(wrong)}: see --help')
    if words:
        picked = [w for w in WORKLOADS if w.name in words or w.group in words]
    else:
        picked = [w for w in WORKLOADS if w.quick or not settings.quick]
    picked = [w for w in picked if w.large == large]
    return sorted(picked, key=lambda w: w.last)
