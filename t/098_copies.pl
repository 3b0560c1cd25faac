# Which copies of a running server are seen, and what is kept for them: several base backups of one connection,
# several backups of one session, pg_rewind from a running source.  What nobody copies goes when it holds much.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);
use OrbitNode qw(orbit_node in_background wait_done);

my $node = orbit_node('copies', { allows_streaming => 1 }, q{autovacuum = off}, q{orbit.snapshot_keep = '1s'}, q{max_wal_senders = 5}, q{wal_log_hints = on},
	q{wal_keep_size = '1GB'}, q{orbit.reclaim_delay = '1h'}, q{orbit.collect_interval = '100ms'});
my $dir = $node->data_dir . '/orbit';

sub sql { return $node->safe_psql('postgres', shift) }
sub snapshots { return map { m{([^/]+)$} } sort glob("$dir/snap-*") }
sub churn { return sql("UPDATE t SET v = v || 'x' WHERE id % 7 = 0; SELECT orbit_flush(); CHECKPOINT") }

sub eventually { return OrbitNode::eventually($_[0], 60) }

# How many of these are gone.
sub gone
{
	my %left = map { $_ => 1 } snapshots();
	return scalar(grep { !$left{$_} } @_);
}

sub only_two { return eventually(sub { snapshots() == 2 }) }

# More checkpoints than a backup that had begun before would keep snapshots of, and time to remove them.
sub go_on
{
	churn() for 1 .. 10;
	sleep 3;
	return;
}

sub session
{
	my ($statement) = @_;
	my $session = in_background($node, $statement);
	$session->query_until(qr/go/, "\\echo go\n");
	return $session;
}

sub run_in
{
	my ($session, $statement) = @_;
	$session->query_until(qr/it has run/, "$statement;\n\\echo it has run\n");
	return;
}

sql(q{CREATE TABLE t (id int PRIMARY KEY, v text) USING orbit; INSERT INTO t SELECT g, 'row ' || g FROM generate_series(1, 1000) g;
CREATE TABLE big (v text) USING heap; INSERT INTO big SELECT repeat(md5(g::text), 30) FROM generate_series(1, 20000) g});

# ---- base backups of one connection -------------------------------------------------------------------
my $connection = $node->background_psql('postgres', on_error_stop => 0, replication => 'database');
my $fast = q{BASE_BACKUP (TARGET 'blackhole', CHECKPOINT 'fast', WAIT false, MANIFEST 'no')};
run_in($connection, $fast);
is(sql('SELECT state FROM pg_stat_replication'), 'startup', 'after a base backup the connection makes none');
go_on();
ok(only_two(), 'and nothing is kept for it');
my @existing = snapshots();
$connection->query_until(qr/begun/, "\\echo begun\n" . $fast =~ s/WAIT false/WAIT false, MAX_RATE 1024/r . ";\n");
ok(eventually(sub { sql('SELECT state FROM pg_stat_replication') eq 'backup' }), 'another one of the same connection');
# as soon as its checkpoint is complete
ok(eventually(sub { sql(q{SELECT count(*) FROM pg_stat_progress_basebackup WHERE phase = 'streaming database files'}) }), 'copies');
@existing = (snapshots())[-1];
churn() for 1 .. 4;
sleep 3;
is(sql('SELECT state FROM pg_stat_replication'), 'backup', 'still');
is(gone(@existing), 0, 'it keeps what it needs');
run_in($connection, '');
go_on();
ok(only_two(), 'until it ends');
run_in($connection, q{BASE_BACKUP (TARGET 'server', TARGET_DETAIL '/nowhere/at/all', CHECKPOINT 'fast')});
is(sql('SELECT state FROM pg_stat_replication'), 'startup', 'one that fails is over too');
run_in($connection, $fast);
is(sql('SELECT state FROM pg_stat_replication'), 'startup', 'and the next one');
$connection->quit;

