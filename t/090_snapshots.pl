# Snapshots of RocksDB for backups: when they are made, which are kept, when they go, and a crash at each step.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);
use OrbitNode qw(orbit_node stop_at set_stop clear_stop wait_stopped in_background wait_done wait_recovered
  worker_pid kill_all_and_start eventually);

my $node = orbit_node('snap', { allows_streaming => 1 }, q{autovacuum = off}, q{orbit.snapshot_keep = '1h'}, q{max_wal_senders = 5}, q{restart_after_crash = on},
	q{orbit.reclaim_delay = '1h'});
my $dir = $node->data_dir . '/orbit';

sub sql { return $node->safe_psql('postgres', shift) }
sub snapshots { return map { m{([^/]+)$} } sort glob("$dir/snap-*") }
sub newest { return (snapshots())[-1] }

sub keep
{
	my ($time) = @_;
	sql("ALTER SYSTEM SET orbit.snapshot_keep = '$time'");
	sql('SELECT pg_reload_conf()');
	return;
}

# What its SNAPSHOT says under this name.
sub field
{
	my ($snapshot, $name) = @_;
	return slurp_file("$dir/$snapshot/SNAPSHOT") =~ /^$name (\S+)/m ? $1 : undef;
}

# The pool's files, and the files that snapshots name.
sub pool { return join ' ', map { m{([^/]+)$} } sort glob("$dir/sst/*") }

sub named
{
	my %names;
	for my $snapshot (snapshots())
	{
		my $text = slurp_file("$dir/$snapshot/SNAPSHOT");
		$names{ sprintf '%06d.sst', $1 } = 1 while $text =~ /^(\d+) \d+ \d+ \d+ \d+$/mg;
	}
	return join ' ', sort keys %names;
}

sub churn { return sql("UPDATE t SET v = v || 'x' WHERE id % 7 = 0; SELECT orbit_flush(); CHECKPOINT") }

# ---- made by checkpoints -----------------------------------------------------------------------
sql(q{CREATE TABLE t (id int PRIMARY KEY, v text) USING orbit; INSERT INTO t SELECT g, 'row ' || g FROM generate_series(1, 1000) g});
sql('CHECKPOINT');
my $redo = sql('SELECT redo_lsn FROM pg_control_checkpoint()');
is(sql("SELECT '" . field(newest(), 'covered') . "'::pg_lsn >= '$redo'"), 't', 'a completed checkpoint has a snapshot that covers it');
my $n = snapshots();
sql("SELECT pg_switch_wal(); CREATE TABLE h (i int) USING heap; CHECKPOINT");
$redo = sql('SELECT redo_lsn FROM pg_control_checkpoint()');
is(sql("SELECT '" . field(newest(), 'covered') . "'::pg_lsn >= '$redo'"), 't', 'also one during which nothing was written to orbit tables');
is(pool(), named(), 'the pool holds what the snapshots name');
my ($same) = grep { (stat)[3] > 1 } glob("$dir/sst/*.sst");
ok($same, 'they are hard links');

# ---- a checkpoint waits for its snapshot ---------------------------------------------------------
stop_at($node, 'snapshot-before-rename');
sql('INSERT INTO t VALUES (2000)');
my $before = sql('SELECT redo_lsn FROM pg_control_checkpoint()');
my $checkpoint = in_background($node, 'CHECKPOINT');
wait_stopped($node, 'snapshot-before-rename');
sleep 1;
is(sql('SELECT redo_lsn FROM pg_control_checkpoint()'), $before, 'a checkpoint is not complete before its snapshot is');
clear_stop($node, 'snapshot-before-rename');
wait_done($node, 'CHECKPOINT');
isnt(sql('SELECT redo_lsn FROM pg_control_checkpoint()'), $before, 'then it is');
$checkpoint->quit;

# ---- one that cannot be made ----------------------------------------------------------------------
my $log = -s $node->logfile;
set_stop($node, 'snapshot-after-links', 'error', 0);
$n = snapshots();
$checkpoint = in_background($node, 'CHECKPOINT');
$node->wait_for_log(qr/could not make a snapshot of RocksDB.*\n.*checkpoints have to wait/s, $log);
clear_stop($node, 'snapshot-after-links');
wait_done($node, 'CHECKPOINT');
ok(snapshots() > $n, 'a failed one is made again');
ok($node->log_contains('snapshots of RocksDB can be made again', $log), 'and the log says so');
is(sql('SELECT count(*) FROM t'), 1001, 'nothing else came of it');
$checkpoint->quit;

# ---- crashes while one is made ----------------------------------------------------------------------
for my $point ('snapshot-after-links', 'snapshot-before-rename', 'snapshot-made')
{
	my $pid = worker_pid($node);
	set_stop($node, $point, 'kill', 0);
	$node->psql('postgres', "INSERT INTO t VALUES (3000) ON CONFLICT DO NOTHING; CHECKPOINT");
	ok(wait_recovered($node, $pid), "$point: the server comes back");
	ok(!-e "$dir/pgsql_tmp_snap", "$point: nothing is left over");
	is(pool(), named(), "$point: the pool holds what the snapshots name");
	churn();
}
is(sql('SELECT count(*) FROM t'), 1002, 'the rows are there');

