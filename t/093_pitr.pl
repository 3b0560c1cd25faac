# Point-in-time recovery from a base backup and archived WAL, taken under load: to a named
# restore point, to a time, to a transaction id with it and without it, to the end of the WAL,
# and on the new timeline of a server that was itself recovered to a point.  Each time the tables
# equal their heap twins, and the marks say that it is the right point.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);
use OrbitBackup qw(backup_node load_start load_stop load_for done_count mark copy_is_right server_of run_ok);
use OrbitNode qw(start_is_refused write_file);

srand($ENV{ORBIT_SEED} // 1);
my $node = backup_node('primary', { has_archiving => 1 }, q{archive_timeout = '5s'}, q{orbit.snapshot_keep = '1s'});
my $base = $node->backup_dir;
my $archive = $node->archive_dir;
my %done;    # transactions committed before each mark
my %xid;
my %time;

sub set_mark
{
	my ($server, $n) = @_;
	$done{$n} = done_count($server);
	$xid{$n} = $server->safe_psql('postgres', "BEGIN; CALL twin('INSERT INTO bk_mark_@ VALUES ($n, $n, $n % 97, \$q\$mark\$q\$)'); SELECT pg_current_xact_id(); COMMIT");
	# Recovery to a time stops before the first commit that is later.
	sleep 0.05;
	$time{$n} = $server->safe_psql('postgres', 'SELECT clock_timestamp()');
	$server->safe_psql('postgres', "SELECT pg_create_restore_point('mark $n')");
	load_for($server, 40);
	return;
}

# The server's whole WAL is in the archive.
sub archive_all
{
	my ($server) = @_;
	my $last = $server->safe_psql('postgres', 'SELECT pg_walfile_name(pg_switch_wal())');
	$server->poll_query_until('postgres', "SELECT last_archived_wal >= '$last' FROM pg_stat_archiver") or die 'the WAL is not archived';
	return;
}

# A copy of the base backup that is to recover.
sub recovering
{
	my ($name, @target) = @_;
	system_or_bail('cp', '-a', "$base/base", "$base/$name");
	write_file("$base/$name/recovery.signal", '');
	return server_of($name, "$base/$name", "restore_command = 'cp \"$archive/%f\" \"%p\"'", 'wal_keep_size = 0', @target);
}

sub recover
{
	my $server = recovering(@_);
	$server->start;
	return $server;
}

# ---- a base backup, and what follows -------------------------------------------------------------

my $load = load_start($node);
load_for($node, 60);
set_mark($node, 1);
run_ok('pg_basebackup without WAL', 'pg_basebackup', '-d', $node->connstr('postgres'), '-D', "$base/base", '-X', 'none', '-c', 'fast', '--no-sync');
set_mark($node, 2);
set_mark($node, 3);
set_mark($node, 4);
load_stop($node, $load);
mark($node, 5);
# A mishap.
$node->safe_psql('postgres', 'DROP TABLE bk_bulk_o; TRUNCATE bk_rows_1_o; DELETE FROM bk_rows_2_o; UPDATE bk_rows_3_o SET v = -7');
archive_all($node);

# ---- points in time ----------------------------------------------------------------------------------

sub recovers_to
{
	my ($name, $marks, @target) = @_;
	my $server = recover($name, @target, q{recovery_target_action = 'promote'}, 'archive_mode = off');
	my ($last) = $marks =~ /(\d+)$/;
	copy_is_right($server, $name, $done{$last}, marks => $marks, brief => $name ne 'along_two_timelines');
	$server->stop;
	return;
}

recovers_to('named_point', '1,2,3', q{recovery_target_name = 'mark 3'});
recovers_to('time', '1,2', "recovery_target_time = '$time{2}'");
recovers_to('xid_included', '1,2,3', "recovery_target_xid = '$xid{3}'");
recovers_to('xid_excluded', '1,2', "recovery_target_xid = '$xid{3}'", 'recovery_target_inclusive = off');

# ---- a new timeline -------------------------------------------------------------------------------------

my $second = recover('second', q{recovery_target_name = 'mark 4'}, q{recovery_target_action = 'promote'});
$second->poll_query_until('postgres', 'SELECT NOT pg_is_in_recovery()') or die 'recovery does not end';
is($second->safe_psql('postgres', 'SELECT wrong()'), '', 'promoted at a point');
is($second->safe_psql('postgres', 'SELECT timeline_id FROM pg_control_checkpoint()'), 2, 'it has a timeline of its own');
$load = load_start($second);
set_mark($second, 12);
set_mark($second, 13);
load_stop($second, $load);
$second->safe_psql('postgres', 'TRUNCATE bk_rows_2_o');
archive_all($second);
$second->stop('immediate');

recovers_to('along_two_timelines', '1,2,3,4,12', q{recovery_target_name = 'mark 12'}, q{recovery_target_timeline = 'latest'});
recovers_to('the_first_timeline', '1,2,3,4', q{recovery_target_name = 'mark 4'}, q{recovery_target_timeline = 'current'});

# ---- what cannot be --------------------------------------------------------------------------------------

my $early = recovering('early', q{recovery_target_name = 'mark 1'});
ok(start_is_refused($early), 'a server that is to stop before its backup does not start');
like(slurp_file($early->logfile), qr/recovery ended before configured recovery target was reached/, 'it says why');

$node->stop;
done_testing();