# ---- backups of one session -----------------------------------------------------------------------------
my $session = session(q{SELECT pg_backup_start('a', true)});
go_on();
run_in($session, 'SELECT lsn FROM pg_backup_stop(false)');
run_in($session, q{BEGIN; SELECT pg_backup_start('b', true)});
@existing = (snapshots())[-1];
go_on();
is(gone(@existing), 0, 'the second backup of a session has its own snapshots');
run_in($session, q{SELECT lsn FROM pg_backup_stop(false); SELECT pg_backup_start('c', true)});
@existing = (snapshots())[-1];
go_on();
is(gone(@existing), 0, 'also where both are of one transaction');
run_in($session, 'COMMIT');
go_on();
is(gone(@existing), 0, 'and after that');
run_in($session, 'SELECT lsn FROM pg_backup_stop(false)');
ok(only_two(), 'until it ends');

# plpgsql evaluates an expression of one transaction anew, without asking who may
run_in($session, q{CREATE PROCEDURE backups() LANGUAGE plpgsql AS $$
DECLARE
	label text; at pg_lsn;
BEGIN
	FOR i IN 1 .. 2 LOOP
		at := pg_backup_start('d' || i, true);
		IF i = 1 THEN
			PERFORM pg_advisory_lock(1);
			PERFORM pg_backup_stop(false);
		END IF;
	END LOOP;
END $$});
my $holder = session('SELECT pg_advisory_lock(1)');
$session->query_until(qr/begun/, "\\echo begun\nCALL backups();\n");
ok(eventually(sub { sql(q{SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted}) }), 'two in a loop: the first');
churn() for 1 .. 12;
$holder->quit;
run_in($session, '');
@existing = (snapshots())[-1];
go_on();
is(gone(@existing), 0, 'the second one in a loop');
$session->quit;
ok(only_two(), 'until the session ends');

# ---- sessions that read files ----------------------------------------------------------------------------
$session = session(q{SELECT count(*) FROM pg_ls_dir('.', true, false)});
go_on();
ok(only_two(), 'who lists directories copies nothing');
run_in($session, q{SELECT length(pg_read_binary_file('global/pg_control'))});
@existing = snapshots();
go_on();
is(gone(@existing), 0, 'who reads files does');
ok(snapshots() < 14, 'not all that are made later are kept: ' . scalar(snapshots()));
run_in($session, q{SELECT count(*) FROM pg_ls_dir('.', true, false)});
@existing = (snapshots())[-1];
go_on();
is(gone(@existing), 0, 'what it has listed now is kept');
$session->quit;
ok(only_two(), 'until the session ends');

# ---- pg_rewind from a running source that goes on ----------------------------------------------------------
$node->backup('for_standby');
my $other = PostgreSQL::Test::Cluster->new('other');
$other->init_from_backup($node, 'for_standby', has_streaming => 1);
$other->start;
$node->wait_for_catchup($other);
$other->promote;
$other->safe_psql('postgres', q{INSERT INTO t VALUES (-1, 'never'); CHECKPOINT});
$other->stop;
sql(q{INSERT INTO t VALUES (5000, 'only here'); INSERT INTO big SELECT repeat(md5(g::text), 30) FROM generate_series(1, 40000) g; CHECKPOINT});
my ($out, $err);
my $rewind = IPC::Run::start(
	[ 'pg_rewind', '--target-pgdata', $other->data_dir, '--source-server', $node->connstr('postgres') . ' application_name=rewinding', '--no-sync' ],
	'>', \$out, '2>', \$err);
