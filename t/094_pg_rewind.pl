# pg_rewind: a primary fails, its standby takes over, and the old primary, which has gone on by
# itself and has flushed and compacted, becomes a standby of the new one: with a running source,
# and with a stopped one.  Nothing of its other life is left.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use PostgreSQL::Test::Utils;
use Test::More;
use OrbitBackup qw(backup_node load_start load_stop load_kill load_for done_count mark copy_is_right server_of has_orbit run_ok run_fails);
use OrbitNode qw(kill_all);

srand($ENV{ORBIT_SEED} // 1);
my $node = backup_node('one');

sub sql
{
	my ($server, $sql) = @_;
	return $server->safe_psql('postgres', $sql);
}

sub flush_and_compact
{
	my ($server) = @_;
	sql($server, 'SELECT orbit_flush(); CHECKPOINT') if has_orbit();
	return;
}

# A standby made by pg_basebackup, which keeps up.
sub standby_of
{
	my ($name, $primary) = @_;
	run_ok("pg_basebackup for $name", 'pg_basebackup', '-d', $primary->connstr('postgres'), '-D', $primary->backup_dir . "/$name",
		'-X', 'stream', '-c', 'fast', '--no-sync');
	my $standby = server_of($name, $primary->backup_dir . "/$name");
	$standby->enable_streaming($primary);
	$standby->start;
	return $standby;
}

# What the old primary does alone: rows that must not be seen again, in tables that both have,
# and in some of its own; files with the same numbers as those of the new primary.
sub other_life
{
	my ($old) = @_;
	mark($old, 666);
	my $load = load_start($old);
	load_for($old, 60);
	sql($old, q{CALL twin('INSERT INTO bk_bulk_@ SELECT -g, -g, 1, $q$never$q$ FROM generate_series(1, 3000) g');
		DO $d$ BEGIN	-- the load changes these rows too, in another order
			LOOP
				BEGIN
					CALL twin('UPDATE bk_rows_1_@ SET v = -5, pad = $q$never$q$');
					EXIT;
				EXCEPTION WHEN deadlock_detected THEN NULL;
				END;
			END LOOP;
		END $d$; CALL make_pair('bk_other');
		INSERT INTO bk_other_o SELECT g, g, 1, 'never' FROM generate_series(1, 3000) g;
		CALL twin('DROP TABLE bk_side_2_@'); CALL make_pair('bk_side_2')});
	flush_and_compact($old);
	load_for($old, 60);
	load_kill($load);
	return;
}

# A server that was killed; pg_rewind would recover it in single-user mode, which has no storage worker.
sub is_rewound
{
	my ($old, $new, $how, @source) = @_;
	my @rewind = ('pg_rewind', '--target-pgdata', $old->data_dir, '--no-sync', @source);
	kill_all($old->data_dir);
	$old->{_pid} = undef;
	run_fails("$how: a crashed server is refused", qr/postgres single-user mode in target cluster failed|cannot be recovered in single-user mode/,
		@rewind) if has_orbit();
	# By itself and without clients it recovers, and it is stopped.
	$old->start;
	$old->stop;
	system_or_bail('cp', $old->data_dir . '/postgresql.conf', $old->basedir . '/saved.conf');
	run_ok("$how: pg_rewind", @rewind);
	system_or_bail('cp', $old->basedir . '/saved.conf', $old->data_dir . '/postgresql.conf');
	return;
}

# What was locked by a transaction that the end of the old timeline cut off stays locked on a standby as long as an older
# transaction is prepared, on heap as well (StandbyReleaseOldLocks). Replay from behind that takes no such lock.
sub release_locks
{
	my ($old, $new) = @_;
	return unless sql($old, q{SELECT count(*) FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND locktype = 'relation' AND granted});
	sql($new, 'CHECKPOINT');
	$new->wait_for_catchup($old);
	sql($old, 'CHECKPOINT');
	$old->restart;
	$new->wait_for_catchup($old);
	return;
}

# The rewound server follows the new primary.
sub follows
{
	my ($old, $new, $how) = @_;
	$old->enable_streaming($new);
	$old->start;
	my $load = load_start($new);
	load_for($new, 60);
	load_stop($new, $load);
	$new->wait_for_catchup($old);
	release_locks($old, $new);
	is(sql($old, 'SELECT wrong()'), '', "$how: it has what the new primary has");
	is(sql($old, 'SELECT k FROM bk_mark_o ORDER BY k'), sql($new, 'SELECT k FROM bk_mark_o ORDER BY k'), "$how: the marks are the new primary's");
	is(sql($old, q{SELECT count(*) FROM bk_bulk_o WHERE k < 0}) . sql($old, q{SELECT count(*) FROM pg_class WHERE relname = 'bk_other_o'}), '00',
		"$how: nothing is left of its other life");
	is(sql($old, 'SELECT md5(string_agg(x::text, $$,$$ ORDER BY k)) FROM bk_rows_1_o x'),
		sql($new, 'SELECT md5(string_agg(x::text, $$,$$ ORDER BY k)) FROM bk_rows_1_o x'), "$how: the same rows as there");
	return;
}

# ---- from a running source -----------------------------------------------------------------------

my $two = standby_of('two', $node);
my $load = load_start($node);
load_for($node, 60);
mark($node, 1);
$node->wait_for_catchup($two);
$two->promote;
mark($two, 2);
load_kill($load);
other_life($node);
$load = load_start($two);
load_for($two, 60);
flush_and_compact($two);
is_rewound($node, $two, 'running source', '--source-server', $two->connstr('postgres'));
load_stop($two, $load);
follows($node, $two, 'running source');

# ---- from a stopped one ------------------------------------------------------------------------------

mark($two, 3);
$two->wait_for_catchup($node);
$node->promote;
mark($node, 4);
other_life($two);
flush_and_compact($node);
$node->stop;
is_rewound($two, $node, 'stopped source', '--source-pgdata', $node->data_dir);
$node->start;
follows($two, $node, 'stopped source');

# ---- and the rewound server takes over ---------------------------------------------------------------

$node->stop('immediate');
$two->promote;
copy_is_right($two, 'promoted again', 0, marks => '1,2,3,4');
$two->stop;
done_testing();
