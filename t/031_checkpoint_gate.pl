# A checkpoint or restartpoint is not complete before RocksDB holds everything
# logged before its redo pointer.
#
# The race of the gate: the worker flushes for an older reason; a checkpoint fixes its
# redo pointer and begins to wait for the worker; the worker's flush ends.  It must not
# release that checkpoint, for rows written since the seal lie before the new redo
# pointer and only in a write buffer.
use strict;
use warnings;
use FindBin;
use lib "$FindBin::RealBin/lib";
use Test::More;
use Time::HiRes qw(sleep);
use OrbitNode qw(orbit_node orbit_standby set_stop stop_at clear_stop wait_stopped in_background wait_done kill_all_and_start);
use OrbitNumbers qw(create_numbers insert_to summary expected);

my $node = orbit_node(
	'primary', { allows_streaming => 1 },
	q{orbit.write_buffer_size = '512kB'}, 'orbit.max_write_buffers = 4', q{orbit.flush_interval = '1h'},
	q{checkpoint_timeout = '1h'}, 'log_checkpoints = on', 'autovacuum = off');
create_numbers($node);
$node->safe_psql('postgres', 'CHECKPOINT');

sub running
{
	my ($n, $sql) = @_;
	return $n->safe_psql('postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND pid <> pg_backend_pid() AND query LIKE '$sql%'");
}

sub last_redo
{
	my ($n) = @_;
	return $n->safe_psql('postgres', 'SELECT redo_lsn FROM pg_control_checkpoint()');
}

sub covers_checkpoint
{
	my ($n) = @_;
	return $n->safe_psql('postgres',
		'SELECT covered_redo >= redo_lsn FROM orbit_stat_storage(), pg_control_checkpoint()');
}

# ---- a checkpoint flushes --------------------------------------------------------------

insert_to($node, 1, 1000);
$node->safe_psql('postgres', 'CHECKPOINT');
is(covers_checkpoint($node), 't', 'the checkpoint is covered');
is($node->safe_psql('postgres', 'SELECT sum(used) FROM orbit_stat_write_buffers()'),
	0, 'the checkpoint flushed the write buffers');
kill_all_and_start($node);
is(summary($node), expected(1000), 'rows before the redo pointer are there');

# ---- idle checkpoints end, wherever the log position lies ---------------------------------

my $before = time;
for my $round (1 .. 20)
{
	$node->safe_psql('postgres',
		"SELECT pg_logical_emit_message(false, 'x', repeat('y', $round * 37)); CHECKPOINT");
}
cmp_ok(time - $before, '<', 20, 'checkpoints of an idle server are quick');

# ---- the race -------------------------------------------------------------------------------

insert_to($node, 1001, 2000);
my $redo = last_redo($node);
stop_at($node, 'worker-after-flush');
my $flush = in_background($node, 'SELECT orbit_flush()');
wait_stopped($node, 'worker-after-flush');

# sealed and flushed up to here; these rows are in the next write buffer
insert_to($node, 2001, 3000);
my $checkpoint = in_background($node, 'CHECKPOINT');
ok($node->poll_query_until('postgres',
		"SELECT pg_current_wal_insert_lsn() > '$redo'"), 'the log has gone on');
$node->wait_for_log(qr/checkpoint starting: immediate force wait/, 0);
sleep 1;
is(running($node, 'CHECKPOINT'), 1, 'the checkpoint waits for the flush');

# Let the flush end, but stop the worker before it seals again.
stop_at($node, 'worker-before-seal');
clear_stop($node, 'worker-after-flush');
wait_stopped($node, 'worker-before-seal');
sleep 1;
is(running($node, 'CHECKPOINT'), 1, 'a flush sealed before the redo pointer does not release the checkpoint');
is(last_redo($node), $redo, 'the checkpoint is not complete');
kill_all_and_start($node);
is(summary($node), expected(3000), 'no row is lost when all is killed then');
eval { $_->quit } for ($flush, $checkpoint);

# The same without the crash: it completes once the second flush is done.
insert_to($node, 3001, 4000);
stop_at($node, 'worker-after-flush');
$flush = in_background($node, 'SELECT orbit_flush()');
wait_stopped($node, 'worker-after-flush');
insert_to($node, 4001, 5000);
$checkpoint = in_background($node, 'CHECKPOINT');
sleep 1;
is(running($node, 'CHECKPOINT'), 1, 'the checkpoint waits');
clear_stop($node, 'worker-after-flush');
ok(wait_done($node, 'CHECKPOINT'), 'the checkpoint completes');
is(covers_checkpoint($node), 't', 'and is covered');
eval { $_->quit } for ($flush, $checkpoint);
kill_all_and_start($node);
is(summary($node), expected(5000), 'rows after the checkpoint and a crash');

# A worker that is stopped right before it releases: a newer redo pointer cannot exist while
# a checkpoint waits, so rows written now are only ever after it.
insert_to($node, 5001, 5500);
stop_at($node, 'worker-before-bump');
$checkpoint = in_background($node, 'CHECKPOINT');
wait_stopped($node, 'worker-before-bump');
insert_to($node, 5501, 6000);
clear_stop($node, 'worker-before-bump');
ok(wait_done($node, 'CHECKPOINT'), 'a checkpoint during the release completes');
eval { $checkpoint->quit };
kill_all_and_start($node);
is(summary($node), expected(6000), 'rows around the release');

# ---- no flush, no checkpoint --------------------------------------------------------------------

insert_to($node, 6001, 7000);
$redo = last_redo($node);
set_stop($node, 'flush-no-space', 'fail', 0);
$checkpoint = in_background($node, 'CHECKPOINT');
sleep 2;
is(last_redo($node), $redo, 'no checkpoint completes while flushes fail');
kill_all_and_start($node);
eval { $checkpoint->quit };
is(summary($node), expected(7000), 'rows after flushes that failed');

# ---- restartpoints and promotion --------------------------------------------------------------------

my $standby = orbit_standby($node);

insert_to($node, 7001, 8000);
$node->safe_psql('postgres', 'CHECKPOINT');
$node->wait_for_catchup($standby);
$redo = last_redo($standby);
$standby->safe_psql('postgres', 'CHECKPOINT');
isnt(last_redo($standby), $redo, 'the standby made a restartpoint');
is(covers_checkpoint($standby), 't', 'the restartpoint is covered');
kill_all_and_start($standby);
$node->wait_for_catchup($standby);
is(summary($standby), expected(8000), 'rows before the restartpoint are there');

# Redo waits at the checkpoint record while the flush cannot end.
stop_at($standby, 'worker-after-flush');
insert_to($node, 8001, 9000);
$node->safe_psql('postgres', 'CHECKPOINT');
wait_stopped($standby, 'worker-after-flush');
$redo = last_redo($standby);
$checkpoint = in_background($standby, 'CHECKPOINT');
sleep 1;
is(last_redo($standby), $redo, 'no restartpoint before the flush ends');
kill_all_and_start($standby);
eval { $checkpoint->quit };
$node->wait_for_catchup($standby);
is(summary($standby), expected(9000), 'kill -9 during that flush');

insert_to($node, 9001, 10000);
$node->wait_for_catchup($standby);
$node->stop('immediate');
$standby->promote;
insert_to($standby, 10001, 11000);
is(summary($standby), expected(11000), 'the promoted server takes rows');
$standby->safe_psql('postgres', 'CHECKPOINT');
is(covers_checkpoint($standby), 't', 'its checkpoint is covered');
insert_to($standby, 11001, 12000);
kill_all_and_start($standby);
is(summary($standby), expected(12000), 'kill -9 after the promotion');

$standby->stop('fast');
done_testing();