# While it fetches what had been listed, which is more than a socket holds; then it makes a long pause.
# Its query alone would not do: it prepares the statement before it lists the files.
my $watch = $node->background_psql('postgres');
my ($caught, $until) = ('0', time + 60);
while ($caught ne '1' && $rewind->pumpable && time < $until)
{
	$caught = $watch->query_safe(q{SELECT count(*) FROM pg_stat_activity
		WHERE application_name = 'rewinding' AND query ~ 'unnest' AND wait_event = 'ClientWrite'});
}
$rewind->signal('STOP');
@existing = snapshots();
is($caught, '1', 'pg_rewind is met while it copies');
go_on();
is(gone($existing[-1]), 0, 'the snapshot that it copies stays');
$rewind->signal('CONT');
$rewind->finish;
is($?, 0, "pg_rewind succeeds: $err");
$watch->quit;
ok(only_two(), 'then it goes');
$other->append_conf('postgresql.conf', 'port = ' . $other->port . "\nunix_socket_directories = '" . $other->host . "'\nlisten_addresses = ''");
$other->enable_streaming($node);
$other->start;
$node->wait_for_catchup($other);
my $rows = 'SELECT count(*), sum(id), sum(length(v)) FROM t';
is($other->safe_psql('postgres', $rows), sql($rows), 'the rewound server has all rows');
$other->stop;

# ---- what nobody copies -----------------------------------------------------------------------------------
sub bytes
{
	my ($sum, %seen) = (0);
	for (glob("$dir/sst/* $dir/pgsql_tmp_live/*.sst"))
	{
		my @s = stat or next;
		$sum += $s[12] * 512 unless $seen{ $s[1] }++;
	}
	return $sum / 1024 / 1024;
}

# A table of about 10 MB comes and goes.
sub come_and_go
{
	sql(q{CREATE TABLE gone (id int PRIMARY KEY, v text) USING orbit;
INSERT INTO gone SELECT g, md5(g::text) || md5((g + 1)::text) || md5((g + 2)::text) FROM generate_series(1, 300000) g; CHECKPOINT; DROP TABLE gone});
	eventually(sub { sql('SELECT count(*) FROM orbit_storages() WHERE state <> $$in use$$') == 0 });
	sql('SELECT orbit_flush(); CHECKPOINT');
	return;
}

sql(q{ALTER SYSTEM SET orbit.snapshot_keep = '1h'; SELECT pg_reload_conf()});
my $least = bytes();
$session = session(q{SELECT pg_backup_start('e', true)});
come_and_go() for 1 .. 3;
sleep 3;
my $all = bytes();
ok($all > $least + 20, "a backup keeps all: $all MB, $least MB before");
my $held = sql('SELECT sum(held_bytes) / 1048576 FROM orbit_snapshots()');
# what two of them have is held by neither alone
ok($held > 8, "orbit_snapshots() tells: $held MB");
churn();
$session->quit;
ok(eventually(sub { bytes() < $least + 18 }), 'after it the oldest go until the others hold little: ' . bytes() . ' MB');
ok(snapshots() > 2, 'but not all');
come_and_go();
ok(eventually(sub { bytes() < $least + 32 }), 'also with another: ' . bytes() . ' MB');

# ---- orbit_snapshots() ------------------------------------------------------------------------------------
is(sql(q{SELECT string_agg(name, ' ' ORDER BY name) FROM orbit_snapshots()}), join(' ', snapshots()), 'orbit_snapshots() lists the directories');
is(sql(q{SELECT bool_and(files > 0 AND bytes > 0 AND held_bytes >= 0 AND timeline = 1 AND flushed_lsn <= pg_current_wal_lsn()
	AND covered_lsn <= pg_current_wal_lsn() AND made_at <= now() AND generation > 0) FROM orbit_snapshots()}), 't', 'with what they are');
sql('CREATE ROLE plain; CREATE ROLE watcher; GRANT pg_monitor TO watcher');
my ($rc, $stdout, $stderr) = $node->psql('postgres', 'SET ROLE plain; SELECT count(*) FROM orbit_snapshots()');
like($stderr, qr/permission denied for function orbit_snapshots/, 'not to everybody');
is(sql('SET ROLE watcher; SELECT count(*) > 0 FROM orbit_snapshots()'), 't', 'to pg_monitor');

$node->stop;
done_testing();
