# kill -9 while the commit log is truncated: on standbys before, in and after the freezing that the truncation
# waits for, on the primary in the VACUUM that leads to it.  Afterwards every row has the
# fate it had, though the commit log no longer tells.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use OrbitNode qw(orbit_node set_stop stop_at wait_stopped worker_pid wait_recovered kill_all_and_start);
use OrbitPair qw(create_pair pair_is_same);
use OrbitXids qw(set_next_xid);

my $node = orbit_node('primary', { allows_streaming => 1 }, 'autovacuum = off', q{orbit.reclaim_delay = '1h'},
	q{orbit.flush_interval = '1h'}, 'restart_after_crash = on', 'log_statement = none', 'fsync = off');
create_pair($node);

sub sql { return $node->safe_psql('postgres', $_[0]) }

# Old rows, deleted ones, those of aborted transactions, in RocksDB's files; the twin is frozen.
sql('CALL churn(1, 500, 800, 5); BEGIN; CALL change(0, 9000, 1); CALL change(2, 5, 5); ROLLBACK; SELECT orbit_flush()');
$node->stop;
set_next_xid($node, 3_100_000, 0);
$node->start;
sql('CALL churn(1, 500, 100, 6)');
$node->stop;
$node->backup_fs_cold('cold');
$node->start;

my @rounds = (
	[ 'recovery-before-freeze', 'kill', 'startup' ],
	[ 'compact-before-start', 'kill', 'worker' ],
	[ 'compact-after-job', 'kill', 'worker' ],
	[ 'recovery-after-freeze', 'kill', 'startup' ],
	[ 'recovery-after-freeze', 'wait', 'all' ]);
@rounds = @rounds[ 0, 2, 4 ] unless $ENV{ORBIT_KILLS};

my @standbys;
for (@rounds)
{
	my ($point, $action) = @$_;
	my $standby = PostgreSQL::Test::Cluster->new('standby' . @standbys);
	$standby->init_from_backup($node, 'cold', has_streaming => 1);
	$standby->start;
	$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
	$action eq 'kill' ? set_stop($standby, $point, 'kill', 0) : stop_at($standby, $point);
	push @standbys, { node => $standby, worker => worker_pid($standby) };
}

# ---- the primary -------------------------------------------------------------------------

for my $point ('vacuum-after-freeze', 'vacuum-after-relfrozenxid')
{
	my $old = worker_pid($node);
	set_stop($node, $point, 'kill', 0);
	$node->psql('postgres', 'VACUUM (FREEZE) r');
	ok(wait_recovered($node, $old), "the primary recovers from a kill at $point");
	pair_is_same($node, "killed at $point");
}
$node->safe_psql($_, 'VACUUM (FREEZE)') for split /\n/, sql('SELECT datname FROM pg_database WHERE datallowconn');
sql(q{UPDATE pg_database SET datallowconn = true WHERE datname = 'template0'});
$node->safe_psql('template0', 'VACUUM (FREEZE)');
sql(q{UPDATE pg_database SET datallowconn = false WHERE datname = 'template0'});
sql('VACUUM (FREEZE)');
ok(!-e $node->data_dir . '/pg_xact/0000', 'the primary has truncated its commit log');
pair_is_same($node, 'the primary');
kill_all_and_start($node);
pair_is_same($node, 'the primary after a crash');

# ---- standbys ------------------------------------------------------------------------------

for my $i (0 .. $#rounds)
{
	my ($point, $action, $who) = @{ $rounds[$i] };
	my ($standby, $worker) = @{ $standbys[$i] }{ 'node', 'worker' };
	if ($who eq 'worker')
	{
		ok(wait_recovered($standby, $worker), "$point: the standby recovers from its worker's death");
	}
	else
	{
		wait_stopped($standby, $point) if $action eq 'wait';
		# with the startup process the server ends by itself
		for (1 .. 20 * $PostgreSQL::Test::Utils::timeout_default)
		{
			last if $action eq 'wait' || !kill 0, $worker;
			select undef, undef, undef, 0.05;
		}
		kill_all_and_start($standby);
	}
	$node->wait_for_catchup($standby, 'replay', $node->lsn('insert'));
	ok(!-e $standby->data_dir . '/pg_xact/0000', "$who killed at $point: the commit log is truncated after all");
	pair_is_same($standby, "$who killed at $point: rows");
	$standby->promote;
	pair_is_same($standby, "$who killed at $point: promoted");
	$standby->safe_psql('postgres', 'CALL churn(1, 500, 100, 9); VACUUM (FREEZE) r; SELECT orbit_flush()');
	pair_is_same($standby, "$who killed at $point: written again");
	$standby->stop;
}
$node->stop;
done_testing();
