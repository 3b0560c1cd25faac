# Snapshots where something is in their way: a standby, file systems without hard links, a full disk, directories
# that are damaged or of somebody else.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);
use OrbitNode qw(orbit_node set_stop clear_stop stop_at wait_stopped in_background wait_done worker_pid wait_recovered
  eventually write_file);
use OrbitFaults qw(use_faults set_fault clear_faults fault_hits fault_at_start);

my $node = orbit_node('one', { allows_streaming => 1 }, q{autovacuum = off}, q{orbit.snapshot_keep = '1h'}, q{orbit.reclaim_delay = '1h'}, q{restart_after_crash = on});
my $dir = $node->data_dir . '/orbit';
use_faults($node);

sub sql { return $node->safe_psql('postgres', shift) }

sub snapshots_of
{
	my ($data) = @_;
	return map { m{([^/]+)$} } sort glob("$data/orbit/snap-*");
}
sub snapshots { return snapshots_of($node->data_dir) }

sub field
{
	my ($data, $snapshot, $name) = @_;
	return slurp_file("$data/orbit/$snapshot/SNAPSHOT") =~ /^$name (\S+)/m ? $1 : undef;
}

my $query = 'SELECT count(*), sum(id), sum(length(v)) FROM t';
sql(q{CREATE TABLE t (id int PRIMARY KEY, v text) USING orbit; INSERT INTO t SELECT g, 'row ' || g FROM generate_series(1, 1000) g; CHECKPOINT});

# The copy of a data directory without the live directory, as a server of its own, which is started.
sub copy_starts
{
	my ($name, $from, $primary, %env) = @_;
	my $copy = PostgreSQL::Test::Cluster->new($name);
	my $data = $copy->data_dir;
	system('rm', '-rf', $data) == 0 && system('cp', '-a', $from, $data) == 0 or die 'cp';
	system('rm', '-rf', "$data/orbit/pgsql_tmp_live", "$data/postmaster.pid") == 0 or die 'rm';
	$copy->append_conf('postgresql.conf', 'port = ' . $copy->port . "\nunix_socket_directories = '" . $copy->host . "'\nlisten_addresses = ''");
	$copy->enable_streaming($primary) if $primary;
	local @ENV{ keys %env } = values %env;
	$copy->start;
	return $copy;
}

# ---- a full disk ---------------------------------------------------------------------------------------
# Each call once, on the pool, on the directory and on SNAPSHOT itself; then for some time.
for my $fault ([ 'link', '*/sst/*' ], [ 'create', '*/pgsql_tmp_snap/*' ], [ 'write', '*/pgsql_tmp_snap/MANIFEST*' ], [ 'sync', '*/pgsql_tmp_snap/*' ],
	[ 'write', '*/pgsql_tmp_snap/SNAPSHOT' ])
{
	my ($calls, $pattern) = @$fault;
	my $log = -s $node->logfile;
	my $number = set_fault($node, 'worker', $calls, $pattern, 'enospc', 0, 2);
	my $n = snapshots();
	sql("UPDATE t SET v = v || 'x' WHERE id % 9 = 0; CHECKPOINT");
	ok(fault_hits($node, $number) >= 2, "$calls of $pattern has failed");
	clear_faults($node, $number);
	ok($node->log_contains('could not make a snapshot of RocksDB|could not write file', $log), 'the log says so');
	is(scalar(snapshots()), $n + 1, 'and the checkpoint has its snapshot');
	ok(!-e "$dir/pgsql_tmp_snap", 'nothing is left over');
}
my $log = -s $node->logfile;
my $full = set_fault($node, 'worker', 'write', '*/pgsql_tmp_snap/SNAPSHOT', 'enospc');
my $redo = sql('SELECT redo_lsn FROM pg_control_checkpoint()');
my $checkpoint = in_background($node, 'CHECKPOINT');
$node->wait_for_log(qr/checkpoints have to wait until a snapshot of RocksDB can be made/, $log);
sql(q{INSERT INTO t SELECT g, 'meanwhile' FROM generate_series(2001, 2100) g; SELECT orbit_flush()});
is(sql('SELECT count(*) FROM t WHERE id > 2000'), 100, 'while the disk is full everything else goes on');
is(sql('SELECT redo_lsn FROM pg_control_checkpoint()'), $redo, 'the checkpoint waits');
clear_faults($node);
wait_done($node, 'CHECKPOINT');
isnt(sql('SELECT redo_lsn FROM pg_control_checkpoint()'), $redo, 'until there is space');
$checkpoint->quit;
my $right = sql($query);