# ---- which are kept ---------------------------------------------------------------------------------
ok(snapshots() > 4, 'superseded snapshots are kept for orbit.snapshot_keep');
keep('1s');
ok(eventually(sub { snapshots() == 2 }), 'after it, the newest two stay');
is(pool(), named(), 'and their files');
set_stop($node, 'snapshot-removing', 'kill', 0);
my $pid = worker_pid($node);
churn();
ok(wait_recovered($node, $pid), 'killed while one is removed, the server comes back');
ok(!-e "$dir/pgsql_tmp_snap_old", 'without leftovers');
churn();
ok(eventually(sub { snapshots() == 2 and pool() eq named() }), 'and goes on removing');

# ---- a backup of a session ----------------------------------------------------------------------------
my @existing = snapshots();
my $backup = in_background($node, q{SELECT pg_backup_start('b', true)});
$backup->query_until(qr/./, "SELECT 1;\n");
wait_done($node, 'SELECT pg_backup_start');
my $first = newest();
churn() for 1 .. 12;
sleep 3;
my %left = map { $_ => 1 } snapshots();
is(scalar(grep { $left{$_} } @existing), scalar(@existing), 'those that were there when a backup began stay');
ok($left{$first}, 'so does that of its checkpoint');
ok(scalar(snapshots()) >= 10 && scalar(snapshots()) < 15, 'and the next ones; of later ones only the newest: ' . join(' ', snapshots()));
is(pool(), named(), 'with all their files');
$backup->query_until(qr/stopped/, "SELECT 'stopped' FROM pg_backup_stop(false);\n");
churn();
ok(eventually(sub { snapshots() == 2 }), 'after the backup they go');
$backup->quit;

# ... that is aborted, or whose session ends
$backup = in_background($node, q{SELECT pg_backup_start('b', true)});
wait_done($node, 'SELECT pg_backup_start');
churn() for 1 .. 4;
sleep 2;
ok(snapshots() > 4, 'another backup');
$backup->quit;
ok(eventually(sub { snapshots() == 2 }), 'its session has ended');
sql(q{DO $$ BEGIN PERFORM pg_backup_start('b', true); RAISE EXCEPTION 'no'; EXCEPTION WHEN OTHERS THEN NULL; END $$});
churn() for 1 .. 3;
ok(eventually(sub { snapshots() == 2 }), 'a session that has ended after an error in a block is no backup');

# ---- pg_basebackup --------------------------------------------------------------------------------------
sql(q{CREATE TABLE big (v text) USING heap; INSERT INTO big SELECT repeat(md5(g::text), 30) FROM generate_series(1, 6000) g});
@existing = snapshots();
my $target = $node->basedir . '/slow';
my $slow = IPC::Run::start(
	[ 'pg_basebackup', '-D', $target, '-h', $node->host, '-p', $node->port, '--checkpoint=fast', '--no-sync', '--max-rate=2M', '-X', 'stream' ],
	'>', \my $out, '2>', \my $err);
$node->poll_query_until('postgres', q{SELECT count(*) > 0 FROM pg_stat_progress_basebackup WHERE phase = 'streaming database files'});
churn() for 1 .. 3;
sleep 2;
%left = map { $_ => 1 } snapshots();
is(scalar(grep { $left{$_} } @existing), scalar(@existing), 'pg_basebackup: what was there stays');
ok(snapshots() >= 5, 'and what is made meanwhile');
$slow->finish;
is($?, 0, 'pg_basebackup succeeds');
ok(eventually(sub { snapshots() == 2 }), 'then they go');

my $copy = PostgreSQL::Test::Cluster->new('copy');
rmdir $copy->data_dir;
system('mv', $target, $copy->data_dir) == 0 or die 'mv';
$copy->append_conf('postgresql.conf', 'port = ' . $copy->port . "\nunix_socket_directories = '" . $copy->host . "'\nlisten_addresses = ''");
$copy->start;
is($copy->safe_psql('postgres', 'SELECT count(*), max(id) FROM t'), '1002|3000', 'the backup has the rows');
like(slurp_file($copy->logfile), qr/restored RocksDB storage in directory "orbit" from snapshot snap-\d{16}/, 'and says from where');
$copy->stop;

# ---- an idle server -----------------------------------------------------------------------------------------
sub bytes
{
	my ($sum, %seen) = (0);
	for (glob("$dir/sst/* $dir/pgsql_tmp_live/*.sst"))
	{
		my @s = stat or next;
		$sum += $s[12] * 512 unless $seen{ $s[1] }++;
	}
	return $sum;
}
keep('1h');
sql(q{CREATE TABLE gone (id int PRIMARY KEY, v text) USING orbit;
INSERT INTO gone SELECT g, md5(g::text) || md5((g + 1)::text) || md5((g + 2)::text) FROM generate_series(1, 100000) g; CHECKPOINT});
sql('SELECT orbit_flush(); CHECKPOINT');
sql(q{ALTER SYSTEM SET orbit.collect_interval = '100ms'; DROP TABLE gone; SELECT pg_reload_conf()});
my $full = bytes();
sleep 3;
ok(bytes() > $full / 2, 'snapshots hold what was dropped');
keep('1s');
ok(eventually(sub { bytes() < $full / 4 }), 'on a server where nothing happens the space comes back: ' . $full . ', ' . bytes());
$n = newest();
sleep 4;
is(newest(), $n, 'and then it is quiet');
is(sql('SELECT count(*) FROM t'), 1002, 'rows');

kill_all_and_start($node);
is(sql('SELECT count(*) FROM t'), 1002, 'rows after kill -9');
is(pool(), named(), 'the pool');
$node->stop;
done_testing();
