# The postmaster dies while a checkpoint waits for the storage worker: every process
# leaves, nothing is released that is not in RocksDB, and a new server starts.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use IPC::Run;
use OrbitNode qw(orbit_node stop_at wait_stopped children);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);

my $node = orbit_node('main', q{orbit.flush_interval = '1h'}, q{autovacuum = off});
$node->safe_psql('postgres', 'CREATE TABLE t (i INT) USING orbit; CHECKPOINT; INSERT INTO t SELECT generate_series(1, 1000)');
stop_at($node, 'worker-before-bump');

my ($out, $err) = ('', '');
my $checkpoint = IPC::Run::start(
	[ 'psql', '-X', '-d', $node->connstr('postgres'), '-c', 'CHECKPOINT' ],
	'>', \$out, '2>', \$err);
wait_stopped($node, 'worker-before-bump');
ok( $node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_activity
		WHERE query LIKE 'CHECKPOINT%' AND state = 'active'}),
	'the checkpoint is waiting');
sleep 1;

my $postmaster = $node->{_pid};
my %children = children($postmaster);
my @children = keys %children;
cmp_ok(scalar @children, '>', 4, 'there are processes');
kill 'KILL', $postmaster;
my @left;
for (1 .. 100)
{
	@left = grep { kill 0, $_ } @children;
	last unless @left;
	sleep 0.1;
}
is(join(' ', map { `ps -o args= -p $_` } @left), '', 'every process has left within ten seconds');
$checkpoint->finish;
kill 'KILL', @left;

$node->{_pid} = undef;
$node->start;
is($node->safe_psql('postgres', 'SELECT count(*), sum(i) FROM t'), '1000|500500', 'rows are there');
$node->stop;
done_testing();
