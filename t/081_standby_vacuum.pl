# VACUUM and a standby: a query there that still needs rows keeps them or is cancelled, as with
# heap; and the commit log is truncated there only when RocksDB needs none of it any more.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/lib";

use OrbitNode qw(orbit_node orbit_standby);
use OrbitXids qw(set_next_xid);
use PostgreSQL::Test::Utils;
use Test::More;

my $primary = orbit_node('primary', { allows_streaming => 1 }, q{autovacuum = off}, q{hot_standby_feedback = off},
	q{max_standby_streaming_delay = -1}, q{orbit.reclaim_delay = '1h'}, q{wal_receiver_status_interval = '1s'});

sub sql { return $primary->safe_psql('postgres', shift) }

sql(q{
CREATE TABLE t (id int PRIMARY KEY, v text) USING orbit;
INSERT INTO t SELECT g, 'row ' || g FROM generate_series(1, 1000) g;
CREATE TABLE old (id int PRIMARY KEY, v text) USING orbit;
INSERT INTO old SELECT g, 'row ' || g FROM generate_series(1, 1000) g;
BEGIN; INSERT INTO old VALUES (5000, 'undone'); ROLLBACK;
SELECT orbit_flush();
});

# ---- a cluster in which 3 million transactions have gone by
$primary->stop;
set_next_xid($primary, 3_100_000, 0);
$primary->start;
my $standby = orbit_standby($primary);

sub on_standby { return $standby->safe_psql('postgres', shift) }

sub catch_up
{
	$primary->wait_for_catchup($standby, 'replay', $primary->lsn('insert'));
	return;
}

# ---- an older snapshot of the standby
my ($in, $out, $err) = ('', '', '');
my $reader = IPC::Run::start([ 'psql', '-XAtq', '-d', $standby->connstr('postgres') ], '<', \$in, '>', \$out, '2>', \$err);

sub ask
{
	my ($query) = @_;
	$out = '';
	$in .= "$query;\n\\echo done\n";
	$reader->pump until $out =~ /done\n/ or $err =~ /ERROR|FATAL/;
	return $out =~ s/done\n//r;
}

catch_up();
ask('SET enable_seqscan = off; BEGIN ISOLATION LEVEL REPEATABLE READ');
is(ask('SELECT count(*) FROM t WHERE id > 0'), "1000\n", 'a query of the standby');
sql('DELETE FROM t WHERE id <= 900; VACUUM t; SELECT orbit_flush()');
my $after = $primary->lsn('insert');
ok( $standby->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'startup' AND wait_event = 'RecoveryConflictSnapshot'}),
	'replay waits before the index entries go');
is(ask('SELECT count(*) FROM t WHERE id > 0'), "1000\n", 'the snapshot still has its rows, by index');
ask('COMMIT');
catch_up();
is(ask('SELECT count(*) FROM t WHERE id > 0'), "100\n", 'when it is gone, replay goes on');

# ... and where replay does not wait
$standby->append_conf('postgresql.conf', 'max_standby_streaming_delay = 0');
$standby->reload;
ask('BEGIN ISOLATION LEVEL REPEATABLE READ');
is(ask('SELECT count(*) FROM t WHERE id > 0'), "100\n", 'another snapshot');
sql('DELETE FROM t WHERE id <= 950; VACUUM t');
catch_up();
ask('SELECT count(*) FROM t WHERE id > 0');
like($err, qr/canceling statement due to conflict with recovery|terminating connection due to conflict with recovery/, 'is cancelled');
$reader->kill_kill;
is(on_standby('SELECT count(*), min(id) FROM t'), '50|951', 'the standby has what the primary has');

# ---- files are frozen here before anybody asks, when they are as old as VACUUM would have them
my $jobs = on_standby('SELECT jobs FROM orbit_stat_reclaim()');
$standby->append_conf('postgresql.conf', 'vacuum_freeze_min_age = 1000');
$standby->reload;
on_standby('SELECT orbit_flush()');
sql('INSERT INTO t VALUES (2000); SELECT orbit_flush()');
ok($standby->poll_query_until('postgres', "SELECT jobs > $jobs FROM orbit_stat_reclaim()"), 'the standby freezes old files of its own accord');
sql('DELETE FROM t WHERE id = 2000');

# ---- the commit log
my $segment = $standby->data_dir . '/pg_xact/0000';
ok(-e $segment, 'the standby has the oldest part of the commit log');
for my $database (split /\n/, sql('SELECT datname FROM pg_database WHERE datallowconn'))
{
	$primary->safe_psql($database, 'VACUUM (FREEZE)');
}
$primary->command_ok([ 'vacuumdb', '--freeze', '--quiet', '--dbname', $primary->connstr('postgres') ], 'vacuumdb --freeze');
sql(q{UPDATE pg_database SET datallowconn = true WHERE datname = 'template0'});
$primary->safe_psql('template0', 'VACUUM (FREEZE)');
sql(q{UPDATE pg_database SET datallowconn = false WHERE datname = 'template0'});
sql('VACUUM (FREEZE)');
ok(!-e $primary->data_dir . '/pg_xact/0000', 'the primary has truncated its commit log');
catch_up();
ok(!-e $segment, 'so has the standby');
for my $round ('running', 'restarted', 'killed')
{
	is(on_standby('SET enable_seqscan = off; SELECT count(*), sum(id) FROM old WHERE id > 0'), '1000|500500', "$round: old rows by index");
	is(on_standby('SELECT count(*), sum(id), count(v) FROM old'), '1000|500500|1000', "$round: and by scan");
	$standby->restart if $round eq 'running';
	if ($round eq 'restarted')
	{
		$standby->stop('immediate');
		$standby->start;
	}
}
$standby->promote;
$standby->safe_psql('postgres', q{INSERT INTO old VALUES (5000, 'new'); DELETE FROM old WHERE id = 1; VACUUM (FREEZE) old});
is(on_standby('SELECT count(*), sum(id) FROM old'), '1000|505499', 'promoted: rows old and new');
$primary->stop('immediate');
$primary->start;
is(sql('SELECT count(*), sum(id) FROM old'), '1000|500500', 'the primary after a crash');
$primary->stop;
$standby->stop;
done_testing();