# ---- no hard links ---------------------------------------------------------------------------------------
for my $error ('exdev', 'eperm', 'emlink')
{
	my $n = snapshots();
	my $number = set_fault($node, 'worker', 'link', '*', $error);
	sql("UPDATE t SET v = v || 'y' WHERE id % 5 = 0; SELECT orbit_flush(); CHECKPOINT");
	ok(fault_hits($node, $number) > 0, "$error: links have failed");
	is(scalar(snapshots()), $n + 1, "$error: there is a snapshot");
	my @own = grep { (stat)[3] == 1 } glob("$dir/sst/*.sst");
	ok(@own > 0, "$error: made of copies");
	clear_faults($node, $number);
}
$right = sql($query);
$node->stop('immediate');
my $copy = copy_starts('unlinked', $node->data_dir, undef, ORBIT_FAULTS => fault_at_start('worker', 'link', '*', 'eperm'));
is($copy->safe_psql('postgres', $query), $right, 'a server made of it, without hard links too');
ok((grep { (stat)[3] == 1 } glob($copy->data_dir . '/orbit/pgsql_tmp_live/*.sst')) > 0, 'RocksDB has copies');
$copy->safe_psql('postgres', "UPDATE t SET v = v || 'z'; SELECT orbit_flush(); CHECKPOINT");
$copy->stop;
$node->start;
is(sql($query), $right, 'and this one after its crash');

# ---- what lies where snapshots lie -------------------------------------------------------------------------
sub snapshot_is_removed
{
	my ($what, $spoil, $why) = @_;
	sql("UPDATE t SET v = v WHERE id = 1; CHECKPOINT");
	my $spoiled = (snapshots())[-1];
	my $from = -s $node->logfile;
	$node->stop('immediate');
	$spoil->("$dir/$spoiled");
	$node->start;
	ok(eventually(sub { !-e "$dir/$spoiled" }), "$what: it is removed");
	like(substr(slurp_file($node->logfile), $from), $why, "$what: the log says why");
	is(sql($query), $right, "$what: the rows are those of the live directory");
	sql('CHECKPOINT');
	isnt((snapshots())[-1], $spoiled, "$what: the next one has another name");
	return;
}

