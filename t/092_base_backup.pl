# Base backups under load: pg_basebackup from a primary, as directory and as tar, one after the
# other while files are flushed and compacted all the time; from a standby that replays; and
# copies by cp and tar between pg_backup_start and pg_backup_stop, with a live directory of
# RocksDB that is torn, or without.  Each is started, and its tables compared with their heap twins.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use Test::More;
use OrbitBackup qw(backup_node load_start load_stop load_for done_count copy_is_right server_of has_orbit run_ok run_fails);
use OrbitNode qw(start_is_refused write_file);

srand($ENV{ORBIT_SEED} // 1);
# No snapshot is kept but for the backups.
my $node = backup_node('primary', q{orbit.snapshot_keep = '1s'});
my $base = $node->backup_dir;
my %at_least;    # transactions that had been committed when the copy was begun

sub base_backup
{
	my ($name, $from, @options) = @_;
	$at_least{$name} = done_count($from);
	run_ok("pg_basebackup: $name", 'pg_basebackup', '-d', $from->connstr('postgres'), '-D', "$base/$name", '-X', 'stream',
		'-c', 'fast', '--no-sync', @options);
	return;
}

# Into a data directory, as its user would.
sub unpack_tar
{
	my ($name) = @_;
	rename("$base/$name", "$base/$name.tar") or die $!;
	mkdir("$base/$name", oct(700)) or die $!;
	system_or_bail('tar', '-xf', "$base/$name.tar/base.tar", '-C', "$base/$name");
	system_or_bail('tar', '-xf', "$base/$name.tar/pg_wal.tar", '-C', "$base/$name/pg_wal");
	system_or_bail('cp', "$base/$name.tar/backup_manifest", "$base/$name/");
	return;
}

sub verify
{
	my ($name) = @_;
	return run_ok("pg_verifybackup: $name", 'pg_verifybackup', "$base/$name");
}

# Recovers from the WAL that came with the copy, and becomes a primary of its own.
sub restore
{
	my ($name, %expected) = @_;
	my $server = server_of($name, "$base/$name", 'wal_keep_size = 0');
	$server->start;
	copy_is_right($server, $name, $at_least{$name}, %expected);
	$server->stop;
	return;
}

# ---- pg_basebackup from a primary -----------------------------------------------------------

my $load = load_start($node);
load_for($node, 100);
base_backup('plain', $node);
base_backup('tar', $node, '-F', 't');
base_backup('slow', $node, '--max-rate=16M');
load_for($node, 50);
base_backup('for_standby', $node);
base_backup('damaged', $node);

# ---- pg_basebackup from a standby ---------------------------------------------------------------

my $standby = server_of('standby', "$base/for_standby");
$standby->enable_streaming($node);
$standby->start;
load_for($node, 100);
$node->wait_for_catchup($standby);
base_backup('of_standby', $standby, '--max-rate=16M');

# ---- low-level copies ---------------------------------------------------------------------------

sub low_level
{
	my ($name, $copy) = @_;
	my $session = $node->background_psql('postgres');
	$at_least{$name} = done_count($node);
	$session->query_safe("SELECT pg_backup_start('$name', true)");
	# What vanishes on the way makes cp and tar complain.
	system($copy);
	load_for($node, 50);
	my $label = $session->query_safe('SELECT labelfile FROM pg_backup_stop(false)');
	$session->quit;
	my $data = "$base/$name";
	write_file("$data/backup_label", "$label\n");
	unlink "$data/postmaster.pid", "$data/postmaster.opts", glob("$data/pg_wal/0*");
	system_or_bail('sh', '-c', "cp -a '" . $node->data_dir . "'/pg_wal/0* '$data/pg_wal/'");
	return;
}

my $data = $node->data_dir;
low_level('copied', "cp -a '$data' '$base/copied' 2>'$base/cp.log'");
mkdir "$base/tarred";
low_level('tarred', "tar -C '$data' --exclude='pgsql_tmp*' --exclude=postmaster.pid -cf - . 2>'$base/tar.log' | tar -C '$base/tarred' -xf -");

my $compactions = has_orbit() ? $node->safe_psql('postgres', 'SELECT compactions FROM orbit_stat_reclaim()') : 99;
cmp_ok($compactions, '>', 10, 'files were compacted meanwhile');
load_stop($node, $load);
$node->wait_for_catchup($standby);
is($standby->safe_psql('postgres', 'SELECT count(*) = 0 FROM wrong()'), 't', 'the standby goes on');
$standby->stop;

# ---- and all of them again -------------------------------------------------------------------------

unpack_tar('tar');
verify($_) for 'plain', 'tar', 'slow', 'of_standby';
if (has_orbit())
{
	ok(!-d "$base/plain/orbit/pgsql_tmp_live", 'the live directory is not in a base backup');
	ok(-d "$base/copied/orbit/pgsql_tmp_live", 'it is in a plain copy');
	ok(!-d "$base/tarred/orbit/pgsql_tmp_live", 'but for one that leaves it out');
}
# Or it would be a standby again.
unlink "$base/of_standby/standby.signal" or die $!;
restore($_) for 'plain', 'of_standby', 'copied';
# what differs is the way here, not how they go on
restore($_, brief => 1) for 'tar', 'slow', 'tarred';
is($node->safe_psql('postgres', 'SELECT wrong(); SELECT wrong_inside()'), '', 'the primary itself');

# What the check would say of a row that is lost, and of one that comes back.
$node->safe_psql('postgres', 'DELETE FROM bk_bulk_o WHERE k = 5; UPDATE bk_ledger_o SET v = v + 1 WHERE k = 3');
my $found = $node->safe_psql('postgres', 'SELECT wrong()');
like($found, qr/bk_bulk_o: 1 rows differ, read by a scan\n.*bk_ledger_o: 2 rows differ.*sum is 1$/s, 'the check finds differences');

# ---- a copy that lacks files ---------------------------------------------------------------------------

if (has_orbit())
{
	my $server = server_of('damaged', "$base/damaged", 'wal_keep_size = 0');
	my $pool = $server->data_dir . '/orbit/sst';
	my $saved = $server->basedir . '/saved';
	system_or_bail('cp', '-a', $pool, $saved);
	run_fails('pg_verifybackup: files are missing', qr/"orbit\/sst\/\d+\.sst" is present in the manifest but not on disk/,
		'sh', '-c', "rm '$pool'/*; pg_verifybackup -n '" . $server->data_dir . "'");
	ok(start_is_refused($server), 'it does not start');
	my $log = slurp_file($server->logfile);
	like($log, qr/FATAL:  no usable snapshot of RocksDB in directory "orbit"/, 'the log says why');
	like($log, qr/Snapshot snap-\d+ cannot be used: file "orbit\/sst\/\d+\.sst" is missing/, 'and which file is missing');
	like($log, qr/HINT:  The copy of the data directory is not complete/, 'and what to do');
	system_or_bail('sh', '-c', "cp -a '$saved'/* '$pool'");
	$server->start;
	copy_is_right($server, 'with its files', $at_least{damaged});
	$server->stop;
}
$node->stop;
done_testing();