snapshot_is_removed('an empty directory', sub { unlink glob("$_[0]/*") }, qr/removing an unusable snapshot of RocksDB/);
snapshot_is_removed('a directory cut short', sub { truncate "$_[0]/SNAPSHOT", 100 }, qr/SNAPSHOT" is damaged/);
snapshot_is_removed(
	'a missing file of the pool',
	sub {
		my ($number) = slurp_file("$_[0]/SNAPSHOT") =~ /^(\d+) \d+ \d+ \d+ \d+\nchecksum/m;
		unlink sprintf("$dir/sst/%06d.sst", $number) or die "no file $number";
	},
	qr/\.sst" is missing/);

# of another cluster: its SNAPSHOT is in order, and its files are there
my $other = orbit_node('other', { allows_streaming => 1 }, q{autovacuum = off});
$other->safe_psql('postgres', q{CREATE TABLE u (id int) USING orbit; INSERT INTO u VALUES (1); CHECKPOINT});
$other->stop;
my $foreign = (snapshots_of($other->data_dir))[-1];
snapshot_is_removed(
	'of another cluster',
	sub {
		system('rm', '-rf', $_[0]) == 0 && system('cp', '-a', $other->data_dir . "/orbit/$foreign", $_[0]) == 0 or die 'cp';
		for my $file (glob($other->data_dir . '/orbit/sst/*'))
		{
			my ($name) = $file =~ m{([^/]+)$};
			system('cp', $file, "$dir/sst/$name") == 0 or die 'cp' unless -e "$dir/sst/$name";
		}
	},
	qr/it belongs to another RocksDB storage/);
mkdir "$dir/snap-0000000000009999" or die;
write_file("$dir/snap-0000000000009999/SNAPSHOT", "orbit_fdw snapshot 1\n");
mkdir "$dir/snap-of-somebody" or die;
is(sql('SELECT count(*) = ' . (snapshots() - 2) . ' FROM orbit_snapshots()'), 't', 'orbit_snapshots() leaves out what it cannot read');
$node->restart;
ok(eventually(sub { !-e "$dir/snap-0000000000009999" }), 'the next start removes it');
ok(-e "$dir/snap-of-somebody", 'but nothing that has another name');
rmdir "$dir/snap-of-somebody";
is(sql($query), $right, 'rows');

# ---- a standby -----------------------------------------------------------------------------------------------
sql('CHECKPOINT');
$node->backup('standby');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'standby', has_streaming => 1);
$standby->start;
my $sdata = $standby->data_dir;
sub ssql { return $standby->safe_psql('postgres', shift) }

sql(q{INSERT INTO t SELECT g, 'later' FROM generate_series(3001, 3100) g});
$node->wait_for_catchup($standby);
my $old = (snapshots_of($sdata))[-1];

# A checkpoint record is not passed before the snapshot for it is there.
stop_at($standby, 'snapshot-before-rename');
sql('CHECKPOINT');
$redo = sql('SELECT redo_lsn FROM pg_control_checkpoint()');
ok(wait_stopped($standby, 'snapshot-before-rename') // 1, 'a standby makes a snapshot for a checkpoint record');
sleep 1;
is(ssql("SELECT pg_last_wal_replay_lsn() > '" . sql('SELECT checkpoint_lsn FROM pg_control_checkpoint()') . "'"), 'f', 'and replay waits for it');
is((snapshots_of($sdata))[-1], $old, 'for it is not there yet');
clear_stop($standby, 'snapshot-before-rename');
$node->wait_for_catchup($standby);
my $new = (snapshots_of($sdata))[-1];
isnt($new, $old, 'then it is');
is(sql("SELECT '" . field($sdata, $new, 'covered') . "'::pg_lsn >= '$redo'"), 't', 'and covers the redo pointer');
ssql('CHECKPOINT');
is(ssql('SELECT redo_lsn FROM pg_control_checkpoint()'), $redo, 'a restartpoint uses the record');
is(ssql('SELECT string_agg(name, $$ $$ ORDER BY name) FROM orbit_snapshots()'), join(' ', snapshots_of($sdata)), 'orbit_snapshots() of the standby');

# Killed while it is made: the same again.
my $pid = worker_pid($standby);
set_stop($standby, 'snapshot-after-links', 'kill', 0);
sql('INSERT INTO t VALUES (4000, $$after$$); CHECKPOINT');
ok(wait_recovered($standby, $pid), 'killed while it makes one, the standby comes back');
$node->wait_for_catchup($standby);
ok(!-e "$sdata/orbit/pgsql_tmp_snap", 'without leftovers');

# A server made of the standby's newest snapshot alone.
ssql('CHECKPOINT');
$standby->stop('immediate');
$right = sql($query);
my $second = copy_starts('second', $sdata, $node);
$node->wait_for_catchup($second);
is($second->safe_psql('postgres', $query), $right, 'a copy of the standby has all rows');
$second->stop;
$node->stop;
done_testing();
